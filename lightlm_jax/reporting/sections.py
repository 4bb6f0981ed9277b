"""The results of runs as sections of the report: metrics, comparison, curves, slices.

Each function returns the data of one section for the template. What a run lacks becomes
a line in `missing`, with the command that produces it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightlm_jax.evaluation import compare as compare_lib
from lightlm_jax.evaluation import evaluator
from lightlm_jax.reporting import charts
from lightlm_jax.reporting.advice import missing, note, train, unfinished
from lightlm_jax.reporting.run_files import Run, at
from lightlm_jax.runs import results as results_lib

RULES = {rule: rule.replace("_", " ") for rule in evaluator.RULES}
DECIDING = compare_lib.DECIDING
DIMENSIONS = {
  "history": "History length",
  "target": "Popularity of the target in training",
  "user": "Users in training or new",
  "repeat": "First purchase or repeat",
}


def headline(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns a table for each rule: baselines, every run, and the best possible."""
  finished = [run for run in runs if run.results]
  lines = [unfinished(run) for run in runs if not run.results]
  for run in finished:
    if not at(run.results, "metrics"):
      lines.append(
        note(f"{run.name} holds nothing out (split.kind=none), so it has no metrics")
      )
    elif not at(run.results, "intervals"):
      lines.append(missing(run, "intervals"))
  measured = [run for run in finished if at(run.results, "metrics")]
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
  """Returns the means of all runs with intervals, and tests of their differences.

  Raises:
    UserError: the runs were not evaluated on the same users.
  """
  if len(runs) < 2:
    return None
  tables = {
    run.name: (run.users, {f: at(run.results, f) for f in compare_lib.SPLIT_FIELDS})
    for run in runs
    if run.users is not None
  }
  found = compare_lib.compare(tables) if len(tables) > 1 else None
  rules = []
  for rule, name in RULES.items():
    rows = []
    for series, run in enumerate(runs, start=1):
      mean = at(run.results, "metrics", rule, DECIDING)
      if mean is not None:
        interval = at(run.results, "intervals", rule, DECIDING)
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
  without = [run for run in runs if run.results and run.users is None]
  return {"rules": rules, "missing": [missing(r, "table of users") for r in without]}


