"""Builds the report's sections of results: metrics, comparison, curves, slices.

Each public function returns the data of one section for the template. The lines under
"missing" say what a run lacks, and give the command that produces it.
"""

from collections.abc import Sequence
from typing import Any

from lightlm_jax.evaluation import compare as compare_lib
from lightlm_jax.evaluation import evaluator
from lightlm_jax.reporting import charts
from lightlm_jax.reporting.advice import missing, note, train, without
from lightlm_jax.reporting.run_files import Run, at
from lightlm_jax.runs import results as results_lib
from lightlm_jax.storage import json_text

RULES = {rule: rule.replace("_", " ") for rule in evaluator.RULES}
DECIDING = compare_lib.DECIDING
DIMENSIONS = {
  "history": "History length",
  "target": "Popularity of the target in training",
  "user": "Users in training or new",
  "repeat": "First purchase or repeat",
}


def headline(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns a table of metrics: baselines, runs and the best possible system."""
  lines = [
    note(
      f"{run.name} has no results.json because it is not finished; this resumes it",
      train(run),
    )
    for run in runs
    if not run.results
  ]
  measured, baselines = [], {}
  for run in runs:
    if at(run.results, "metrics"):
      measured.append(run)
      baselines = (run.results.get("baselines") or {}) | baselines
      lines += [] if run.results.get("intervals") else [missing(run, "intervals")]
    elif run.results:
      text = f"{run.name} holds nothing out (split.kind=none), so it has no metrics"
      lines.append(note(text))
  best = baselines.pop("best_possible", None)
  rows = [_row(name, "baseline", metrics) for name, metrics in baselines.items()]
  for run in measured:
    name = run.name if len(runs) > 1 else run.results.get("system")
    rows.append(_row(name, "run", run.results["metrics"], run.results.get("intervals")))
  rows += [_row("best possible", "best", best)] if best else []
  return {"missing": lines, "rows": rows, "heads": results_lib.COLUMNS}


def _row(name: str | None, kind: str, metrics: Any, intervals: Any = None):
  return {"name": name, "kind": kind, "metrics": metrics, "intervals": intervals}


def comparison(runs: Sequence[Run]) -> dict[str, Any] | None:
  """Returns each run's NDCG@10 and its interval, and tests of pairs; None for one run.

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
  pairs = compare_lib.compare(tables)["pairs"] if len(tables) > 1 else {}
  rules = []
  for rule, name in RULES.items():
    rows = []
    for series, run in enumerate(runs, start=1):
      mean = at(run.results, "metrics", rule, DECIDING)
      if mean is not None:
        interval = at(run.results, "intervals", rule, DECIDING)
        rows.append(charts.Mean(run.name, mean, interval and tuple(interval), series))
    shown = ", ".join(f"{row.name} {row.mean:.4f}" for row in rows)
    label = f"NDCG@10 with 95 % intervals, {name}: {shown}"
    chart = charts.means(rows, x="NDCG@10", label=label) if rows else None
    rules.append({"name": name, "chart": chart, "pairs": pairs.get(rule, [])})
  lines = without(runs, "table of users", lambda run: run.users is not None)
  return {"rules": rules, "missing": lines}


def learning(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns charts of training loss and validation NDCG@10 by step."""
  figures, lines = [], []
  kinds = (
    ("loss", "loss", ("loss",)),
    ("validation", "NDCG@10, seen excluded", ("validation", DECIDING)),
  )
  for name, y, path in kinds:
    curves = []
    for series, run in enumerate(runs, start=1):
      pairs = [(record["step"], at(record, *path)) for record in run.journal]
      pairs = [(x, y) for x, y in pairs if json_text.is_number(y)]
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
    if run.results.get("steps", 0) is None and not run.journal:
      system = run.config.get("system")
      lines.append(note(f"{run.name}: {system} is fitted, not trained in steps"))
    elif not run.journal:
      lines.append(note(f"{run.name} has no metrics.jsonl; this writes it", train(run)))
  return {"figures": figures, "missing": lines}


def slices(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns charts of NDCG@10 by slice of users, per rule; one run has both in one."""
  known = [(s, run) for s, run in enumerate(runs, 1) if at(run.results, "slices")]
  dimensions, whole = [], []
  for dimension, title in DIMENSIONS.items() if known else ():
    parts = at(known[0][1].results, "slices", "seen_excluded", dimension) or {}
    sizes = {name: part["users"] for name, part in parts.items() if part.get("users")}
    if len(sizes) == 1:
      ((name, users),) = sizes.items()
      whole.append(f"{title}: {_words(name)}, all {users:,} users.")
    if len(sizes) < 2:
      continue
    if len(runs) == 1:
      columns = [(n, runs[0], r, s) for s, (r, n) in enumerate(RULES.items(), 1)]
      found = {None: _bars(sizes, columns, dimension, "both rules")}
    else:
      found = {
        name: _bars(sizes, [(r.name, r, rule, s) for s, r in known], dimension, name)
        for rule, name in RULES.items()
      }
    empty = [_words(name) for name in parts if name not in sizes]
    dimensions.append({"title": title, "empty": empty, "charts": found})
  lines = without(runs, "slices", lambda run: at(run.results, "slices"))
  return {"dimensions": dimensions, "whole": whole, "missing": lines}


def _bars(sizes: dict[str, int], columns, dimension: str, label: str):
  """Returns a chart: for each slice, a bar per column (name, run, rule, series).

  `sizes` is {slice: number of users}; `label` names the rule for screen readers.
  """
  groups = []
  for part, users in sizes.items():
    path = (dimension, part, "mean", DECIDING)
    found = [
      charts.Bar(name, at(run.results, "slices", rule, *path), series)
      for name, run, rule, series in columns
    ]
    groups.append(charts.Bars(_words(part), f"{users:,} users", found))
  shown = "; ".join(
    f"{group.title} ({group.note}) "
    + ", ".join(f"{b.name} {b.value:.4f}" for b in group.bars if b.value is not None)
    for group in groups
  )
  label = f"NDCG@10 by {dimension}, {label}: {shown}"
  return charts.bars(groups, x="NDCG@10", label=label)


def _words(name: str) -> str:
  return name.replace("_", " ")
