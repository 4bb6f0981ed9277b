"""Builds the report's sections on cost, configuration and id audit of runs."""

import collections
from collections.abc import Callable, Sequence
import json
import shlex
from typing import Any

from lightlm_jax import config as config_lib
from lightlm_jax.reporting.advice import config_flags, quoted
from lightlm_jax.reporting.run_files import Run, at


def cost(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
  """Returns a table of size, speed, versions and devices, with a column per run."""
  packages = {p: None for run in runs for p in at(run.results, "versions") or ()}
  table = []
  for name, path, text in [*_ROWS, *((p, ("versions", p), str) for p in packages)]:
    values = [at(run.results, *path) for run in runs]
    if any(found is not None for found in values):
      table.append((name, ["–" if found is None else text(found) for found in values]))
  return table


def configs(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns {"all": each run's fields, "different": those with different values}."""
  flat = {
    run.name: {
      name: json.dumps(value)
      for name, value in sorted(config_lib.own_fields(run.config).items())
    }
    for run in runs
  }
  names = sorted(set().union(*flat.values()))
  rows = {name: [found.get(name, "–") for found in flat.values()] for name in names}
  different = {name: values for name, values in rows.items() if len(set(values)) > 1}
  return {"different": different, "all": flat}


def audits(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Returns for each run whether its ids were audited, and with which result."""
  return [{"run": run.name, "lines": [], "command": None} | _audit(run) for run in runs]


def _audit(run: Run) -> dict[str, Any]:
  split = run.config.get("split") or {}
  command = None
  if run.book is None and run.results and not run.results.get("ids"):
    why = "this system uses no ids, and only ids are audited"
  elif split.get("kind") == "none":
    why = "nothing is held out, so nothing could leak into the ids"
  elif split.get("withheld"):
    why = "the audit does not support items withheld from training"
  elif not run.audit:
    why, command = "this audits them:", _audit_command(run)
  elif other := _other_audit(run):
    why, command = f"{other}; this audits the ids of the run:", _audit_command(run)
  else:
    passed = run.audit.get("passed") is True
    lines = [str(line) for line in run.audit.get("failures") or ()]
    if not passed and not lines:
      lines = ["the audit failed without details"]
    figures = _audit_figures(run.audit)
    state = "passed" if passed else "failed"
    return {"state": state, "lines": lines, "figures": figures}
  return {"state": "not audited", "why": why, "command": command, "figures": []}


def _other_audit(run: Run) -> str | None:
  """Returns why `run.audit` is not of the run's ids and split; None if it is."""
  audited = at(run.audit, "ids", "manifest_sha256")
  if audited is None:
    return "the audit does not name its ids"
  of_run = at(run.results, "ids", "manifest_sha256")
  if audited != (of_run or (run.book and run.book.sha256)):
    return f"the audit is of other ids ({str(audited)[:16]}…)"
  if run.results and run.audit.get("split_sha256") != run.results.get("split_sha256"):
    return "the audit is of another split than the run's"
  return None


def _audit_command(run: Run) -> str:
  if not config_lib.lacking(run.config):
    return f"python -m lightlm_jax.audit --workdir={quoted(run)}"
  # `audit` cannot read config.json of this older version, so flags replace it.
  flags = config_flags(run, ("data", "ids", "split", "seed"))
  report = f"--report={quoted(run)}/audit.json"
  return " ".join(["python -m lightlm_jax.audit", *map(shlex.quote, flags), report])


def _audit_figures(audit: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns (name, result) of each check in an audit; older audits have fewer."""
  figures = [
    (f"ids unchanged by exchange: {name.replace('_', ' ')}", _plain(value))
    for name, value in (audit.get("exchange") or {}).items()
  ]
  for name, trial in (audit.get("renumber") or {}).items():
    others = ", ".join(_plain(value) for value in trial.get("other_seeds") or ())
    as_is, renumbered = (_plain(trial.get(key)) for key in ("as_is", "renumbered"))
    figures.append((name, f"{as_is}; renumbered {renumbered}; other seeds {others}"))
  names = {
    "spearman_last_token": "Spearman correlation of last token and raw number",
    "held_out_edges": "held-out interactions read",
  }
  known = [(name, audit[field]) for field, name in names.items() if field in audit]
  return figures + [(name, _plain(value)) for name, value in known]


def _plain(value: Any) -> str:
  if isinstance(value, bool):
    return "yes" if value else "no"
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _devices(kinds: Sequence[str]) -> str:
  counts = collections.Counter(kinds)
  return ", ".join(f"{count} × {kind}" for kind, count in counts.items())


def _duration(seconds: float) -> str:
  minutes, rest = divmod(round(seconds), 60)
  if not minutes:
    return f"{seconds:.1f} s"
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


_whole = "{:,.0f}".format
# (name, path in results.json, formatter) of each row of `cost`.
_ROWS: list[tuple[str, tuple[str, ...], Callable[[Any], str]]] = [
  ("system", ("system",), str),
  ("preset", ("preset",), str),
  ("seed", ("seed",), str),
  ("ids", ("ids", "kind"), str),
  ("decoding", ("decoding",), str),
  ("parameters", ("params", "total"), _whole),
  ("outside the embeddings", ("params", "non_embedding"), _whole),
  ("steps", ("steps",), _whole),
  ("best step", ("best_step",), _whole),
  ("training", ("train_seconds",), _duration),
  ("examples/s, training", ("examples_per_second",), _whole),
  ("users/s, evaluation", ("users_per_second",), _whole),
  ("invalid beams without the trie", ("hallucination_rate",), "{:.1%}".format),
  ("devices", ("devices",), _devices),
]
