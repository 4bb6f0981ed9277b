"""Which shapes are worth their cost: Pareto fronts, iso-FLOP curves, equal parameters.

Everything works on the points of one family, by their means over seeds. Letters: P
points, D depths, W widths.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.csgraph

from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.points import Family, Measure

COSTS = {
  "params": "parameters",
  "train_flops": "training FLOPs until the best step",
  "train_seconds": "training seconds",
}
EQUAL_FLOPS = 1.5  # largest ratio of the FLOPs within an iso-FLOP group
EQUAL_SIZE = 0.10  # largest relative difference of equal parameter counts
SHAPE = ("depth", "model.num_layers")
WIDTH = ("width", "model.d_model")
FFN = ("ffn", "model.d_ff")


class IsoFlop(NamedTuple):
  """Points of about equal FLOPs, and a parabola of the loss in log N through them."""

  low: float  # FLOPs
  high: float
  points: tuple[int, ...]  # by size
  curve: tuple[float, float, float]  # coefficients of (ln N)², ln N and 1
  best_size: float | None  # N of the minimum, if it lies between the points
  interval: tuple[float, float] | None  # of best_size, over seeds
  reason: str | None  # why there is no best size


class Pair(NamedTuple):
  """Two points with equal parameters outside the embeddings."""

  deep: int  # the deeper one, narrower in width, in feed-forward or in both
  wide: int


class Narrowing(NamedTuple):
  """Points that differ only in their feed-forward width, the narrowest first."""

  name: str  # the other axes
  points: tuple[int, ...]
  d_ff: tuple[int, ...]


class Grid(NamedTuple):
  """Points by depth and width, equal in all other axes; -1 marks an empty cell."""

  name: str  # the other axes
  depths: tuple[int, ...]
  widths: tuple[int, ...]
  point_DW: np.ndarray


def pareto(cost_P: np.ndarray, value_P: np.ndarray, *, lower: bool) -> np.ndarray:
  """Returns the Pareto front, from the cheapest point to the best.

  Args:
    cost_P: [P] lower is better.
    value_P: [P].
    lower: whether lower values are better.

  Returns:
    [F] indices; points that are equal in both are all kept.
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
  """Returns the fewest groups in which no two values differ by more than a ratio."""
  found: list[list[int]] = []
  for place in np.argsort(value_P, kind="stable"):
    if found and value_P[place] <= value_P[found[-1][0]] * ratio:
      found[-1].append(place)
    else:
      found.append([place])
  return [np.array(group, np.int64) for group in found]


def iso_flop(family: Family, measure: Measure) -> list[IsoFlop]:
  """Returns a parabola for each group of at least four sizes of about equal FLOPs.

  Through three sizes there is always a parabola.
  """
  columns = ("train_flops", "params_non_embedding", measure.column)
  flops_P, size_P, value_P = map(family.column, columns)
  known = np.flatnonzero(_positive(flops_P) & _positive(size_P) & np.isfinite(value_P))
  seeds_P = family.points[f"{measure.column}:seeds"].to_numpy()
  spread = family.spread(measure)
  found = []
  for group in bins(flops_P[known], EQUAL_FLOPS):
    places = known[group]
    places = places[np.argsort(size_P[places], kind="stable")]
    if len(np.unique(size_P[places])) >= 4:
      sign = 1 if measure.lower_is_better else -1
      (a, b, c), best, interval, reason = _parabola(
        size_P[places], sign * value_P[places], spread, seeds_P[places]
      )
      low, high = float(flops_P[places].min()), float(flops_P[places].max())
      curve, points = (sign * a, sign * b, sign * c), tuple(places.tolist())
      found.append(IsoFlop(low, high, points, curve, best, interval, reason))
  return found


