"""Collects the findings about a family of points: laws, fronts and comparisons."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lightlm_jax.studies import fronts as fronts_lib
from lightlm_jax.studies import law
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.points import DATA, DECIDING, LOSS, SIZE, Family, Measure

# The variables of each power law.
LAWS = {"parameters": (SIZE,), "data": (DATA,), "both": (SIZE, DATA)}


class Best(NamedTuple):
  """The point of best validation NDCG@10, and the points not significantly worse."""

  place: int
  level: tuple[int, ...]  # in ascending order of size


class Compared(NamedTuple):
  """The result of comparing two points by one measure."""

  measure: Measure
  pair: tuple[int, int]
  difference: points_lib.Difference  # the first minus the second
  better: int | None  # the point that is significantly better; None = neither


class Findings(NamedTuple):
  """All findings about one family; each of `measures` has a value for some point."""

  family: Family
  measures: tuple[Measure, ...]
  best: Best | None
  laws: dict[str, law.Fit | law.Unidentified]
  fronts: dict[tuple[str, str], tuple[int, ...]]  # by (measure's column, cost)
  iso_flop: tuple[fronts_lib.IsoFlop, ...]
  depth_width: tuple[Compared, ...]
  lines: tuple[tuple[int, ...], ...]  # see `fronts.narrowing`
  narrowing: tuple[Compared, ...]
  grids: tuple[fronts_lib.Grid, ...]


def find(family: Family, *, resamples: int = 300) -> Findings:
  """Computes all findings that the points allow, with `resamples` bootstrap samples."""
  measures = tuple(m for m in points_lib.MEASURES if family.points[m.column].count())
  lines = tuple(fronts_lib.narrowing(family))
  pareto = {}
  for measure in measures:
    for cost in points_lib.COSTS:
      columns = map(family.column, (cost, measure.column))
      front = fronts_lib.pareto(*columns, lower=measure.lower_is_better)
      pareto[measure.column, cost] = tuple(front.tolist())
  return Findings(
    family,
    measures,
    _best(family) if DECIDING in measures else None,
    {name: _law(family, of, resamples) for name, of in LAWS.items()},
    pareto,
    tuple(fronts_lib.iso_flop(family)),
    _compared(family, measures, fronts_lib.equal_size(family)),
    lines,
    _compared(family, measures, [(line[0], line[-1]) for line in lines]),
    tuple(fronts_lib.grids(family)),
  )


def _law(
  family: Family, of: Sequence[str], resamples: int
) -> law.Fit | law.Unidentified:
  """Fits a power law of the loss in the columns `of`: size, data or both."""
  runs = family.runs.filter(
    pl.all_horizontal(pl.col(name) > 0 for name in (SIZE, DATA, LOSS.column))
  )
  if runs.is_empty():
    return law.Unidentified("no run has a validation loss")
  if of == (SIZE,):
    runs = runs.filter(pl.col(DATA) == pl.col(DATA).max())
  if of == (DATA,):
    # The size with the most different amounts of data; at a tie, the largest size.
    amounts = runs.group_by(SIZE).agg(pl.col(DATA).n_unique())
    runs = runs.filter(pl.col(SIZE) == amounts.sort(DATA, SIZE)[SIZE][-1])
  return law.fit(
    runs[LOSS.column].to_numpy(),
    *(runs[name].to_numpy() for name in of),
    point_R=runs["point"].to_numpy(),
    names=[f"the number of {points_lib.NAMES[name]}" for name in of],
    resamples=resamples,
  )


def _best(family: Family) -> Best:
  value_P, size_P = family.column(DECIDING.column), family.column("params")
  known = np.flatnonzero(np.isfinite(value_P)).tolist()
  place = max(known, key=lambda point: value_P[point])
  others = [point for point in known if point != place]
  apart = points_lib.significant(family, DECIDING, [(place, o) for o in others])
  level = [other for other, differs in zip(others, apart) if not differs]
  return Best(place, tuple(sorted(level, key=lambda other: size_P[other])))


def _compared(
  family: Family, measures: Sequence[Measure], pairs: Sequence[tuple[int, int]]
) -> tuple[Compared, ...]:
  """Compares each pair of points by each measure that has a value for both points."""
  found = []
  for measure in measures:
    value_P = family.column(measure.column)
    known = [pair for pair in pairs if np.isfinite(value_P[list(pair)]).all()]
    apart = points_lib.significant(family, measure, known)
    for (one, other), differs in zip(known, apart):
      difference = points_lib.compare(family, measure, one, other)
      first = (difference.value < 0) == measure.lower_is_better
      better = (one if first else other) if differs else None
      found.append(Compared(measure, (one, other), difference, better))
  return tuple(found)


def as_json(found: Findings) -> dict[str, Any]:
  """Returns the findings for JSON; points are referred to by name, not by number."""
  family = found.family
  names = family.names()
  spreads = {m.column: family.spread(m) for m in found.measures}

  def pairs(compared: Sequence[Compared], first: str, second: str):
    return [
      {
        "measure": by.measure.column,
        first: names[by.pair[0]],
        second: names[by.pair[1]],
        "difference": by.difference.value,
        "interval": by.difference.interval(),
        "told_apart": by.better is not None,
        "better": None if by.better is None else names[by.better],
      }
      for by in compared
    ]

  return {
    "family": family.key,
    "axes": list(family.axes),
    "runs": len(family.runs),
    "points": [
      {"name": name} | row
      for name, row in zip(names, family.points.drop("point").iter_rows(named=True))
    ],
    "seeds": {name: s and s._asdict() for name, s in spreads.items()},
    "best": found.best
    and {
      "measure": DECIDING.column,
      "point": names[found.best.place],
      "not_told_apart": [names[place] for place in found.best.level],
    },
    "laws": {name: _law_as_json(of, found.laws[name]) for name, of in LAWS.items()},
    "fronts": [
      {"measure": measure, "cost": cost, "points": [names[p] for p in places]}
      for (measure, cost), places in found.fronts.items()
    ],
    "iso_flop": [
      group._asdict() | {"points": [names[place] for place in group.points]}
      for group in found.iso_flop
    ],
    "equal_parameters": pairs(found.depth_width, "deep", "wide"),
    "narrow_feed_forward": pairs(found.narrowing, "narrow", "full"),
  }


def _law_as_json(of: Sequence[str], found: law.Fit | law.Unidentified):
  if isinstance(found, law.Unidentified):
    return {"of": list(of), "reason": found.reason}
  kept = ("a", "alpha", "b", "beta", "c") if len(of) == 2 else ("a", "alpha", "c")
  return {
    "of": list(of),
    "numbers": {name: getattr(found.law, name) for name in kept},
    "intervals": {name: list(found.intervals[name]) for name in kept},
    "typical_error": found.error,
    "runs": found.runs,
    "points": found.points,
    "remarks": list(found.remarks),
  }
