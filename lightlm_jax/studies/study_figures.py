"""Draws the figures of a study; functions return None if the points do not suffice.

A panel is 320 pt (320/72 inches) wide, so that its text is as large as in the report's
other charts. Colour and marker denote a value of a swept field.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightlm_jax.reporting import drawing, html
from lightlm_jax.studies import fronts
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.law import Fit
from lightlm_jax.studies.points import DATA, LOSS, NAMES, SIZE, Family, Measure

AGAINST = {
  "parameters": SIZE,
  "flops": "train_flops",
  "data": DATA,
  "seconds": "train_seconds",
}
_MARKERS = "os^Dvph*"
_LETTER = {"ha": "right", "va": "top", "weight": "bold", "fontsize": 11}
_POINT = {"markersize": 6, "markeredgewidth": 0.7, "elinewidth": 1.1}
_COLOUR = html.colours()
_WIDTH, _HEIGHT = 320 / 72, 270 / 72  # inches of a panel


class Drawing(NamedTuple):
  """A figure with its title and caption."""

  name: str  # name of its files, without suffix
  title: str
  caption: str
  panels: int  # number of panels, side by side
  figure: object


class Series(NamedTuple):
  """Points with the same value on an axis, drawn in the same colour and marker."""

  label: str
  places: tuple[int, ...]  # indices of its points
  colour: str
  marker: str


def styled(number: int, label: str, places: Sequence[int]) -> Series:
  """Builds a series; `places` index its points, `number` ≥ 0 sets colour and marker."""
  marker = _MARKERS[number % len(_MARKERS)]
  return Series(label, tuple(map(int, places)), _COLOUR[f"s{number % 8 + 1}"], marker)


def series_of(value_P: Sequence[float], name: str) -> list[Series]:
  """Builds a series per value in value_P, the points' values on the axis `name`."""
  found = []
  for number, value in enumerate(sorted(set(value_P))):
    places = [p for p, other in enumerate(value_P) if other == value]
    found.append(styled(number, f"{name} {points_lib.number(value)}", places))
  return found


def places(family: Family, measure: Measure, x_P: np.ndarray) -> np.ndarray:
  """Returns the indices of points with a value of the measure and a positive `x_P`."""
  value_P = family.column(measure.column)
  return np.flatnonzero(np.isfinite(value_P) & np.isfinite(x_P) & (x_P > 0))


