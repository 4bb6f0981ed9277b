"""What results say: the figures, runs beside each other, curves and slices.

Every function here makes the plain data of one section for the template. What a run
did not leave becomes a line in `missing`, with the command that makes it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightlm_jax.evaluation import compare as compare_lib
from lightlm_jax.evaluation import evaluator
from lightlm_jax.reporting import charts
from lightlm_jax.reporting.advice import missing, note, train, unfinished
from lightlm_jax.reporting.run_files import Run
from lightlm_jax.runs import results as results_lib

RULES = {rule: rule.replace("_", " ") for rule in evaluator.RULES}
DECIDING = compare_lib.DECIDING
DIMENSIONS = {
  "history": "How much was known: items in the history",
  "target": "How popular is what was bought next, in training",
  "user": "In training or new",
  "repeat": "First bought or bought again",
}


def headline(runs: Sequence[Run]) -> dict[str, Any]:
  """A table a rule: every run, the baselines beside it, what is possible at all."""
  finished = [run for run in runs if run.results]
  lines = [unfinished(run) for run in runs if not run.results]
  for run in finished:
    if not run.results.get("metrics"):
      lines.append(
        note(f"{run.name} holds nothing out (split.kind=none): nothing is measured")
      )
    elif not run.results.get("intervals"):
      lines.append(missing(run, "intervals"))
  measured = [run for run in finished if run.results.get("metrics")]
  tables = [
    {"rule": rule, "name": name, "rows": _rows(measured, rule, len(runs) > 1)}
    for rule, name in RULES.items()
  ]
  rows = [row for table in tables for row in table["rows"]]
  shown = any(cell["interval"] for row in rows for cell in row["cells"])
  return {
    "missing": lines,
    "facts": _facts(finished),
    "tables": tables if measured else [],
    "bare_baselines": shown and any(row["kind"] == "baseline" for row in rows),
    "heads": [name.upper() for name in results_lib.COLUMNS],
    "tiles": _tiles(measured[0].results) if len(runs) == 1 and measured else [],
    "asked_again": _asked_again(runs),
  }


def comparison(runs: Sequence[Run]) -> dict[str, Any] | None:
  """All runs' means with intervals, and what chance explains of their differences.

  Raises:
    UserError: the runs were not asked the same users.
  """
  if len(runs) < 2:
    return None
  tables = {
    run.name: (
      run.users,
      {field: run.results.get(field) for field in compare_lib.SPLIT_FIELDS},
    )
    for run in runs
    if run.users is not None
  }
  found = compare_lib.compare(tables) if len(tables) > 1 else None
  rules = []
  for rule, name in RULES.items():
    rows = []
    for series, run in enumerate(runs, start=1):
      mean = _at(run.results, "metrics", rule, DECIDING)
      if mean is not None:
        interval = _at(run.results, "intervals", rule, DECIDING)
        rows.append(charts.Mean(run.name, mean, interval and tuple(interval), series))
    label = f"NDCG@10 with 95 % intervals, {name}: " + ", ".join(
      f"{row.name} {row.mean:.4f}" for row in rows
    )
    rules.append(
      {
        "name": name,
        "chart": charts.means(rows, x="NDCG@10", label=label) if rows else None,
        "pairs": found["pairs"][rule] if found else [],
      }
    )
  return {
    "rules": rules,
    "missing": [
      missing(run, "table of users")
      for run in runs
      if run.results and run.users is None
    ],
  }


def learning(runs: Sequence[Run]) -> dict[str, Any]:
  """Loss and validation by step, of all runs that were trained in steps."""
  figures, lines = [], []
  kinds = (
    ("loss", "loss", ("loss",)),
    ("validation", "NDCG@10, seen excluded", ("validation", DECIDING)),
  )
  for name, y, path in kinds:
    curves = []
    for series, run in enumerate(runs, start=1):
      pairs = [(record["step"], _at(record, *path)) for record in run.journal]
      pairs = [(x, y) for x, y in pairs if y is not None and np.isfinite(y)]
      if pairs:
        curves.append(charts.Line(run.name, *zip(*pairs), series))
    if curves:
      last = ", ".join(f"{c.name} {c.y[-1]:.4f}" for c in curves)
      label = f"{y} by training step; at the end: {last}"
      highest = max(max(c.y) for c in curves)
      chart = charts.lines(
        curves,
        x="step",
        y=y,
        label=label,
        y_range=None if name == "loss" or highest <= 0 else (0, 1.08 * highest),
        marks=max(len(c.x) for c in curves) <= 30,
      )
      figures.append({"title": name, "chart": chart})
  for run in runs:
    if run.journal:
      continue
    if run.results and run.results.get("steps", 0) is None:
      system = run.config.get("system")
      lines.append(note(f"{run.name}: {system} is fitted, not trained in steps"))
    else:
      lines.append(note(f"{run.name} has no metrics.jsonl; this makes it", train(run)))
  return {"figures": figures, "missing": lines, "best": _best_steps(runs)}


def slices(runs: Sequence[Run]) -> dict[str, Any]:
  """NDCG@10 for parts of the users; a rule and all runs in a chart, or both rules."""
  known = [
    (series, run)
    for series, run in enumerate(runs, start=1)
    if _at(run.results, "slices")
  ]
  dimensions, whole = [], []
  for dimension, title in DIMENSIONS.items():
    parts = (
      _at(known[0][1].results, "slices", "seen_excluded", dimension) or {}
      if (known)
      else {}
    )
    asked = {name: part["users"] for name, part in parts.items() if part["users"]}
    if not asked:
      continue
    empty = [_words(name) for name, part in parts.items() if not part["users"]]
    found = {"title": title, "empty": empty, "charts": []}
    if len(asked) == 1:
      ((name, users),) = asked.items()
      whole.append(f"{title}: {_words(name)}, all {users:,} users.")
      continue
    if len(runs) == 1:
      series = {rule: place for place, rule in enumerate(RULES, start=1)}
      found["charts"] = [
        {
          "rule": None,
          "chart": _bars(
            asked,
            [(name, known[0][1], rule, series[rule]) for rule, name in RULES.items()],
            dimension,
            f"NDCG@10 by {dimension}, both rules",
          ),
        }
      ]
    else:
      found["charts"] = [
        {
          "rule": name,
          "chart": _bars(
            asked,
            [(run.name, run, rule, series) for series, run in known],
            dimension,
            f"NDCG@10 by {dimension}, {name}",
          ),
        }
        for rule, name in RULES.items()
      ]
    dimensions.append(found)
  return {
    "dimensions": dimensions,
    "whole": whole,
    "rules": list(RULES.values()),
    "missing": [
      missing(run, "slices")
      for run in runs
      if _at(run.results, "metrics") and not run.results.get("slices")
    ],
  }


def _rows(runs: Sequence[Run], rule: str, by_run: bool) -> list[dict[str, Any]]:
  """The rows of a rule's table: baselines once, the runs, the best possible."""
  baselines = {}
  for run in runs:
    for name, metrics in (run.results.get("baselines") or {}).items():
      baselines.setdefault(name, metrics)
  best = baselines.pop("best_possible", None)
  rows = [
    {"name": name, "kind": "baseline", "cells": _cells(metrics.get(rule))}
    for name, metrics in baselines.items()
  ]
  for run in runs:
    rows.append(
      {
        "name": run.name if by_run else run.results.get("system"),
        "kind": "run",
        "cells": _cells(
          run.results["metrics"].get(rule), _at(run.results, "intervals", rule)
        ),
      }
    )
  if best:
    rows.append(
      {"name": "best possible", "kind": "best", "cells": _cells(best.get(rule))}
    )
  return rows


