"""How runs were made and what they cost; whether their ids were audited.

As in sections.py, every function makes the plain data of one section.
"""

from collections.abc import Callable, Sequence
import itertools
import json
import shlex
from typing import Any

from lightlm_jax import config as config_lib
from lightlm_jax.reporting.advice import config_flags, quoted
from lightlm_jax.reporting.run_files import Run, flatten


def cost(runs: Sequence[Run]) -> dict[str, Any]:
  """Size, speed, versions and devices: a column a run."""
  rows: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("system", lambda r: r.get("system")),
    ("preset", lambda r: r.get("preset")),
    ("seed", lambda r: r.get("seed")),
    ("ids", lambda r: (r.get("ids") or {}).get("kind")),
    ("decoding", lambda r: r.get("decoding")),
    ("parameters", lambda r: _whole((r.get("params") or {}).get("total"))),
    (
      "outside the embeddings",
      lambda r: _whole((r.get("params") or {}).get("non_embedding")),
    ),
    ("steps", lambda r: _whole(r.get("steps"))),
    ("best step", lambda r: _whole(r.get("best_step"))),
    ("training", lambda r: _duration(r.get("train_seconds"))),
    ("examples/s, training", lambda r: _whole(r.get("examples_per_second"))),
    ("users/s, evaluation", lambda r: _whole(r.get("users_per_second"))),
    ("beams that are no item, without the trie", lambda r: _share(r)),
    ("devices", lambda r: _devices(r.get("devices"))),
    *(
      (name, lambda r, name=name: (r.get("versions") or {}).get(name))
      for name in _packages(runs)
    ),
  ]
  table = []
  for name, value in rows:
    values = [value(run.results or {}) for run in runs]
    if any(found is not None for found in values):
      texts = ["–" if found is None else str(found) for found in values]
      table.append({"name": name, "values": texts})
  return {"runs": [run.name for run in runs], "rows": table}


def configs(runs: Sequence[Run]) -> dict[str, Any]:
  """Every configuration as fields, and where the runs differ."""
  flat = [
    {name: json.dumps(value) for name, value in sorted(fields.items())}
    for fields in (config_lib.LATER | flatten(run.config) for run in runs)
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
  """For each run whether its ids were audited, and what was found."""
  return [_audit(run) for run in runs]


def _audit(run: Run) -> dict[str, Any]:
  found = {"run": run.name, "lines": [], "figures": [], "command": None}
  split = run.config.get("split") or {}
  why, command = None, None
  if run.book is None and run.results and not run.results.get("ids"):
    why = "this system writes no ids; the audit tries ids alone"
  elif split.get("kind") == "none":
    why = "nothing is held out that could reach the ids"
  elif split.get("withheld"):
    why = "the audit does not know items that are withheld from training"
  elif run.audit is None or (other := _other_audit(run)):
    why, command = "this does it:", _audit_command(run)
    if run.audit is not None:
      why = f"{other}; this audits the run's:"
  if why:
    return found | {"state": "not audited", "why": why, "command": command}
  passed = run.audit.get("passed") is True
  lines = [str(line) for line in run.audit.get("failures") or ()]
  if not passed and not lines:
    lines = ["the audit did not pass, and says no more"]
  return found | {
    "state": "passed" if passed else "failed",
    "lines": lines,
    "figures": _audit_figures(run.audit),
  }


def _other_audit(run: Run) -> str | None:
  """What of an audit makes it no verdict on this run; None where it is one."""
  results = run.results or {}
  ids = results.get("ids") or {}
  of_run = ids.get("manifest_sha256") or (run.book and run.book.sha256)
  said = run.audit.get("ids")
  audited = said.get("manifest_sha256") if isinstance(said, dict) else None
  if audited is None:
    return "the audit does not say which ids it is of"
  if audited != of_run:
    return f"the audit is of other ids ({str(audited)[:16]}…)"
  if results and run.audit.get("split_sha256") != results.get("split_sha256"):
    return "the audit is of another split than the run's"
  return None


def _audit_command(run: Run) -> str:
  if not config_lib.missing_fields(run.config):
    return f"python -m lightlm_jax.audit --workdir={quoted(run)}"
  # `audit` does not read the config.json of an older version.
  flags = config_flags(run, ("data", "ids", "split", "seed"))
  report = f"--report={quoted(run)}/audit.json"
  return " ".join(["python -m lightlm_jax.audit", *map(shlex.quote, flags), report])


def _audit_figures(audit: dict[str, Any]) -> list[tuple[str, str]]:
  """What was tried, in words; what an audit of another form lacks is left out."""
  figures = [
    (f"held-out items exchanged between users: {name.replace('_', ' ')}", _plain(value))
    for name, value in (audit.get("exchange") or {}).items()
  ]
  for name, trial in (audit.get("renumber") or {}).items():
    others = ", ".join(_plain(value) for value in trial.get("other_seeds") or ())
    said = (
      f"{_plain(trial.get('as_is'))}; numbered anew {_plain(trial.get('renumbered'))}; "
      f"other seeds {others}"
    )
    figures.append((name, said))
  if "spearman_last_token" in audit:
    said = _plain(audit["spearman_last_token"])
    figures.append(("last token and raw number in leaves, Spearman", said))
  if "held_out_edges" in audit:
    figures.append(("held-out interactions read", _plain(audit["held_out_edges"])))
  return figures


def _plain(value: Any) -> str:
  if isinstance(value, bool):
    return "yes" if value else "no"
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _packages(runs: Sequence[Run]) -> list[str]:
  names = {}
  for run in runs:
    names |= dict.fromkeys((run.results or {}).get("versions") or ())
  return list(names)


def _devices(kinds: Sequence[str] | None) -> str | None:
  if not kinds:
    return None
  groups = [(kind, len(list(group))) for kind, group in itertools.groupby(kinds)]
  return ", ".join(f"{count} × {kind}" for kind, count in groups)


def _whole(value: float | None) -> str | None:
  return None if value is None else f"{value:,.0f}"


def _share(results: dict[str, Any]) -> str | None:
  rate = results.get("hallucination_rate")
  return None if rate is None else f"{100 * rate:.1f} %"


def _duration(seconds: float | None) -> str | None:
  if seconds is None:
    return None
  whole = round(seconds)
  if whole < 60:
    return f"{seconds:.1f} s"
  minutes, rest = divmod(whole, 60)
  if minutes < 60:
    return f"{minutes} min {rest:02d} s"
  return f"{minutes // 60} h {minutes % 60:02d} min"