def _parabola(
  size_N, value_N, spread, seeds_N, *, draws: int = 400, seed: int = 0
) -> tuple[
  tuple[float, float, float], float | None, tuple[float, float] | None, str | None
]:
  """Returns curve, size of the minimum, its interval, and why there is no minimum."""
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
    return curve, None, None, "the parabola opens downwards, so it has no best size"
  best = float(lowest((a, b, c)))
  if not low < best < high:
    edge = "smallest" if best <= low else "largest"
    return curve, None, None, f"the best size lies beyond the {edge} that was tried"
  size = float(np.exp(middle + half * best))
  if spread is None:
    return curve, size, None, None
  # Means that other seeds could have given; the spread itself is an estimate too.
  rng = np.random.default_rng(seed)
  std_D = spread.std * np.sqrt(spread.freedom / rng.chisquare(spread.freedom, draws))
  noise_ND = std_D * rng.normal(size=(len(x_N), draws)) / np.sqrt(seeds_N)[:, None]
  best_D = lowest(np.polyfit(at_N, value_N[:, None] + noise_ND, 2))
  ends = np.quantile(best_D, [0.025, 0.975], method="nearest")
  if not (low < ends[0] and ends[1] < high):
    reason = "seeds deviate too much to tell the best size from the edges"
    return curve, None, None, reason
  low, high = (float(np.exp(middle + half * end)) for end in ends)
  return curve, size, (low, high), None


def equal_size(family: Family) -> list[Pair]:
  """Returns pairs of equal parameters of which one is deeper and the other wider.

  Parameters outside the embeddings are equal if they differ by EQUAL_SIZE at most. The
  deeper point is narrower in width or in feed-forward, and in neither wider; all other
  axes are equal.
  """
  size_P, depth_P = family.column("params_non_embedding"), depth(family)
  width_P, ffn_P = family.column("d_model"), family.column("d_ff")
  others = other_axes(family, (*depth_axes(family), *WIDTH, *FFN))
  found = []
  for deep, wide in np.argwhere(depth_P[:, None] > depth_P).tolist():
    small, large = sorted((size_P[deep], size_P[wide]))
    narrower = width_P[deep] < width_P[wide] or ffn_P[deep] < ffn_P[wide]
    no_wider = width_P[deep] <= width_P[wide] and ffn_P[deep] <= ffn_P[wide]
    equal = small > 0 and large <= (1 + EQUAL_SIZE) * small
    if equal and narrower and no_wider and others[deep] == others[wide]:
      found.append(Pair(deep, wide))
  return sorted(found, key=lambda pair: (size_P[pair.deep], pair))


def equal_groups(family: Family) -> list[list[int]]:
  """Returns the groups of points that pairs of `equal_size` connect, by size."""
  size_P = family.column("params_non_embedding")
  joined_PP = np.zeros((len(size_P), len(size_P)), bool)
  for pair in equal_size(family):
    joined_PP[pair] = True
  _, group_P = scipy.sparse.csgraph.connected_components(joined_PP)
  groups = [group.tolist() for group in group_by(group_P.tolist()) if len(group) > 1]
  return sorted(groups, key=lambda group: size_P[group[0]])


def narrowing(family: Family) -> list[Narrowing]:
  """Returns, for each shape with several feed-forward widths, its points by width."""
  ffn_P = family.column("d_ff")
  names = [name for name in family.axes if name not in FFN]
  found = []
  for places in group_by(other_axes(family, FFN)):
    places = places[np.isfinite(ffn_P[places])]
    places = places[np.argsort(ffn_P[places], kind="stable")]
    widths = tuple(int(value) for value in ffn_P[places])
    if len(set(widths)) > 1:
      name = points_lib.name_of(family.points.row(places[0], named=True), names)
      found.append(Narrowing(name, tuple(places.tolist()), widths))
  return found


def grids(family: Family) -> list[Grid]:
  """Returns a grid of depth and width for each combination of the other axes.

  A grid has at least two depths and two widths. The fullest grid comes first, and of
  equally full ones the one with the most data.
  """
  depth_P, width_P = depth(family), family.column("d_model")
  data_P = family.column("interactions")
  shape = (*depth_axes(family), *WIDTH)
  names = [name for name in family.axes if name not in shape]
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
    first = family.points.row(places[0], named=True)
    name = points_lib.name_of(first, names) if names else ""
    depths, widths = (tuple(map(int, values)) for values in (depths, widths))
    found.append(Grid(name, depths, widths, point_DW))

  def order(grid: Grid):
    inside = grid.point_DW[grid.point_DW >= 0]
    return -len(inside), -data_P[inside].max()

  return sorted(found, key=order)


def depth(family: Family) -> np.ndarray:
  """Returns the layers of the encoder, or of the decoder without an encoder, [P]."""
  layers_P = family.column("num_layers")
  return np.where(layers_P > 0, layers_P, family.column("num_decoder_layers"))


def depth_axes(family: Family) -> tuple[str, ...]:
  """Returns the axes that set `depth`."""
  encoder = (family.column("num_layers") > 0).any()
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