class Panels:
  """A figure with a panel for each measure and a legend of its series."""

  def __init__(self, family: Family, measures: Sequence[Measure], *, x: str):
    self.family = family
    self.series = [styled(0, "", range(len(family.points)))]
    # A series for each depth, or for each value of the first axis if depth is constant.
    for axis in sorted(family.axes, key=lambda name: name not in fronts.SHAPE)[:1]:
      self.series = series_of(family.points[axis].to_list(), axis)
    self.short = "loss" if measures[0] is LOSS else "ndcg"
    self.what = measures[0].name.replace("validation", "Validation")
    self.figure = drawing.new(_WIDTH * len(measures), _HEIGHT)
    self.panels = self.figure.subplots(1, len(measures), squeeze=False)[0]
    for measure, panel in zip(measures, self.panels):
      dataset = str(family.key["dataset"])
      panel.set_title(f"{dataset}, {measure.rule}" if measure.rule else dataset)
      panel.set_xlabel(x)
      panel.set_ylabel(measure.name + (", nats per item" if measure is LOSS else ""))

  def scatter(self, panel, measure, x_P, running: Sequence[str] | None) -> None:
    """Draws points against x_P; lines join points that only differ in `running`."""
    value_P = self.family.column(measure.column)
    std_P = self.family.column(f"{measure.column}:std")
    known = set(places(self.family, measure, x_P).tolist())
    for series in self.series:
      here = np.array([p for p in series.places if p in known], int)
      if running is not None and len(here):
        other_axes = fronts.other_axes(self.family, running)
        for group in fronts.group_by(other_axes[p] for p in here):
          line = here[group][np.argsort(x_P[here[group]], kind="stable")]
          style = {"color": series.colour, "linewidth": 1, "alpha": 0.55}
          panel.plot(x_P[line], value_P[line], **style)
      panel.errorbar(
        x_P[here],
        value_P[here],
        yerr=np.nan_to_num(std_P[here]),
        fmt=series.marker,
        color=series.colour,
        label=series.label,
        **_POINT,
        markeredgecolor=_COLOUR["paper"],
      )

  def done(self, name: str, title: str, caption: str) -> Drawing:
    shown = [series for series in self.series if series.label]
    if 0 < len(shown) <= 12:  # more would fill the figure
      handles, labels = self.panels[0].get_legend_handles_labels()
      room = 72 * _WIDTH * len(self.panels)
      columns = max(1, int(room // (7 * max(map(len, labels)) + 30)))
      spaces = {"handletextpad": 0.2, "columnspacing": 1.2}
      where = "outside lower center"
      self.figure.legend(handles, labels, loc=where, ncols=columns, **spaces)
      self.figure.set_figheight(_HEIGHT + 0.24 * -(-len(labels) // columns))
    return Drawing(name, title, caption, len(self.panels), self.figure)


def log_axis(panel, x_N: np.ndarray) -> None:
  """Makes the x axis logarithmic, with a few ticks (labels like 1.2 M) around `x_N`."""
  low, high = float(x_N.min()), float(x_N.max())
  for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    ticks = [tick for tick in ticks if 0.9 * low <= tick <= 1.1 * high]
    if len(ticks) > 2:
      break
  ticks = ticks[:: 1 + len(ticks) // 6] if len(ticks) > 1 else sorted({low, high})
  texts = [
    points_lib.amount(tick) if tick < 1e10 else f"{tick:.2g}".replace("+", "")
    for tick in ticks
  ]
  panel.set_xscale("log")
  panel.set_xticks(ticks, texts)
  panel.set_xticks([], minor=True)


def draw_front(family: Family, panel, measure: Measure, cost_P: np.ndarray) -> None:
  value_P = family.column(measure.column)
  cost_P = np.where(cost_P > 0, cost_P, np.nan)
  front = fronts.pareto(cost_P, value_P, lower=measure.lower_is_better)
  step = {"drawstyle": "steps-post", "linewidth": 1.3, "zorder": 1.5}
  panel.plot(cost_P[front], value_P[front], color=_COLOUR["ink"], **step)
  if measure.test:
    test_P = family.column(measure.test)
    hollow = {"markerfacecolor": "none", "markeredgecolor": _COLOUR["muted"]}
    panel.plot(cost_P[front], test_P[front], "o", markersize=6, **hollow)


def draw_cells(
  family: Family,
  panel,
  grid: fronts.Grid,
  measure: Measure,
  equal: Sequence[Sequence[int]],
) -> None:
  """Draws a heat map: depth upwards, width to the right; darker is better.

  Each group in `equal`, of points with equal parameter counts, gets a letter.
  """
  point_DW, size_P = grid.point_DW, family.column(SIZE)
  value_DW = np.where(point_DW >= 0, family.column(measure.column)[point_DW], np.nan)
  worth_DW = -value_DW if measure.lower_is_better else value_DW
  low, high = np.nanmin(worth_DW), np.nanmax(worth_DW)
  strength_DW = (worth_DW - low) / (high - low) if high > low else worth_DW * 0
  for row, place in np.argwhere(np.isfinite(value_DW)):
    value = value_DW[row, place]
    # Bars are vectors; an image would put pixels into the SVG.
    shade = {"color": _COLOUR["s1"], "alpha": 0.06 + 0.5 * strength_DW[row, place]}
    panel.bar(place, 0.96, width=0.96, bottom=row - 0.48, linewidth=0, **shade)
    size = points_lib.amount(float(size_P[point_DW[row, place]]))
    text = f"{value:.3f}" if measure is LOSS else f"{value:.4f}".removeprefix("0")
    panel.text(place, row + 0.16, text, ha="center", va="center", weight="bold")
    panel.text(place, row - 0.2, size, ha="center", va="center", color=_COLOUR["ink"])
  for letter, cells in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", equal):
    for row, place in np.argwhere(np.isin(point_DW, cells)):
      panel.text(place + 0.44, row + 0.44, letter, color=_COLOUR["s2"], **_LETTER)
  panel.set_xlim(-0.5, len(grid.widths) - 0.5)
  panel.set_ylim(-0.5, len(grid.depths) - 0.5)
  panel.set_xticks(range(len(grid.widths)), list(map(str, grid.widths)))
  panel.set_yticks(range(len(grid.depths)), list(map(str, grid.depths)))
  panel.set_ylabel("depth")
  panel.grid(visible=False)


def against(
  family: Family, cost: str, measures: Sequence[Measure], law: Fit | None = None
) -> Drawing | None:
  """Draws measures against `cost`, a key of AGAINST; None if all points have one cost.

  `law`, for a single measure, is drawn as a curve. Without a law the Pareto front is
  drawn, unless `cost` is "data".
  """
  name = AGAINST[cost]
  if name == SIZE and LOSS not in measures:
    name = "params"
  label = NAMES[name] + (", embeddings included" if name == "params" else "")
  cost_P = family.column(name)
  known = {m: cost_P[places(family, m, cost_P)] for m in measures}
  measures = [m for m in measures if len(np.unique(known[m])) > 1]
  if not measures:
    return None
  drawn = Panels(family, measures, x=label)
  front = not law and name != DATA
  running = ("data.share",) if name == DATA else fronts.WIDTH
  for measure, panel in zip(measures, drawn.panels):
    if law:
      grid = np.geomspace(known[measure].min(), known[measure].max(), 80)
      band = {"color": _COLOUR["s8"], "alpha": 0.25, "linewidth": 0}
      panel.fill_between(grid, *law.band(grid), **band)
      panel.plot(grid, law.law(grid), "--", color=_COLOUR["ink"], linewidth=1.3)
    elif front:
      draw_front(family, panel, measure, cost_P)
    drawn.scatter(panel, measure, cost_P, None if front else running)
    log_axis(panel, known[measure])
  caption = "Means over seeds; error bars are standard deviations."
  if law:
    low, high = law.intervals["alpha"]
    form, letter, held = "a·N^-α", "α", "with the most data"
    if name == DATA:
      form, letter, held = "b·D^-β", "β", "of one size"
    caption += (
      f" Dashed: L = {form} + c fitted to the runs {held}, {letter} = "
      f"{law.law.alpha:.2f} [{low:.2f}, {high:.2f}]; shaded: 95 % bootstrap band."
    )
  elif front:
    caption += " Line: Pareto front."
    if any(measure.test for measure in measures):
      caption += " Hollow: the same points on the test split, for reference only."
  title = f"{drawn.what} against {NAMES[name]}"
  return drawn.done(f"{drawn.short}-{cost}", title, caption)


def law_of_both(family: Family, law: Fit) -> Drawing:
  """Draws the loss against parameters, with the law's curve for each amount of data."""
  size_P, data_P = family.column(SIZE), family.column(DATA)
  drawn = Panels(family, [LOSS], x=NAMES[SIZE])
  (panel,) = drawn.panels
  known = places(family, LOSS, size_P)
  amounts = np.unique(data_P[known])
  grid = np.geomspace(size_P[known].min(), size_P[known].max(), 80)
  drawn.series = series_of(data_P.tolist(), "interactions")
  for series, amount in zip(drawn.series, amounts):
    band = {"color": series.colour, "alpha": 0.15, "linewidth": 0}
    panel.fill_between(grid, *law.band(grid, amount), **band)
    panel.plot(grid, law.law(grid, amount), "--", color=series.colour, linewidth=1.2)
  drawn.scatter(panel, LOSS, size_P, None)
  log_axis(panel, size_P[known])
  caption = "Dashed: L = a·N^-α + b·D^-β + c; shaded: 95 % bootstrap band."
  return drawn.done("loss-law", "Loss by parameters and data", caption)


def iso_flop(family: Family, found: Sequence[fronts.IsoFlop]) -> Drawing | None:
  """Draws the loss against parameters, and a parabola for each group of equal FLOPs."""
  if not found:
    return None
  size_P = family.column(SIZE)
  drawn = Panels(family, [LOSS], x=NAMES[SIZE])
  (panel,) = drawn.panels
  drawn.series = []
  for number, group in enumerate(found):
    point_G = np.array(group.points)
    low, high = (f"{flops:.1e}" for flops in (group.low, group.high))
    span = low if low == high else f"{low} to {high}"
    series = styled(number, f"{span} FLOPs", group.points)
    drawn.series.append(series)
    grid = np.geomspace(size_P[point_G].min(), size_P[point_G].max(), 60)
    expected = np.polyval(group.curve, np.log(grid))
    panel.plot(grid, expected, color=series.colour, linewidth=1.2)
    if group.best_size is not None:
      best = np.polyval(group.curve, np.log(group.best_size))
      panel.plot(group.best_size, best, "|", color=series.colour, ms=18, mew=2)
  drawn.scatter(panel, LOSS, size_P, None)
  log_axis(panel, size_P[[place for group in found for place in group.points]])
  caption = (
    f"FLOPs within a factor of {fronts.EQUAL_FLOPS}; parabolas in log N, the minimum "
    "marked where it lies between the points."
  )
  return drawn.done("iso-flop", "Loss at equal FLOPs", caption)


def narrowing(
  family: Family, found: Sequence[Sequence[int]], measures: Sequence[Measure]
) -> Drawing | None:
  """Draws measures against d_ff; points of a group in `found` differ only in d_ff."""
  ffn_P = family.column("d_ff")
  known = [m for m in measures if len(places(family, m, ffn_P)) > 1]
  if not found or not known:
    return None
  drawn = Panels(family, known, x="d_ff, width of the feed-forward")
  inside = {place for line in found for place in line}
  kept = ((s, tuple(p for p in s.places if p in inside)) for s in drawn.series)
  drawn.series = [series._replace(places=points) for series, points in kept if points]
  for measure, panel in zip(known, drawn.panels):
    drawn.scatter(panel, measure, ffn_P, fronts.FFN)
    panel.set_xscale("log", base=2)
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
  caption = (
    "Each line is one depth and width, all else equal; a narrower feed-forward has "
    "fewer parameters."
  )
  title = f"{drawn.what} by the feed-forward"
  return drawn.done(f"ffn-{drawn.short}", title, caption)


def heat_map(
  family: Family, grid: fronts.Grid, measures: Sequence[Measure]
) -> Drawing | None:
  """Draws a heat map of depth and width; cells of equal parameters share a letter."""
  size_P = family.column(SIZE)
  shown = grid.point_DW[grid.point_DW >= 0]
  known = [m for m in measures if np.isin(places(family, m, size_P), shown).any()]
  if not known:
    return None
  drawn = Panels(family, known, x="width")
  drawn.series = []
  equal = [g for g in fronts.equal_groups(family) if np.isin(g, shown).sum() > 1]
  for measure, panel in zip(known, drawn.panels):
    draw_cells(family, panel, grid, measure, equal)
    panel.set_title(f"{family.key['dataset']}, {measure.title}")
  caption = "Below each value: parameters outside the embeddings. Darker is better."
  if equal:
    caption += f" Cells with the same letter have equal parameters ({fronts.WITHIN})."
  title = f"{drawn.what} by depth and width{grid.name and f', {grid.name}'}"
  return drawn.done(f"shape-{drawn.short}", title, caption)
