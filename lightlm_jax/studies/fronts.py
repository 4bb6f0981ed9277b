"""Which shapes are worth their cost: fronts, equal FLOPs or parameters, narrow FFNs.

Everything is of the points of one family, by their means over seeds. Letters: P points.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.points import Family, Measure

COSTS = {
  "params": "parameters",
  "train_flops": "training FLOPs until the best step",
  "train_seconds": "seconds of training",
}
EQUAL_FLOPS = 1.5  # the most that FLOPs of one bin differ by, as a ratio
EQUAL_SIZE = 0.10  # the most that parameters of a pair differ by
SHAPE = ("depth", "model.num_layers")
WIDTH = ("width", "model.d_model")
FFN = ("ffn", "model.d_ff")


class IsoFlop(NamedTuple):
  """Points of about equal FLOPs: the parabola of the loss in the logarithm of N."""

  low: float  # FLOPs
  high: float
  points: tuple[int, ...]  # the smallest first
  curve: tuple[float, float, float]  # of (ln N)², ln N and 1
  best_size: float | None  # where it is least, if that is within these points
  interval: tuple[float, float] | None  # of best_size, with other seeds
  reason: str | None  # why there is no best size


class Pair(NamedTuple):
  """Two points of equal parameters outside the embeddings."""

  deep: int  # deeper, and narrower in width, in feed-forward or in both
  wide: int


class Narrowing(NamedTuple):
  """Points that differ in their feed-forward alone, the narrowest first."""

  name: str  # what they share
  points: tuple[int, ...]
  d_ff: tuple[int, ...]


class Grid(NamedTuple):
  """Points by depth and width, all else equal; -1 where there is none."""

  name: str  # what they share
  depths: tuple[int, ...]
  widths: tuple[int, ...]
  point_DW: np.ndarray


def pareto(cost_P: np.ndarray, value_P: np.ndarray, *, lower: bool) -> np.ndarray:
  """Places that no other beats in both, from the cheapest to the best.

  Args:
    cost_P: [P] less is better.
    value_P: [P].
    lower: whether less is better of the value too.

  Returns:
    [F] places; points that are equal in both stand side by side.
  """
  value_P = value_P if lower else -value_P
  known = np.flatnonzero(np.isfinite(cost_P) & np.isfinite(value_P))
  kept, best, cheapest = [], np.inf, np.inf
  for place in known[np.lexsort((value_P[known], cost_P[known]))]:
    same = kept and (value_P[place], cost_P[place]) == (best, cheapest)
    if value_P[place] < best or same:
      kept.append(place)
      best, cheapest = value_P[place], cost_P[place]
  return np.array(kept, np.int64)


def bins(value_P: np.ndarray, ratio: float) -> list[np.ndarray]:
  """The fewest groups in which no two values differ by more than a ratio."""
  order = np.argsort(value_P, kind="stable")
  found: list[list[int]] = []
  for place in order:
    if found and value_P[place] <= value_P[found[-1][0]] * ratio:
      found[-1].append(place)
    else:
      found.append([place])
  return [np.array(group, np.int64) for group in found]


def iso_flop(family: Family, measure: Measure) -> list[IsoFlop]:
  """A parabola for each group of points that were trained with about equal FLOPs.

  Four sizes at least: through three every parabola passes.
  """
  columns = ("train_flops", "params_non_embedding", measure.column)
  flops_P, size_P, value_P = (column(family, name) for name in columns)
  known = np.flatnonzero(_positive(flops_P) & _positive(size_P) & np.isfinite(value_P))
  seeds_P = family.points[f"{measure.column}:seeds"].to_numpy()
  spread = family.spread(measure)
  found = []
  for group in bins(flops_P[known], EQUAL_FLOPS):
    places = known[group]
    places = places[np.argsort(size_P[places], kind="stable")]
    if len(np.unique(size_P[places])) >= 4:
      sign = 1 if measure.lower_is_better else -1
      fit = _parabola(size_P[places], sign * value_P[places], spread, seeds_P[places])
      curve = tuple(sign * number for number in fit[0])
      ends = float(flops_P[places].min()), float(flops_P[places].max())
      found.append(IsoFlop(*ends, tuple(places.tolist()), curve, *fit[1:]))
  return found


def _parabola(size_N, value_N, spread, seeds_N, *, draws: int = 400, seed: int = 0):
  """The curve, its lowest place, the place's interval, and why there is none."""
  x_N = np.log(size_N)
  middle, half = x_N.mean(), np.ptp(x_N) / 2
  at_N = (x_N - middle) / half
  low, high = at_N.min(), at_N.max()

  def lowest(curve):
    return np.where(curve[0] > 0, -curve[1] / (2 * curve[0] + 1e-300), np.inf)

  a, b, c = np.polyfit(at_N, value_N, 2)
  curve = (
    float(a / half**2),
    float(b / half - 2 * a * middle / half**2),
    float(a * middle**2 / half**2 - b * middle / half + c),
  )
  if a <= 0:
    return curve, None, None, "the curve bends the other way: no size inside is best"
  best = float(lowest((a, b, c)))
  if not low < best < high:
    edge = "smallest" if best <= low else "largest"
    return curve, None, None, f"the best size lies beyond the {edge} that was tried"
  size = float(np.exp(middle + half * best))
  if spread is None:
    return curve, size, None, None
  # Means that other seeds could have given; how far seeds deviate is itself a guess.
  rng = np.random.default_rng(seed)
  std_D = spread.std * np.sqrt(spread.freedom / rng.chisquare(spread.freedom, draws))
  noise_ND = std_D * rng.normal(size=(len(x_N), draws)) / np.sqrt(seeds_N)[:, None]
  best_D = lowest(np.polyfit(at_N, value_N[:, None] + noise_ND, 2))
  ends = np.quantile(best_D, [0.025, 0.975], method="nearest")
  if not (low < ends[0] and ends[1] < high):
    return (
      curve,
      None,
      None,
      "seeds deviate too much to tell the best size from an edge",
    )
  interval = tuple(float(np.exp(middle + half * end)) for end in ends)
  return curve, size, interval, None


