"""The figures of a study; each returns None where the points do not support it."""

from collections.abc import Sequence

import numpy as np

from lightlm_jax.studies import fronts, panels
from lightlm_jax.studies.law import Fit
from lightlm_jax.studies.panels import Drawing, Panels
from lightlm_jax.studies.points import DATA, LOSS, NAMES, SIZE, Family, Measure

AGAINST = {
  "parameters": SIZE,
  "flops": "train_flops",
  "data": DATA,
  "seconds": "train_seconds",
}


def against(
  family: Family, cost: str, measures: Sequence[Measure], law: Fit | None = None
) -> Drawing | None:
  """Draws measures against a cost or the data; None if that is equal for all points.

  The Pareto front is drawn where there is no law.

  Args:
    family: the points.
    cost: a name of AGAINST.
    measures: one panel each; measures that no point has are left out.
    law: the fitted law of the only measure in this variable.
  """
  name = AGAINST[cost]
  if name == SIZE and LOSS not in measures:
    name = "params"
  label = NAMES[name] + (", embeddings included" if name == "params" else "")
  cost_P = family.column(name)
  known = {m: cost_P[panels.places(family, m, cost_P)] for m in measures}
  measures = [m for m in measures if len(np.unique(known[m])) > 1]
  if not measures:
    return None
  drawn = Panels(family, measures, x=label)
  front = not law and name != DATA
  running = ("data.share",) if name == DATA else fronts.WIDTH
  for measure, panel in zip(measures, drawn.panels):
    if law:
      panels.draw_law(panel, law, known[measure])
    elif front:
      panels.draw_front(family, panel, measure, cost_P)
    drawn.scatter(panel, measure, cost_P, None if front else running)
    panels.log_axis(panel, known[measure])
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
  known = panels.places(family, LOSS, size_P)
  amounts = np.unique(data_P[known])
  grid = np.geomspace(size_P[known].min(), size_P[known].max(), 80)
  drawn.series = panels.series_of(data_P.tolist(), "interactions")
  for series, amount in zip(drawn.series, amounts):
    low, high = law.band(grid, amount)
    panel.fill_between(grid, low, high, color=series.colour, alpha=0.15, linewidth=0)
    panel.plot(grid, law.law(grid, amount), "--", color=series.colour, linewidth=1.2)
  drawn.scatter(panel, LOSS, size_P, None)
  panels.log_axis(panel, size_P[known])
  caption = "Dashed: L = a·N^-α + b·D^-β + c; shaded: 95 % bootstrap band."
  return drawn.done("loss-law", "Loss by parameters and data", caption)


def iso_flop(family: Family, found: Sequence[fronts.IsoFlop]) -> Drawing | None:
  """Draws the loss against parameters with a parabola for each group of equal FLOPs."""
  if not found:
    return None
  size_P = family.column(SIZE)
  drawn = Panels(family, [LOSS], x=NAMES[SIZE])
  (panel,) = drawn.panels
  drawn.series = []
  for number, group in enumerate(found):
    places = np.array(group.points)
    low, high = (f"{flops:.1e}" for flops in (group.low, group.high))
    span = low if low == high else f"{low} to {high}"
    series = panels.one(number, f"{span} FLOPs", group.points)
    drawn.series.append(series)
    grid = np.geomspace(size_P[places].min(), size_P[places].max(), 60)
    expected = np.polyval(group.curve, np.log(grid))
    panel.plot(grid, expected, color=series.colour, linewidth=1.2)
    if group.best_size is not None:
      best = np.polyval(group.curve, np.log(group.best_size))
      panel.plot(group.best_size, best, "|", color=series.colour, ms=18, mew=2)
  drawn.scatter(panel, LOSS, size_P, None)
  panels.log_axis(panel, size_P[[place for group in found for place in group.points]])
  caption = (
    f"FLOPs within a factor of {fronts.EQUAL_FLOPS}; parabolas in log N, the minimum "
    "marked where it lies between the points."
  )
  return drawn.done("iso-flop", "Loss at equal FLOPs", caption)


def narrowing(
  family: Family, found: Sequence[Sequence[int]], measures: Sequence[Measure]
) -> Drawing | None:
  """Draws measures against the feed-forward width, a line for each shape."""
  ffn_P = family.column("d_ff")
  known = [m for m in measures if len(panels.places(family, m, ffn_P)) > 1]
  if not found or not known:
    return None
  drawn = Panels(family, known, x="d_ff, width of the feed-forward")
  inside = {place for line in found for place in line}
  kept = (
    series._replace(places=tuple(place for place in series.places if place in inside))
    for series in drawn.series
  )
  drawn.series = [series for series in kept if series.places]
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
  """Draws a heat map of depth and width; a letter marks cells of equal parameters."""
  size_P = family.column(SIZE)
  inside = set(grid.point_DW.ravel().tolist())
  known = [
    m for m in measures if inside & set(panels.places(family, m, size_P).tolist())
  ]
  if not known:
    return None
  drawn = Panels(family, known, x="width")
  drawn.series = []
  equal = [g for g in fronts.equal_groups(family) if len(inside & set(g)) > 1]
  for measure, panel in zip(known, drawn.panels):
    panels.draw_cells(family, panel, grid, measure, equal)
    panel.set_title(f"{family.key['dataset']}, {measure.title}")
  caption = "Below each value: parameters outside the embeddings. Darker is better."
  if equal:
    percent = round(100 * fronts.EQUAL_SIZE)
    caption += f" Cells with the same letter have equal parameters (±{percent} %)."
  title = f"{drawn.what} by depth and width{grid.name and f', {grid.name}'}"
  return drawn.done(f"shape-{drawn.short}", title, caption)
