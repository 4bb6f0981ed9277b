"""What the points of a family show: laws, fronts, comparisons; also as JSON."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lightlm_jax.studies import fronts as fronts_lib
from lightlm_jax.studies import law
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.points import DECIDING, LOSS, MEASURES, Family, Measure

SIZE, DATA = "params_non_embedding", "interactions"
NAMES = {SIZE: "parameters outside the embeddings", DATA: "training interactions"}
# The variables of each law.
LAWS = {"parameters": (SIZE,), "data": (DATA,), "both": (SIZE, DATA)}


class Best(NamedTuple):
  """The best point by validation, and those not significantly different from it."""

  place: int
  level: tuple[int, ...]  # by size


class Compared(NamedTuple):
  """Pairs of points by one measure: differences of the first minus the second."""

  measure: Measure
  pairs: tuple[tuple[int, int], ...]
  differences: tuple[points_lib.Difference, ...]
  apart: tuple[bool, ...]  # whether a difference is significant

  def better(self, number: int) -> int:
    """Returns the point with the better mean, significant or not."""
    first_lower = self.differences[number].value < 0
    return self.pairs[number][first_lower != self.measure.lower_is_better]


class Findings(NamedTuple):
  """All findings of one family; `measures` are those that its points have."""

  family: Family
  measures: tuple[Measure, ...]
  best: Best | None
  laws: dict[str, law.Fit | law.Unidentified]
  fronts: dict[tuple[str, str], tuple[int, ...]]  # by measure's column and cost
  iso_flop: tuple[fronts_lib.IsoFlop, ...]
  depth_width: tuple[Compared, ...]
  lines: tuple[fronts_lib.Narrowing, ...]
  narrowing: tuple[Compared, ...]
  grids: tuple[fronts_lib.Grid, ...]


def find(family: Family, *, resamples: int = 300) -> Findings:
  """Returns everything that the points of a family support."""
  measures = tuple(m for m in MEASURES if family.points[m.column].count())
  lines = tuple(fronts_lib.narrowing(family))
  ends = [(line.points[0], line.points[-1]) for line in lines]
  return Findings(
    family,
    measures,
    _best(family) if DECIDING in measures else None,
    {name: _law(family, of, resamples) for name, of in LAWS.items()},
    {
      (m.column, cost): tuple(_front(family, m, cost).tolist())
      for m in measures
      for cost in fronts_lib.COSTS
    },
    tuple(fronts_lib.iso_flop(family, LOSS)),
    tuple(_compare(family, m, fronts_lib.equal_size(family)) for m in measures),
    lines,
    tuple(_compare(family, m, ends) for m in measures),
    tuple(fronts_lib.grids(family)),
  )


def _law(
  family: Family, of: Sequence[str], resamples: int
) -> law.Fit | law.Unidentified:
  """Fits the loss in size, in data or in both; in one alone, the other is fixed."""
  runs = family.runs.filter(
    pl.all_horizontal(pl.col(name) > 0 for name in (SIZE, DATA, LOSS.column))
  )
  if runs.is_empty():
    return law.Unidentified("no run has a validation loss")
  if of == (SIZE,):
    runs = runs.filter(pl.col(DATA) == pl.col(DATA).max())
  if of == (DATA,):
    # The size with the most amounts of data; of several, the largest.
    amounts = runs.group_by(SIZE).agg(pl.col(DATA).n_unique())
    runs = runs.filter(pl.col(SIZE) == amounts.sort(DATA, SIZE)[SIZE][-1])
  return law.fit(
    runs[LOSS.column].to_numpy(),
    *(runs[name].to_numpy() for name in of),
    point_R=runs["point"].to_numpy(),
    names=[f"the number of {NAMES[name]}" for name in of],
    resamples=resamples,
  )


def _best(family: Family) -> Best:
  value_P, size_P = family.column(DECIDING.column), family.column("params")
  known = np.flatnonzero(np.isfinite(value_P))
  place = int(known[np.argmax(value_P[known])])
  others = [int(other) for other in known if other != place]
  apart = points_lib.significant(family, DECIDING, [(place, o) for o in others])
  level = [other for other, differs in zip(others, apart) if not differs]
  return Best(place, tuple(sorted(level, key=lambda other: size_P[other])))


def _front(family: Family, measure: Measure, cost: str) -> np.ndarray:
  columns = map(family.column, (cost, measure.column))
  return fronts_lib.pareto(*columns, lower=measure.lower_is_better)


def _compare(
  family: Family, measure: Measure, pairs: Iterable[tuple[int, int]]
) -> Compared:
  value_P = family.column(measure.column)
  known = tuple(
    (int(one), int(other))
    for one, other in pairs
    if np.isfinite([value_P[one], value_P[other]]).all()
  )
  return Compared(
    measure,
    known,
    tuple(points_lib.compare(family, measure, *pair) for pair in known),
    tuple(points_lib.significant(family, measure, known)),
  )


def as_json(found: Findings) -> dict[str, Any]:
  """Returns the findings as plain data; points stand by their names."""
  family = found.family
  names = family.names()
  spreads = {m.column: family.spread(m) for m in found.measures}

  def pairs(compared: Sequence[Compared], first: str, second: str):
    return [
      {
        "measure": by.measure.column,
        first: names[one],
        second: names[other],
        "difference": difference.value,
        "interval": difference.interval(),
        "told_apart": by.apart[n],
        "better": names[by.better(n)] if by.apart[n] else None,
      }
      for by in compared
      for n, ((one, other), difference) in enumerate(zip(by.pairs, by.differences))
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
      group._asdict() | {"points": [names[p] for p in group.points]}
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