def equal_size(family: Family) -> list[Pair]:
  """Pairs of equal parameters of which one is deeper and the other wider.

  Equal is: outside the embeddings, by EQUAL_SIZE at most. The deeper one is narrower in
  width or in feed-forward, and in neither wider; all other axes are equal.
  """
  size_P = column(family, "params_non_embedding")
  depth_P, width_P, ffn_P = (
    depth(family),
    column(family, "d_model"),
    column(family, "d_ff"),
  )
  others = other_axes(family, (*depth_axes(family), *WIDTH, *FFN))
  found = []
  for deep in range(len(size_P)):
    for wide in range(len(size_P)):
      small, large = sorted((size_P[deep], size_P[wide]))
      if not (small > 0 and large <= (1 + EQUAL_SIZE) * small):
        continue
      narrower = width_P[deep] < width_P[wide] or ffn_P[deep] < ffn_P[wide]
      no_wider = width_P[deep] <= width_P[wide] and ffn_P[deep] <= ffn_P[wide]
      if depth_P[deep] > depth_P[wide] and narrower and no_wider:
        if others[deep] == others[wide]:
          found.append(Pair(deep, wide))
  return sorted(found, key=lambda pair: (size_P[pair.deep], pair))


def equal_groups(family: Family) -> list[list[int]]:
  """Points that pairs of `equal_size` join, the smallest first."""
  groups: list[set[int]] = []
  for pair in equal_size(family):
    met = [group for group in groups if group & set(pair)]
    groups = [group for group in groups if group not in met]
    groups.append(set(pair).union(*met))
  size_P = column(family, "params_non_embedding")
  return sorted(map(sorted, groups), key=lambda group: size_P[group[0]])


def narrowing(family: Family) -> list[Narrowing]:
  """For every depth and width that has them, its feed-forwards."""
  ffn_P = column(family, "d_ff")
  names = [name for name in family.axes if name not in FFN]
  rows = family.points.to_dicts()
  found = []
  for places in group_by(other_axes(family, FFN)):
    places = places[np.isfinite(ffn_P[places])]
    places = places[np.argsort(ffn_P[places], kind="stable")]
    widths = tuple(int(value) for value in ffn_P[places])
    if len(set(widths)) > 1:
      name = points_lib.name_of(rows[places[0]], names)
      found.append(Narrowing(name, tuple(places.tolist()), widths))
  return found


def grids(family: Family) -> list[Grid]:
  """Points by depth and width, a grid for all else that is equal.

  A grid has two depths and two widths at least. The fullest comes first, of several
  that of the most data.
  """
  depth_P, width_P = depth(family), column(family, "d_model")
  shape = (*depth_axes(family), *WIDTH)
  names = [name for name in family.axes if name not in shape]
  rows = family.points.to_dicts()
  found = []
  known_P = np.isfinite(depth_P) & np.isfinite(width_P)
  for places in group_by(other_axes(family, shape)):
    places = places[known_P[places]]
    depths, row = np.unique(depth_P[places], return_inverse=True)
    widths, place = np.unique(width_P[places], return_inverse=True)
    if min(len(depths), len(widths)) < 2:
      continue
    point_DW = np.full((len(depths), len(widths)), -1)
    point_DW[row, place] = places
    name = points_lib.name_of(rows[places[0]], names) if names else ""
    sizes = (tuple(int(v) for v in values) for values in (depths, widths))
    found.append(Grid(name, *sizes, point_DW))
  data_P = column(family, "interactions")

  def order(grid: Grid):
    inside = grid.point_DW[grid.point_DW >= 0]
    return -len(inside), -data_P[inside].max()

  return sorted(found, key=order)


def column(family: Family, name: str) -> np.ndarray:
  """[P] float64; NaN where it is null."""
  return family.points[name].cast(pl.Float64).fill_null(np.nan).to_numpy()


def depth(family: Family) -> np.ndarray:
  """[P] layers of the encoder, or of the decoder where there is no encoder."""
  layers_P = column(family, "num_layers")
  return np.where(layers_P > 0, layers_P, column(family, "num_decoder_layers"))


def depth_axes(family: Family) -> tuple[str, ...]:
  """The axes that `depth` is of; where both stacks vary apart, the other is not."""
  encoder = (column(family, "num_layers") > 0).any()
  return SHAPE if encoder else ("depth", "model.num_decoder_layers")


def other_axes(family: Family, without: Sequence[str]) -> list[tuple[Any, ...]]:
  """Returns each point's values on all axes but `without`."""
  names = [name for name in family.axes if name not in without]
  return family.points.select(names).rows() if names else [()] * len(family.points)


def group_by(keys: Sequence[Any]) -> list[np.ndarray]:
  """Returns the indices of equal keys, groups in order of first appearance."""
  groups: dict[Any, list[int]] = {}
  for place, key in enumerate(keys):
    groups.setdefault(key, []).append(place)
  return [np.array(group) for group in groups.values()]


def _positive(values_P: np.ndarray) -> np.ndarray:
  return np.isfinite(values_P) & (values_P > 0)