def _cells(metrics, intervals=None) -> list[dict[str, Any]]:
  return [
    {"value": (metrics or {}).get(name), "interval": (intervals or {}).get(name)}
    for name in results_lib.COLUMNS
  ]


def _facts(runs: Sequence[Run]) -> list[tuple[str, Any]]:
  """What all runs share, as pairs; of one run all that names it."""
  if not runs:
    return []
  results = runs[0].results
  ids = results.get("ids") or {}
  users = results.get("num_users")
  facts = [
    ("dataset", results.get("dataset")),
    ("protocol", f"{_words(str(results.get('protocol')))}, all items ranked"),
    ("split", results.get("split")),
    ("users", None if users is None else f"{users:,}"),
  ]
  if len(runs) == 1:
    best = results.get("best_step")
    facts += [
      ("system", results.get("system")),
      ("preset", results.get("preset")),
      ("ids", ids.get("kind")),
      ("decoding", results.get("decoding")),
      ("beam size", results.get("beam_size")),
      ("best step", None if best is None else f"{best:,}"),
    ]
  repeated = results.get("repeated_targets")
  if repeated is not None:
    facts.append(("repeated targets", f"{repeated:,}"))
  facts.append(("split SHA-256", str(results.get("split_sha256"))[:16]))
  return [(name, value) for name, value in facts if value is not None]


