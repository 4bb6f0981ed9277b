"""The data of a study's page, for the template `reporting/study.html.jinja`."""

from collections.abc import Sequence
from typing import Any

import polars as pl

from lightlm_jax.reporting import charts
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies import wording
from lightlm_jax.studies.findings import NAMES, SIZE, Compared, Findings
from lightlm_jax.studies.panels import Drawing
from lightlm_jax.studies.points import MEASURES


def content(
  name: str,
  table: pl.DataFrame,
  found: Sequence[Findings],
  drawings: Sequence[Sequence[tuple[Drawing, bytes]]],
) -> dict[str, Any]:
  """Returns the data of the template.

  Args:
    name: the study's name.
    table: its table of trials.
    found: the findings of each family.
    drawings: the drawings of each family, with their SVG.
  """
  finished = table.filter(pl.col("state") == "finished")
  failed = table.filter(pl.col("state") != "finished")
  return {
    "title": f"Study {name}",
    "tiles": [
      {"name": "trials finished", "value": f"{len(finished):,}"},
      {"name": "trials failed", "value": f"{len(failed):,}"},
      {"name": "points", "value": f"{sum(len(f.family.points) for f in found):,}"},
    ],
    "axes": ", ".join(points_lib.axes(table)),
    "families": [
      {
        "id": f"family-{number}",
        "title": one.family.title,
        "said": wording.said(one),
        "figures": [
          _figure(drawing, svg, f"f{number}-{drawing.name}", one.family.title)
          for drawing, svg in drawings[number]
        ],
        "points": _points(one),
        "compared": [
          *_compared(one, one.depth_width, "At equal parameters: deeper minus wider"),
          *_compared(one, one.narrowing, "Feed-forward: narrowest minus widest"),
        ],
      }
      for number, one in enumerate(found)
    ],
    "failed": failed.select("trial", "reason").rows(),
  }


def _figure(drawing: Drawing, svg: bytes, name: str, of: str) -> dict[str, Any]:
  label = f"{of}: {drawing.title}. {drawing.caption}"
  return {
    "title": drawing.title,
    "caption": drawing.caption,
    "wide": drawing.panels > 1,
    "svg": charts.inline(svg, name, label),
  }


def _points(found: Findings) -> dict[str, Any]:
  """Returns the table of points; the test metrics come last, nothing uses them."""
  columns = [(measure.title, measure.column, measure) for measure in found.measures]
  columns += [
    (measure.title.replace("validation", "test"), measure.test, measure)
    for measure in found.measures
    if measure.test
  ]
  best = found.best.place if found.best else None
  level = found.best.level if found.best else ()
  names, rows = found.family.names(), []
  for place, row in enumerate(found.family.points.iter_rows(named=True)):
    kind = "run" if place == best else ""
    plain = [
      f"{row['runs']}",
      _or_dash(row[SIZE], points_lib.amount),
      _or_dash(row["params"], points_lib.amount),
      _or_dash(row["train_flops"], "{:.2g}".format),
      _or_dash(row["train_seconds"], "{:,.0f}".format),
    ]
    cells = [{"value": text, "std": None} for text in plain]
    for _, column, measure in columns:
      mean, std = row[column], row[f"{column}:std"]
      text = "–" if mean is None else wording.value(measure, mean)
      spread = None if std is None else f"± {wording.value(measure, std)}"
      cells.append({"value": text, "std": spread})
    mark = " (not significantly different from the best)" if place in level else ""
    rows.append({"name": names[place], "mark": mark, "kind": kind, "cells": cells})
  heads = ["seeds", NAMES[SIZE], "parameters", "FLOPs", "seconds"]
  return {"heads": heads + [head for head, _, _ in columns], "rows": rows}


def _compared(found: Findings, compared: Sequence[Compared], title: str):
  """Returns a table with a row a pair and a column a measure; none without pairs."""
  names = found.family.names()
  cells: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
  for by in compared:
    for number, (pair, difference) in enumerate(zip(by.pairs, by.differences)):
      cells.setdefault(pair, {})[by.measure.column] = {
        "value": wording.mean(by.measure, difference.value, difference.half, "+"),
        "apart": by.apart[number],
      }
  if not cells:
    return []
  measures = [m for m in MEASURES if any(m.column in row for row in cells.values())]
  return [
    {
      "title": title,
      "heads": [measure.title for measure in measures],
      "rows": [
        {
          "name": f"{names[one]} minus {names[other]}",
          "cells": [row.get(measure.column) for measure in measures],
        }
        for (one, other), row in cells.items()
      ],
    }
  ]


def _or_dash(value, text) -> str:
  return "–" if value is None else text(value)
