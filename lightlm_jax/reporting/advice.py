"""Builds lines of the report: what a run lacks, and the command that writes it."""

from collections.abc import Callable, Sequence
import json
import shlex
from typing import Any

from lightlm_jax import config as config_lib
from lightlm_jax.reporting.run_files import Run, at
from lightlm_jax.runtime.errors import UserError


def note(text: str, command: str | None = None) -> dict[str, str | None]:
  """Returns a line of a section: a text and, if given, a command to copy."""
  return {"text": text, "command": command}


def missing(run: Run, what: str) -> dict[str, str | None]:
  """Returns a line that says that a run lacks `what`, and the command to write it."""
  older = config_lib.lacking(run.config)
  if not older:
    command = f"python -m lightlm_jax.evaluate --workdir={quoted(run)}"
    if run.results["split"] == "validation":
      command += " --split=validation"
    return note(f"{run.name} has no {what}; this writes it", command)
  return note(
    f"{run.name} has no {what}, and `evaluate` refuses its older version "
    f"(it has no {', '.join(older[:2])}). This trains it again",
    train(run, anew=True),
  )


def without(
  runs: Sequence[Run], what: str, has: Callable[[Run], Any]
) -> list[dict[str, str | None]]:
  """Returns the line of `missing` for each evaluated run for which `has` is false."""
  measured = [run for run in runs if at(run.results, "metrics")]
  return [missing(run, what) for run in measured if not has(run)]


def evaluate(run: Run, results: dict[str, Any]) -> str:
  """Returns the command for the evaluation of `run` that gave `results`."""
  flags = [f"--workdir={quoted(run)}", f"--decoding={results['decoding']}"]
  if results["split"] == "validation":
    flags.append("--split=validation")
  if results["decoding"] == "beam":
    flags.append(f"--beam_size={results['beam_size']}")
  if results["num_users"] != run.results.get("num_users"):
    flags.append(f"--users={results['num_users']}")
  return " ".join(["python -m lightlm_jax.evaluate", *flags])


def train(run: Run, *, anew: bool = False) -> str:
  """Returns the command to resume a run or, if `anew`, to train it in a new workdir."""
  workdir = shlex.quote(f"{run.workdir}-anew") if anew else quoted(run)
  flags = map(shlex.quote, config_flags(run))
  return " ".join(["python -m lightlm_jax.train", *flags, f"--workdir={workdir}"])


def quoted(run: Run) -> str:
  return shlex.quote(str(run.workdir))


def config_flags(run: Run, groups: tuple[str, ...] = ()) -> list[str]:
  """Returns --config=NAME:PRESET and the overrides that give a run's configuration.

  If `groups` are given, overrides of fields in other config groups are left out.
  """
  fields = config_lib.own_fields(run.config)
  system = fields.get("system")
  known = set(config_lib.available())
  names = {str(system), str(fields.get("data.name"))} & known
  found = []
  for name in sorted(names or {"toys"} & known):
    preset = fields.get("preset")
    preset = preset if preset in config_lib.presets(name) else None
    card = config_lib.load(name, preset)
    try:
      theirs = config_lib.to_flat(config_lib.replace(card, {"system": system}))
    except UserError:
      continue  # a config file that the system cannot start from
    overrides = {"system": system} if card.system != system else {}
    overrides |= {
      field: tuple(value) if isinstance(value, list) else value
      for field, value in fields.items()
      if field != "preset" and json.dumps(theirs.get(field)) != json.dumps(value)
      if field in theirs and (not groups or field.split(".")[0] in groups)
    }
    found.append((f"{name}:{preset}" if preset else name, overrides))
  if not found:
    return ["--config=CONFIG"]
  name, overrides = min(found, key=lambda card: len(card[1]))
  flags = (f"--config.{field}={value}" for field, value in overrides.items())
  return [f"--config={name}", *flags]
