"""Cost, configuration and id audit of runs, as sections of the report."""

from collections.abc import Callable, Sequence
import itertools
import json
import shlex
from typing import Any

from lightlm_jax import config as config_lib
from lightlm_jax.reporting.advice import config_flags, quoted
from lightlm_jax.reporting.run_files import Run, at


def cost(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns size, speed, versions and devices: a row a figure, a column a run."""
  packages = {p: None for run in runs for p in at(run.results, "versions") or ()}
  rows = [*_ROWS, *((name, ("versions", name), str) for name in packages)]
  table = []
  for name, path, text in rows:
    values = [at(run.results, *path) for run in runs]
    if any(found is not None for found in values):
      texts = ["–" if found is None else text(found) for found in values]
      table.append({"name": name, "values": texts})
  return {"runs": [run.name for run in runs], "rows": table}


def configs(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns the fields of every configuration, and those in which runs differ."""
  flat = [
    {name: json.dumps(value) for name, value in sorted(fields.items())}
    for fields in (config_lib.own_fields(run.config) for run in runs)
  ]
  names = sorted(set().union(*flat))
  different = [
    {"name": name, "values": [fields.get(name, "–") for fields in flat]}
    for name in names
    if len({fields.get(name) for fields in flat}) > 1
  ]
  return {
    "runs": [run.name for run in runs],
    "different": different,
    "all": [
      {"run": run.name, "fields": list(fields.items())}
      for run, fields in zip(runs, flat)
    ],
  }


def audits(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Returns for each run whether its ids were audited, and the result."""
  return [_audit(run) for run in runs]


def _audit(run: Run) -> dict[str, Any]:
  found = {"run": run.name, "lines": [], "figures": [], "command": None}
  split = run.config.get("split") or {}
  why, command = None, None
  if run.book is None and run.results and not run.results.get("ids"):
    why = "this system uses no ids, and only ids are audited"
  elif split.get("kind") == "none":
    why = "nothing is held out, so nothing could leak into the ids"
  elif split.get("withheld"):
    why = "the audit does not support items withheld from training"
  elif not run.audit or (other := _other_audit(run, run.audit)):
    why, command = "this audits them:", _audit_command(run)
    if run.audit:
      why = f"{other}; this audits the ids of the run:"
  if why:
    return found | {"state": "not audited", "why": why, "command": command}
  passed = run.audit.get("passed") is True
  lines = [str(line) for line in run.audit.get("failures") or ()]
  if not passed and not lines:
    lines = ["the audit failed without details"]
  return found | {
    "state": "passed" if passed else "failed",
    "lines": lines,
    "figures": _audit_figures(run.audit),
  }


def _other_audit(run: Run, audit: dict[str, Any]) -> str | None:
  """Returns why an audit is not about this run, None if it is."""
  results = run.results
  ids = results.get("ids") or {}
  of_run = ids.get("manifest_sha256") or (run.book and run.book.sha256)
  said = audit.get("ids")
  audited = said.get("manifest_sha256") if isinstance(said, dict) else None
  if audited is None:
    return "the audit does not name its ids"
  if audited != of_run:
    return f"the audit is of other ids ({str(audited)[:16]}…)"
  if results and audit.get("split_sha256") != results.get("split_sha256"):
    return "the audit is of another split than the run's"
  return None


def _audit_command(run: Run) -> str:
  if not config_lib.lacking(run.config):
    return f"python -m lightlm_jax.audit --workdir={quoted(run)}"
  # `audit` does not read the config.json of an older version.
  flags = config_flags(run, ("data", "ids", "split", "seed"))
  report = f"--report={quoted(run)}/audit.json"
  return " ".join(["python -m lightlm_jax.audit", *map(shlex.quote, flags), report])


def _audit_figures(audit: dict[str, Any]) -> list[tuple[str, str]]:
  """Returns the checks of an audit with their results; older audits have fewer."""
  figures = [
    (f"ids unchanged by exchange: {name.replace('_', ' ')}", _plain(value))
    for name, value in (audit.get("exchange") or {}).items()
  ]
  for name, trial in (audit.get("renumber") or {}).items():
    others = ", ".join(_plain(value) for value in trial.get("other_seeds") or ())
    said = (
      f"{_plain(trial.get('as_is'))}; renumbered {_plain(trial.get('renumbered'))}; "
      f"other seeds {others}"
    )
    figures.append((name, said))
  if "spearman_last_token" in audit:
    said = _plain(audit["spearman_last_token"])
    figures.append(("Spearman correlation of last token and raw number", said))
  if "held_out_edges" in audit:
    figures.append(("held-out interactions read", _plain(audit["held_out_edges"])))
  return figures


def _plain(value: Any) -> str:
  if isinstance(value, bool):
    return "yes" if value else "no"
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _devices(kinds: Sequence[str]) -> str:
  groups = [(kind, len(list(group))) for kind, group in itertools.groupby(kinds)]
  return ", ".join(f"{count} × {kind}" for kind, count in groups)


def _whole(value: float) -> str:
  return f"{value:,.0f}"


def _duration(seconds: float) -> str:
  whole = round(seconds)
  if whole < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(whole, 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"


# Name, path in results.json, and format of each row of `cost`.
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
