"""Compares shapes by cost: Pareto fronts, iso-FLOP curves, equal parameter counts.

Points are those of one family, and their values are means over seeds. Letters: P
points, D depths, W widths.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse.csgraph

from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.points import DATA, LOSS, SIZE, Family, Spread

EQUAL_FLOPS = 1.5  # maximum ratio of FLOPs within an iso-FLOP group
EQUAL_SIZE = 0.10  # maximum relative difference of sizes that count as equal
WITHIN = f"±{100 * EQUAL_SIZE:.0f} %"
SHAPE = ("depth", "model.num_layers")
WIDTH = ("width", "model.d_model")
FFN = ("ffn", "model.d_ff")


class IsoFlop(NamedTuple):
  """Points of about equal FLOPs, and a parabola of loss against ln N (N is size)."""

  low: float  # FLOPs
  high: float
  points: tuple[int, ...]  # in ascending order of size
  curve: tuple[float, ...]  # coefficients of (ln N)², ln N and 1
  best_size: float | None  # N at the minimum; None if it is not between the points
  interval: tuple[float, float] | None  # of best_size, over seeds; None = unknown
  reason: str | None  # why there is no best size; None if there is one


class Grid(NamedTuple):
  """Points by depth and width, all else equal."""

  name: str  # values on the other axes, "" = there are none
  depths: tuple[int, ...]
  widths: tuple[int, ...]
  point_DW: np.ndarray  # indices of points, -1 = empty cell


def pareto(cost_P: np.ndarray, value_P: np.ndarray, *, lower: bool) -> np.ndarray:
  """Returns the indices of points on the Pareto front, from the cheapest to the best.

  A lower cost is better. A lower value is better if `lower` is True, otherwise a higher
  one. Points on the front that are equal in cost and value are all returned.
  """
  value_P = value_P if lower else -value_P
  known = np.flatnonzero(np.isfinite(cost_P) & np.isfinite(value_P))
  kept, best = [], (np.inf, np.inf)
  for place in known[np.lexsort((value_P[known], cost_P[known]))]:
    point = value_P[place], cost_P[place]
    if point[0] < best[0] or point == best:
      kept.append(place)
      best = point
  return np.array(kept, np.int64)


def bins(value_P: np.ndarray, ratio: float) -> list[np.ndarray]:
  """Returns the fewest groups of indices whose values lie within a factor `ratio`."""
  found: list[list[int]] = []
  for place in np.argsort(value_P, kind="stable"):
    if found and value_P[place] <= value_P[found[-1][0]] * ratio:
      found[-1].append(place)
    else:
      found.append([place])
  return [np.array(group, np.int64) for group in found]


def iso_flop(family: Family) -> list[IsoFlop]:
  """Fits a parabola of the loss to each group of points of about equal FLOPs.

  Groups of fewer than four sizes are left out: a parabola fits any three exactly.
  """
  flops_P, size_P, loss_P = map(family.column, ("train_flops", SIZE, LOSS.column))
  # Comparisons with NaN are false, so points without FLOPs or size are left out.
  known = np.flatnonzero((flops_P > 0) & (size_P > 0) & np.isfinite(loss_P))
  seeds_P = family.points[f"{LOSS.column}:seeds"].to_numpy()
  spread = family.spread(LOSS)
  found = []
  for group in bins(flops_P[known], EQUAL_FLOPS):
    places = known[group]
    places = places[np.argsort(size_P[places], kind="stable")]
    if len(np.unique(size_P[places])) >= 4:
      low, high = float(flops_P[places].min()), float(flops_P[places].max())
      fitted = _parabola(size_P[places], loss_P[places], spread, seeds_P[places])
      found.append(IsoFlop(low, high, tuple(places.tolist()), *fitted))
  return found


def _parabola(
  size_N: np.ndarray, loss_N: np.ndarray, spread: Spread | None, seeds_N: np.ndarray
) -> tuple[tuple[float, ...], float | None, tuple[float, float] | None, str | None]:
  """Fits a parabola to N points; returns fields `curve` to `reason` of `IsoFlop`."""
  x_N = np.log(size_N)
  middle, half = x_N.mean(), np.ptp(x_N) / 2
  at_N = (x_N - middle) / half
  low, high = at_N.min(), at_N.max()

  def lowest(curve):
    return np.where(curve[0] > 0, -curve[1] / (2 * curve[0] + 1e-300), np.inf)

  a, b, c = np.polyfit(at_N, loss_N, 2)
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
  # Draw means that other seeds could have given; the spread itself is an estimate too.
  rng, draws = np.random.default_rng(0), 400
  std_D = spread.std * np.sqrt(spread.freedom / rng.chisquare(spread.freedom, draws))
  noise_ND = std_D * rng.normal(size=(len(x_N), draws)) / np.sqrt(seeds_N)[:, None]
  best_D = lowest(np.polyfit(at_N, loss_N[:, None] + noise_ND, 2))
  ends = np.quantile(best_D, [0.025, 0.975], method="nearest")
  if not (low < ends[0] and ends[1] < high):
    reason = "seeds deviate too much to tell the best size from the edges"
    return curve, None, None, reason
  low, high = (float(np.exp(middle + half * end)) for end in ends)
  return curve, size, (low, high), None


def equal_size(family: Family) -> list[tuple[int, int]]:
  """Returns pairs (deeper, wider) of points with equal parameter counts.

  Non-embedding parameters differ by at most EQUAL_SIZE, as a fraction. In the deeper
  point, d_model or d_ff is smaller and neither is larger; all other axes are equal.
  """
  size_P, (depth_P, axes) = family.column(SIZE), depth(family)
  width_P, ffn_P = family.column("d_model"), family.column("d_ff")
  others = other_axes(family, (*axes, *WIDTH, *FFN))
  found = []
  for deep, wide in np.argwhere(depth_P[:, None] > depth_P).tolist():
    small, large = sorted((size_P[deep], size_P[wide]))
    narrower = width_P[deep] < width_P[wide] or ffn_P[deep] < ffn_P[wide]
    no_wider = width_P[deep] <= width_P[wide] and ffn_P[deep] <= ffn_P[wide]
    equal = small > 0 and large <= (1 + EQUAL_SIZE) * small
    if equal and narrower and no_wider and others[deep] == others[wide]:
      found.append((deep, wide))
  return sorted(found, key=lambda pair: (size_P[pair[0]], pair))


def equal_groups(family: Family) -> list[list[int]]:
  """Returns groups of points linked by pairs of `equal_size`, small models first."""
  size_P = family.column(SIZE)
  joined_PP = np.zeros((len(size_P), len(size_P)), bool)
  for pair in equal_size(family):
    joined_PP[pair] = True
  _, group_P = scipy.sparse.csgraph.connected_components(joined_PP)
  groups = [group.tolist() for group in group_by(group_P.tolist()) if len(group) > 1]
  return sorted(groups, key=lambda group: size_P[group[0]])


def narrowing(family: Family) -> list[tuple[int, ...]]:
  """Returns groups of points that differ only in d_ff, each group sorted by d_ff.

  There is a group for each shape that was trained with several values of d_ff.
  """
  ffn_P = family.column("d_ff")
  found = []
  for places in group_by(other_axes(family, FFN)):
    places = places[np.isfinite(ffn_P[places])]
    places = places[np.argsort(ffn_P[places], kind="stable")]
    if len(np.unique(ffn_P[places])) > 1:
      found.append(tuple(places.tolist()))
  return found


def grids(family: Family) -> list[Grid]:
  """Returns a grid of depth and width for each combination of values on other axes.

  Grids of only one depth or width are left out. The grid with the most points comes
  first; at a tie, the one with the most training interactions.
  """
  (depth_P, axes), width_P = depth(family), family.column("d_model")
  shape = (*axes, *WIDTH)
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
    return -len(inside), -family.column(DATA)[inside].max()

  return sorted(found, key=order)


def depth(family: Family) -> tuple[np.ndarray, tuple[str, ...]]:
  """Returns [P] layers, of the encoder if there is one, and the axes that set depth."""
  layers_P = family.column("num_layers")
  depth_P = np.where(layers_P > 0, layers_P, family.column("num_decoder_layers"))
  encoder = (layers_P > 0).any()
  return depth_P, SHAPE if encoder else ("depth", "model.num_decoder_layers")


def other_axes(family: Family, without: Sequence[str]) -> list[tuple[Any, ...]]:
  """Returns each point's values on all axes except `without`."""
  names = [name for name in family.axes if name not in without]
  return points_lib.rows(family.points, names)


def group_by(keys: Iterable[Any]) -> list[np.ndarray]:
  """Groups the indices of equal keys; groups are in order of their first index."""
  groups: dict[Any, list[int]] = {}
  for place, key in enumerate(keys):
    groups.setdefault(key, []).append(place)
  return [np.array(group) for group in groups.values()]
