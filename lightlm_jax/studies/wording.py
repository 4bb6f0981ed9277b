"""What was found in plain words: no winner where seeds do not tell."""

from collections.abc import Sequence

from lightlm_jax.studies import fronts, law
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies.findings import LAWS, NAMES, SIZE, Compared, Findings
from lightlm_jax.studies.points import DECIDING, LOSS, Measure

MOST_PAIRS = 4  # of which each has a sentence of its own


def said(found: Findings) -> list[str]:
  """The sentences of a family, the most important first."""
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


def difference(by: Compared, number: int) -> str:
  """-0.0012 ± 0.0008; told apart."""
  found = by.differences[number]
  text = value(by.measure, found.value, "+")
  if found.half is not None:
    text += f" ± {value(by.measure, found.half)}"
  return text


def _best(found: Findings) -> list[str]:
  if not found.best:
    return ["No run has an NDCG@10 on the validation split: none is chosen."]
  family, names = found.family, found.family.names()
  place = found.best.place
  row = family.points.row(place, named=True)
  half = points_lib.half_width(family, DECIDING, place)
  mean = value(DECIDING, row[DECIDING.column])
  mean += f" ± {value(DECIDING, half)}" if half is not None else ""
  lead = "The one point has a"
  if len(names) > 1:
    lead = f"Of {len(names)} points {names[place]} has the highest"
  lines = [f"{lead} {DECIDING.title}: {mean}."]
  beside = []
  for measure in found.measures:
    for split, column in (("validation", measure.column), ("test", measure.test)):
      if measure is not DECIDING or split == "test":
        if column and row[column] is not None:
          rule = measure.rule or "loss"
          beside.append(f"{split}, {rule} {value(measure, row[column])}")
  lines[0] += f" Beside it, not to choose by: {'; '.join(beside)}." if beside else ""
  if len(names) == 1:
    return lines
  if family.spread(DECIDING) is None:
    lines.append("No other point is told apart from it: there is one seed of each.")
  elif found.best.level:
    smallest = found.best.level[0]
    number = len(found.best.level)
    other = "point is" if number == 1 else "points are"
    line = f"{number} other {other} not told apart from it"
    sizes = [family.points["params"][p] for p in (smallest, place)]
    if all(sizes) and sizes[0] < sizes[1]:
      small, large = map(points_lib.amount, sizes)
      which = "it" if number == 1 else f"the smallest of them, {names[smallest]},"
      line += f"; {which} has {small} parameters in place of {large}"
    lines.append(line + ".")
  else:
    lines.append("It is told apart from every other point.")
  return lines


def _seeds(found: Findings) -> str:
  parts = []
  for measure in found.measures:
    spread = found.family.spread(measure)
    if spread:
      parts.append(f"{measure.title} by {value(measure, spread.std)}")
      freedom = spread.freedom
  if not parts:
    return (
      "No point has a second seed: no difference here has an interval, and no winner "
      "is named."
    )
  return (
    f"Seeds of one point deviate in {'; '.join(parts)} (pooled, {freedom} degrees of "
    "freedom). Intervals are of 95 %, over seeds; other users are not in them. Points "
    "are told apart where their intervals do not overlap and p, corrected by Holm for "
    "the pairs at hand, is at most 0.05."
  )


def _depth_width(found: Findings) -> list[str]:
  percent = round(100 * fronts.EQUAL_SIZE)
  lead = f"At equal parameters (±{percent} %, outside the embeddings)"
  pairs = {pair for by in found.depth_width for pair in by.pairs}
  if not pairs:
    return []
  deeper = f"the deeper and narrower of {len(pairs)} pairs"
  if len(pairs) == 1:
    deeper = "the deeper and narrower of the one pair"
  return _pairs(found, found.depth_width, lead, deeper)


def _narrowing(found: Findings) -> list[str]:
  shapes = {pair for by in found.narrowing for pair in by.pairs}
  if not shapes:
    return []
  lead = "With the feed-forward alone changed"
  number = len(shapes)
  narrow = f"the narrowest against the widest of {number} shape{'s'[: number > 1]}"
  size_P = fronts.column(found.family, SIZE)
  kept = sorted(size_P[one] / size_P[other] for one, other in shapes)
  span = f"{100 * kept[0]:.0f}"
  span += f" to {100 * kept[-1]:.0f}" if kept[-1] - kept[0] > 0.01 else ""
  return [
    *_pairs(found, found.narrowing, lead, narrow),
    f"The narrowest has {span} % of the {NAMES[SIZE]} of the widest: a difference "
    "may be one of size alone.",
  ]