def learning(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns charts of loss and validation NDCG@10 by step, and the best steps."""
  figures, lines = [], []
  kinds = (
    ("loss", "loss", ("loss",)),
    ("validation", "NDCG@10, seen excluded", ("validation", DECIDING)),
  )
  for name, y, path in kinds:
    curves = []
    for series, run in enumerate(runs, start=1):
      pairs = [(record["step"], at(record, *path)) for record in run.journal]
      pairs = [(x, y) for x, y in pairs if y is not None and np.isfinite(y)]
      if pairs:
        steps, values = zip(*pairs)
        curves.append(charts.Line(run.name, steps, values, series))
    if curves:
      last = ", ".join(f"{c.name} {c.y[-1]:.4f}" for c in curves)
      highest = max(max(c.y) for c in curves)
      chart = charts.lines(
        curves,
        x="step",
        y=y,
        label=f"{y} by training step; at the end: {last}",
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
      lines.append(note(f"{run.name} has no metrics.jsonl; this writes it", train(run)))
  steps = {run.name: at(run.results, "best_step") for run in runs}
  best = [
    f"{name} {step:,}" if len(runs) > 1 else f"{step:,}"
    for name, step in steps.items()
    if step is not None
  ]
  return {"figures": figures, "missing": lines, "best": best}


def slices(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns NDCG@10 by slice: for one run a chart of both rules, else one a rule."""
  known = [
    (series, run)
    for series, run in enumerate(runs, start=1)
    if at(run.results, "slices")
  ]
  dimensions, whole = [], []
  for dimension, title in DIMENSIONS.items() if known else ():
    parts = at(known[0][1].results, "slices", "seen_excluded", dimension) or {}
    asked = {name: part["users"] for name, part in parts.items() if part["users"]}
    if len(asked) == 1:
      ((name, users),) = asked.items()
      whole.append(f"{title}: {_words(name)}, all {users:,} users.")
    if len(asked) < 2:
      continue
    if len(runs) == 1:
      columns = [(n, known[0][1], r, s) for s, (r, n) in enumerate(RULES.items(), 1)]
      found = {None: _bars(asked, columns, dimension, "both rules")}
    else:
      found = {
        name: _bars(asked, [(r.name, r, rule, s) for s, r in known], dimension, name)
        for rule, name in RULES.items()
      }
    dimensions.append(
      {
        "title": title,
        "empty": [_words(name) for name, part in parts.items() if not part["users"]],
        "charts": [{"rule": rule, "chart": chart} for rule, chart in found.items()],
      }
    )
  without = [
    run for run in runs if at(run.results, "metrics") and not at(run.results, "slices")
  ]
  return {
    "dimensions": dimensions,
    "whole": whole,
    "rules": list(RULES.values()),
    "missing": [missing(run, "slices") for run in without],
  }


def _rows(runs: Sequence[Run], rule: str, by_run: bool) -> list[dict[str, Any]]:
  """Returns the rows of a rule's table: baselines once, runs, the best possible."""

  def row(name: str | None, kind: str, metrics: Any, intervals: Any = None):
    cells = [
      {"value": at(metrics, rule, column), "interval": at(intervals, rule, column)}
      for column in results_lib.COLUMNS
    ]
    return {"name": name, "kind": kind, "cells": cells}

  baselines: dict[str, Any] = {}
  for run in runs:
    baselines = (at(run.results, "baselines") or {}) | baselines
  best = baselines.pop("best_possible", None)
  rows = [row(name, "baseline", metrics) for name, metrics in baselines.items()]
  for run in runs:
    name = run.name if by_run else at(run.results, "system")
    metrics, intervals = (at(run.results, g) for g in ("metrics", "intervals"))
    rows.append(row(name, "run", metrics, intervals))
  return rows + ([row("best possible", "best", best)] if best else [])


def _facts(runs: Sequence[Run]) -> list[tuple[str, Any]]:
  """Returns what all runs share, as pairs; for a single run also its own settings."""
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
  """Returns the most important numbers."""
  tiles = []
  for rule, name in RULES.items():
    value = at(results, "metrics", rule, DECIDING)
    if value is not None:
      interval = at(results, "intervals", rule, DECIDING)
      tiles.append(
        {
          "name": f"NDCG@10, {name}",
          "value": f"{value:.4f}",
          "note": "95 %: {:.4f} to {:.4f}".format(*interval) if interval else "",
        }
      )
  ceiling = results.get("expected_best_ndcg@10")
  reached = at(results, "metrics", "seen_excluded", DECIDING)
  if ceiling and reached is not None:
    tiles.append(
      {
        "name": "of the best possible, seen excluded",
        "value": f"{100 * reached / ceiling:.0f} %",
        "note": f"the generator's best is {ceiling:.4f} on average",
      }
    )
  rate = results.get("hallucination_rate")
  if rate is not None:
    tiles.append(
      {
        "name": "invalid beams without the trie",
        "value": f"{100 * rate:.1f} %",
        "note": "none with the trie",
      }
    )
  return tiles


def _asked_again(runs: Sequence[Run]) -> list[dict[str, Any]]:
  """Returns a row for each evaluation that `evaluate` has added."""
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
          "values": [at(results, "metrics", rule, DECIDING) for rule in RULES],
        }
      )
  return rows


def _bars(asked, columns, dimension: str, label: str):
  """Returns a chart with a bar of every (name, run, rule, series) for each slice."""
  groups = [
    charts.Bars(
      _words(part),
      f"{users:,} users",
      [
        charts.Bar(
          name,
          at(run.results, "slices", rule, dimension, part, "mean", DECIDING),
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
  label = f"NDCG@10 by {dimension}, {label}: {said}"
  return charts.bars(groups, x="NDCG@10", label=label)


def _words(name: str) -> str:
  return name.replace("_", " ")
