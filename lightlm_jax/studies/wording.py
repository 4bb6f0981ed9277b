"""Puts findings into sentences; "better" means that the difference is significant."""

from collections.abc import Sequence

from lightlm_jax.studies import fronts, law
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.findings import LAWS, Compared, Findings
from lightlm_jax.studies.points import DECIDING, LOSS, NAMES, SIZE, Measure

MOST_PAIRS = 4  # maximum number of pairs that get a sentence each
# For each law: its formula, and {letter: field of `Law`} of its parameters.
_FORMS = {
  "parameters": ("a·N^-α + c", {"α": "alpha", "c": "c"}),
  "data": ("b·D^-β + c", {"β": "alpha", "c": "c"}),
  "both": ("a·N^-α + b·D^-β + c", {"α": "alpha", "β": "beta", "c": "c"}),
}


def said(found: Findings) -> list[str]:
  """Returns sentences about a family, the most important first."""
  return [
    *_best(found),
    _seeds(found),
    *_depth_width(found),
    *_narrowing(found),
    *_laws(found),
    *_iso_flop(found),
    *_fronts(found),
  ]


def value(measure: Measure, number: float, sign: str = "") -> str:
  return f"{number:{sign}.{3 if measure is LOSS else 4}f}"


def mean(measure: Measure, number: float, half: float | None, sign: str = "") -> str:
  """Formats a mean; adds "± `half`", half its interval's width, unless that is None.

  If `sign` is "+", a positive mean is written with its sign.
  """
  text = value(measure, number, sign)
  return text if half is None else f"{text} ± {value(measure, half)}"


def _best(found: Findings) -> list[str]:
  if not found.best:
    return ["No run has a validation NDCG@10, so no best point is chosen."]
  family, names, place = found.family, found.family.names(), found.best.place
  row = family.points.row(place, named=True)
  half = points_lib.half_width(family, DECIDING, place)
  lead = "The only point has a"
  if len(names) > 1:
    lead = f"Of {len(names)} points {names[place]} has the highest"
  best = f"{lead} {DECIDING.title}: {mean(DECIDING, row[DECIDING.column], half)}."
  beside = [
    f"{split}, {measure.rule or 'loss'} {value(measure, row[column])}"
    for measure in found.measures
    for split, column in (("validation", measure.column), ("test", measure.test))
    if column and column != DECIDING.column and row[column] is not None
  ]
  if beside:
    best += f" For reference only, not to choose by: {'; '.join(beside)}."
  if len(names) == 1:
    return [best]
  if family.spread(DECIDING) is None:
    return [best, "Every point has one seed, so its lead has no significance test."]
  if not found.best.level:
    return [best, "It is significantly better than every other point."]
  smallest, number = found.best.level[0], len(found.best.level)
  points = "1 other point is" if number == 1 else f"{number} other points are"
  level = f"{points} not significantly different from it"
  sizes = [family.points["params"][p] for p in (smallest, place)]
  if all(sizes) and sizes[0] < sizes[1]:
    small, large = map(points_lib.amount, sizes)
    which = "it" if number == 1 else f"the smallest of them, {names[smallest]},"
    level += f"; {which} has {small} parameters instead of {large}"
  return [best, level + "."]


def _seeds(found: Findings) -> str:
  spreads = {m: found.family.spread(m) for m in found.measures}
  parts = [f"{m.title} {value(m, s.std)}" for m, s in spreads.items() if s]
  if not parts:
    return (
      "No point has a second seed, so no difference has an interval and no winner is "
      "named."
    )
  (freedom, *_) = (spread.freedom for spread in spreads.values() if spread)
  return (
    f"Standard deviation over seeds, pooled with {freedom} degrees of freedom: "
    f"{'; '.join(parts)}. Intervals are 95 % over seeds; they do not cover other "
    "users. A difference is significant if the intervals do not overlap and p is at "
    "most 0.05 after Holm's correction for the pairs compared."
  )


def _depth_width(found: Findings) -> list[str]:
  pairs = {by.pair for by in found.depth_width}
  lead = f"At equal parameters ({fronts.WITHIN}, outside the embeddings)"
  which = "the deeper and narrower point of "
  which += f"{len(pairs)} pairs" if len(pairs) > 1 else "the only pair"
  return _pairs(found, found.depth_width, lead, which)