def _pairs(found: Findings, compared: Sequence[Compared], lead: str, which: str):
  """How often the first of a pair wins, and each pair by itself if they are few."""
  names, counts = found.family.names(), []
  lines = [f"{lead}, no run is told apart from another: there is one seed of each."]
  if any(found.family.spread(by.measure) for by in compared):
    for by in compared:
      first = sum(a and by.better(n) == by.pairs[n][0] for n, a in enumerate(by.apart))
      apart = sum(by.apart)
      tally = f"{first} / {apart - first} / {len(by.apart) - apart}"
      counts.append(f"{by.measure.title} {tally}")
    tallies = "; ".join(counts)
    lines = [f"{lead}, {which} is better / worse / not told apart: {tallies}."]
  for by in compared:
    if by.measure is not DECIDING or len(by.pairs) > MOST_PAIRS:
      continue
    mean_P = found.family.points[by.measure.column]
    for number, (one, other) in enumerate(by.pairs):
      verdict = "not told apart"
      if by.apart[number]:
        verdict = f"{names[by.better(number)]} is better"
      values = [value(by.measure, mean_P[place]) for place in (one, other)]
      lines.append(
        f"{lead} {names[one]} has {by.measure.title}, {values[0]} against {values[1]} "
        f"of {names[other]}: difference {difference(by, number)}; {verdict}."
      )
  return lines


def _laws(found: Findings) -> list[str]:
  lines = []
  for name, of in LAWS.items():
    fit = found.laws[name]
    what = " and ".join(NAMES[column] for column in of)
    if isinstance(fit, law.Unidentified):
      # Nobody asked for a law of what was not varied.
      if name == "parameters" or "only one" not in fit.reason:
        lines.append(f"No power law of the loss in {what}: {fit.reason}.")
      continue
    form = {"parameters": "a·N^-α + c", "data": "b·D^-β + c"}.get(
      name, "a·N^-α + b·D^-β + c"
    )
    letters = {"parameters": "α", "data": "β"}.get(name)
    exponents = [(letters or "α", "alpha")] + ([] if letters else [("β", "beta")])
    numbers = [*exponents, ("c", "c")]
    told = ", ".join(
      "{} = {:.3g} [{:.3g}, {:.3g}]".format(
        letter, getattr(fit.law, field), *fit.intervals[field]
      )
      for letter, field in numbers
    )
    line = (
      f"The validation loss falls with {what} as L = {form}: {told} (95 %, {fit.runs} "
      f"runs at {fit.points} points; typical error {100 * fit.error:.2g} %)."
    )
    lines.append(" ".join([line, *(f"{r[0].upper()}{r[1:]}." for r in fit.remarks)]))
  return lines


def _iso_flop(found: Findings) -> list[str]:
  lines, reasons = [], {}
  for group in found.iso_flop:
    if group.reason:
      reasons.setdefault(group.reason, []).append(f"{group.low:.2g}")
      continue
    best = points_lib.amount(group.best_size)
    line = f"Of {len(group.points)} points of about {group.low:.2g} FLOPs the loss, a "
    line += f"parabola in log N, is lowest at {best} {NAMES[SIZE]}"
    if group.interval:
      low, high = map(points_lib.amount, group.interval)
      lines.append(f"{line}, with other seeds at {low} to {high}.")
    else:
      lines.append(f"{line}; there is one seed of each, and no interval.")
  for reason, flops in reasons.items():
    lines.append(f"At about {', '.join(flops)} FLOPs no best size is told: {reason}.")
  return lines


def _fronts(found: Findings) -> list[str]:
  """The front of the deciding measure; it is of means, and says so."""
  number = len(found.family.points)
  parts = [
    f"{fronts.COSTS[cost]} {len(places)}"
    for (column, cost), places in found.fronts.items()
    if column == DECIDING.column and places
  ]
  if not parts or number < 2:
    return []
  return [
    f"Of {number} points so many are beaten by none that is both cheaper and better in "
    f"{DECIDING.title}: by {', by '.join(parts)}. They are fronts of means; neighbours "
    "on them need not be told apart."
  ]