def _tiles(results: dict[str, Any]) -> list[dict[str, Any]]:
  """The few figures to read first."""
  tiles = []
  for rule, name in RULES.items():
    value = _at(results, "metrics", rule, DECIDING)
    if value is not None:
      interval = _at(results, "intervals", rule, DECIDING)
      tiles.append(
        {
          "name": f"NDCG@10, {name}",
          "value": f"{value:.4f}",
          "note": "95 %: {:.4f} to {:.4f}".format(*interval) if interval else "",
        }
      )
  ceiling = results.get("expected_best_ndcg@10")
  reached = _at(results, "metrics", "seen_excluded", DECIDING)
  if ceiling and reached is not None:
    tiles.append(
      {
        "name": "of the best possible, seen excluded",
        "value": f"{100 * reached / ceiling:.0f} %",
        "note": f"the generator allows {ceiling:.4f} on average",
      }
    )
  rate = results.get("hallucination_rate")
  if rate is not None:
    tiles.append(
      {
        "name": "of the beams are no item, without the trie",
        "value": f"{100 * rate:.1f} %",
        "note": "with it none",
      }
    )
  return tiles


def _asked_again(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """The answers that `evaluate` has added, a row each."""
  rows = []
  for run in runs:
    for name, results in run.asked_again.items():
      rows.append(
        {
          "run": run.name,
          "name": name,
          "split": results.get("split", "test"),
          "decoding": results.get("decoding") or "scores",
          "beam_size": results.get("beam_size"),
          "users": results.get("num_users"),
          "values": [_at(results, "metrics", rule, DECIDING) for rule in RULES],
        }
      )
  return rows


def _best_steps(runs: Sequence[Run]) -> list[str]:
  return [
    f"{run.name} {run.results['best_step']:,}"
    if len(runs) > 1
    else f"{run.results['best_step']:,}"
    for run in runs
    if _at(run.results, "best_step") is not None
  ]


def _bars(asked, columns, dimension: str, label: str):
  """A chart of slices: for each of `asked` a bar of every (name, run, rule, series)."""
  groups = [
    charts.Bars(
      _words(part),
      f"{users:,} users",
      [
        charts.Bar(
          name,
          _at(run.results, "slices", rule, dimension, part, "mean", DECIDING),
          series,
        )
        for name, run, rule, series in columns
      ],
    )
    for part, users in asked.items()
  ]
  said = "; ".join(
    f"{group.title} ({group.note}) "
    + ", ".join(f"{b.name} {b.value:.4f}" for b in group.bars if b.value is not None)
    for group in groups
  )
  return charts.bars(groups, x="NDCG@10", label=f"{label}: {said}")


def _words(name: str) -> str:
  return name.replace("_", " ")


def _at(tree: Any, *path: str) -> Any:
  """What stands at a path of a tree, None where the tree ends before."""
  for name in path:
    tree = tree.get(name) if isinstance(tree, dict) else None
  return tree
