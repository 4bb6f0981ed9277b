"""Panels of a study's figures: points, power laws, Pareto fronts and heat maps.

A panel is 320 points wide, so that its text is as large as in the report's other
charts. Colour and marker together stand for one value of an axis.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lightlm_jax.reporting import drawing as figures
from lightlm_jax.reporting import html as page
from lightlm_jax.studies import fronts
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.law import Fit
from lightlm_jax.studies.points import LOSS, SIZE, Family, Measure

MOST_NAMED = 12  # series in a legend
_MARKERS = "os^Dvph*"
_LETTER = {"ha": "right", "va": "top", "weight": "bold", "fontsize": 11}
_POINT = {"markersize": 6, "markeredgewidth": 0.7, "elinewidth": 1.1}
_WIDTH, _HEIGHT = 320 / 72, 270 / 72  # inches of a panel


class Drawing(NamedTuple):
  """A figure with its title and caption."""

  name: str  # of its files, without suffix
  title: str
  caption: str
  panels: int  # number of panels, side by side
  figure: object


class Series(NamedTuple):
  """The points with one value of an axis."""

  label: str
  places: tuple[int, ...]
  colour: str
  marker: str


def colour(name: str) -> str:
  return page.colours()[name]


def one(number: int, label: str, places: Sequence[int]) -> Series:
  """Returns series `number`, from 0, with its colour and marker."""
  marker = _MARKERS[number % len(_MARKERS)]
  return Series(label, tuple(map(int, places)), colour(f"s{number % 8 + 1}"), marker)


def series_by_axis(family: Family) -> list[Series]:
  """Returns the points by depth, or by the first axis if depth does not vary."""
  axes = sorted(family.axes, key=lambda name: name not in fronts.SHAPE)
  if not axes:
    return [one(0, "", range(len(family.points)))]
  return series_of(family.points[axes[0]].to_list(), axes[0])


def series_of(value_P: Sequence[float], name: str) -> list[Series]:
  """Returns the points by value, in ascending order."""
  found = []
  for number, value in enumerate(sorted(set(value_P))):
    places = [p for p, other in enumerate(value_P) if other == value]
    found.append(one(number, f"{name} {points_lib.number(value)}", places))
  return found


def places(family: Family, measure: Measure, x_P: np.ndarray) -> np.ndarray:
  """Returns the points that have a value and a positive x."""
  value_P = family.column(measure.column)
  return np.flatnonzero(np.isfinite(value_P) & np.isfinite(x_P) & (x_P > 0))


class Panels:
  """A figure with a panel for each measure and a legend of its series."""

  def __init__(self, family: Family, measures: Sequence[Measure], *, x: str):
    self.family = family
    self.series = series_by_axis(family)
    self.short = "loss" if measures[0] is LOSS else "ndcg"
    self.what = measures[0].name.replace("validation", "Validation")
    self.figure = figures.new(_WIDTH * len(measures), _HEIGHT)
    self.panels = self.figure.subplots(1, len(measures), squeeze=False)[0]
    for measure, panel in zip(measures, self.panels):
      dataset = str(family.key["dataset"])
      panel.set_title(f"{dataset}, {measure.rule}" if measure.rule else dataset)
      panel.set_xlabel(x)
      panel.set_ylabel(measure.name + (", nats per item" if measure is LOSS else ""))

  def scatter(self, panel, measure, x_P, running: Sequence[str] | None) -> None:
    """Draws all points; a line joins those that differ only in `running`."""
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
        markeredgecolor=colour("paper"),
      )

  def done(self, name: str, title: str, caption: str) -> Drawing:
    shown = [series for series in self.series if series.label]
    if shown and len(shown) <= MOST_NAMED:
      handles, labels = self.panels[0].get_legend_handles_labels()
      room = 72 * _WIDTH * len(self.panels)
      columns = max(1, int(room // (7 * max(map(len, labels)) + 30)))
      spaces = {"handletextpad": 0.2, "columnspacing": 1.2}
      where = "outside lower center"
      self.figure.legend(handles, labels, loc=where, ncols=columns, **spaces)
      self.figure.set_figheight(_HEIGHT + 0.24 * -(-len(labels) // columns))
    return Drawing(name, title, caption, len(self.panels), self.figure)


def log_axis(panel, x_N: np.ndarray) -> None:
  """Makes the x axis logarithmic, with few ticks such as 300 k or 1.2 M."""
  low, high = float(x_N.min()), float(x_N.max())
  for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    ticks = [tick for tick in ticks if 0.9 * low <= tick <= 1.1 * high]
    if len(ticks) > 2:
      break
  ticks = ticks[:: 1 + len(ticks) // 6] if len(ticks) > 1 else sorted({low, high})
  panel.set_xscale("log")
  panel.set_xticks(ticks, [_tick(tick) for tick in ticks])
  panel.set_xticks([], minor=True)


def _tick(value: float) -> str:
  return points_lib.amount(value) if value < 1e10 else f"{value:.2g}".replace("+", "")


def draw_law(panel, law: Fit, x_P: np.ndarray) -> None:
  grid = np.geomspace(x_P.min(), x_P.max(), 80)
  low, high = law.band(grid)
  panel.fill_between(grid, low, high, color=colour("s8"), alpha=0.25, linewidth=0)
  panel.plot(grid, law.law(grid), "--", color=colour("ink"), linewidth=1.3)


def draw_front(family: Family, panel, measure: Measure, cost_P: np.ndarray) -> None:
  value_P = family.column(measure.column)
  cost_P = np.where(cost_P > 0, cost_P, np.nan)
  front = fronts.pareto(cost_P, value_P, lower=measure.lower_is_better)
  step = {"drawstyle": "steps-post", "linewidth": 1.3, "zorder": 1.5}
  panel.plot(cost_P[front], value_P[front], color=colour("ink"), **step)
  if measure.test:
    test_P = family.column(measure.test)
    hollow = {"markerfacecolor": "none", "markeredgecolor": colour("muted")}
    panel.plot(cost_P[front], test_P[front], "o", markersize=6, **hollow)


def draw_cells(
  family: Family,
  panel,
  grid: fronts.Grid,
  measure: Measure,
  equal: Sequence[Sequence[int]],
) -> None:
  """Draws a heat map: depth upwards, width to the right; darker is better.

  Each group of `equal` points, by parameters, is marked with a letter.
  """
  point_DW, size_P = grid.point_DW, family.column(SIZE)
  value_DW = np.where(point_DW >= 0, family.column(measure.column)[point_DW], np.nan)
  worth_DW = -value_DW if measure.lower_is_better else value_DW
  low, high = np.nanmin(worth_DW), np.nanmax(worth_DW)
  strength_DW = (worth_DW - low) / (high - low) if high > low else worth_DW * 0
  for (row, place), value in np.ndenumerate(value_DW):
    if not np.isfinite(value):
      continue
    # Bars stay vectors; an image would put pixels into the SVG.
    shade = {"color": colour("s1"), "alpha": 0.06 + 0.5 * strength_DW[row, place]}
    panel.bar(place, 0.96, width=0.96, bottom=row - 0.48, linewidth=0, **shade)
    size = points_lib.amount(float(size_P[point_DW[row, place]]))
    text = f"{value:.3f}" if measure is LOSS else f"{value:.4f}".removeprefix("0")
    panel.text(place, row + 0.16, text, ha="center", va="center", weight="bold")
    panel.text(place, row - 0.2, size, ha="center", va="center", color=colour("ink"))
  for letter, cells in zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", equal):
    for row, place in np.argwhere(np.isin(point_DW, cells)):
      panel.text(place + 0.44, row + 0.44, letter, color=colour("s2"), **_LETTER)
  panel.set_xlim(-0.5, len(grid.widths) - 0.5)
  panel.set_ylim(-0.5, len(grid.depths) - 0.5)
  panel.set_xticks(range(len(grid.widths)), list(map(str, grid.widths)))
  panel.set_yticks(range(len(grid.depths)), list(map(str, grid.depths)))
  panel.set_ylabel("depth")
  panel.grid(visible=False)