def _narrowing(found: Findings) -> list[str]:
  shapes = {by.pair for by in found.narrowing}
  if not shapes:
    return []
  number = len(shapes)
  which = f"the narrowest of {number} shape{'s'[: number > 1]}, against the widest,"
  size_P = found.family.column(SIZE)
  kept = sorted(size_P[one] / size_P[other] for one, other in shapes)
  span = f"{100 * kept[0]:.0f}"
  span += f" to {100 * kept[-1]:.0f}" if kept[-1] - kept[0] > 0.01 else ""
  return [
    *_pairs(found, found.narrowing, "With only the feed-forward changed", which),
    f"The narrowest has {span} % of the widest's {NAMES[SIZE]}: a difference may be "
    "due to size alone.",
  ]


def _pairs(found: Findings, compared: Sequence[Compared], lead: str, which: str):
  """Returns a sentence on how often the points `which` win, and one per pair if few."""
  if not compared:
    return []
  names, counts = found.family.names(), []
  for measure in found.measures:
    of = [by for by in compared if by.measure is measure]
    apart = sum(by.better is not None for by in of)
    first = sum(by.better == by.pair[0] for by in of)
    tally = f"{first} / {apart - first} / {len(of) - apart}"
    counts.append(f"{measure.title} {tally}")
  lines = [f"{lead}, {which} is better / worse / neither: {'; '.join(counts)}."]
  if not any(map(found.family.spread, found.measures)):
    lines = [f"{lead}, every point has one seed, so no difference can be tested."]
  deciding = [by for by in compared if by.measure is DECIDING]
  if len(deciding) > MOST_PAIRS:
    return lines
  for _, (one, other), difference, better in deciding:
    mean_P = found.family.points[DECIDING.column]
    values = [value(DECIDING, mean_P[place]) for place in (one, other)]
    verdict = "not significant" if better is None else f"{names[better]} is better"
    lines.append(
      f"{lead}, {names[one]} has {DECIDING.title} {values[0]} and {names[other]} "
      f"{values[1]}: difference "
      f"{mean(DECIDING, difference.value, difference.half, '+')}; {verdict}."
    )
  return lines


def _laws(found: Findings) -> list[str]:
  lines = []
  for name, of in LAWS.items():
    fit = found.laws[name]
    what = " and ".join(NAMES[column] for column in of)
    if isinstance(fit, law.Unidentified):
      # A law in a variable that was not varied is of no interest.
      if name == "parameters" or "only one" not in fit.reason:
        lines.append(f"No power law of the loss in {what}: {fit.reason}.")
      continue
    form, letters = _FORMS[name]
    numbers = ", ".join(
      "{} = {:.3g} [{:.3g}, {:.3g}]".format(
        letter, getattr(fit.law, field), *fit.intervals[field]
      )
      for letter, field in letters.items()
    )
    line = (
      f"The validation loss falls with {what} as L = {form}: {numbers} (95 %, "
      f"{fit.runs} runs at {fit.points} points; typical error {100 * fit.error:.2g} %)."
    )
    lines.append(" ".join([line, *(f"{r[0].upper()}{r[1:]}." for r in fit.remarks)]))
  return lines


def _iso_flop(found: Findings) -> list[str]:
  lines, reasons = [], {}
  for group in found.iso_flop:
    if group.best_size is None:
      reasons.setdefault(group.reason, []).append(f"{group.low:.2g}")
      continue
    line = (
      f"At about {group.low:.2g} FLOPs ({len(group.points)} points) the loss, a "
      f"parabola in log N, is lowest at {points_lib.amount(group.best_size)} "
      f"{NAMES[SIZE]}"
    )
    if group.interval:
      low, high = map(points_lib.amount, group.interval)
      lines.append(f"{line} (95 % over seeds: {low} to {high}).")
    else:
      lines.append(f"{line}; every point has one seed, so there is no interval.")
  for reason, flops in reasons.items():
    lines.append(f"At about {', '.join(flops)} FLOPs there is no best size: {reason}.")
  return lines


def _fronts(found: Findings) -> list[str]:
  number = len(found.family.points)
  parts = [
    f"{len(places)} by {NAMES[cost]}"
    for (column, cost), places in found.fronts.items()
    if column == DECIDING.column and places
  ]
  if not parts or number < 2:
    return []
  return [
    f"Points on the Pareto front of {DECIDING.title} and cost, of {number}: "
    f"{', '.join(parts)}. A front is of means; neighbours on it need not differ "
    "significantly."
  ]
