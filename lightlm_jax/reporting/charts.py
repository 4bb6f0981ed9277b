"""Charts as SVG text, to stand inside HTML: numbers in, `Markup` out.

They are drawn 320 units wide, which is a phone's width, so that letters of 11.5 units
are letters of 11.5 pixels there. Colours are the page's variables (--s1 … --s8 for
series, --ink, --line), so that one drawing serves light, dark and print.
"""

from collections.abc import Callable, Sequence
import math
from typing import NamedTuple

from markupsafe import Markup
import numpy as np

WIDTH = 320
SERIES = 8  # colours; further series repeat them with another dash
MOST_POINTS = 400  # a line
DASHES = ("", "5 3", "1.5 2.5")
FONT = 11.5  # as the style sheet has it


class Line(NamedTuple):
  """One line of a chart: x and y are numbers of one length, `series` counts from 1."""

  name: str
  x: Sequence[float]
  y: Sequence[float]
  series: int


class Bar(NamedTuple):
  """One bar: None is a value that is not known."""

  name: str
  value: float | None
  series: int


class Bars(NamedTuple):
  """Bars that belong together, under a title; `note` stands at the right."""

  title: str
  note: str
  bars: Sequence[Bar]


class Mean(NamedTuple):
  """A mean and its interval; None where there is none."""

  name: str
  mean: float
  interval: tuple[float, float] | None
  series: int


class Cell(NamedTuple):
  """A rectangle of a level: from `start` on, `width` of the whole; both 0 … 1."""

  start: float
  width: float
  strength: float  # 0 … 1, how dark
  title: str  # "" = none


def ticks(low: float, high: float, most: int = 5) -> list[float]:
  """Round numbers within low … high, at most so many; there are two at least."""
  if not high > low:
    high = low + (abs(low) or 1.0)
  raw = (high - low) / max(most - 1, 1)
  size = 10.0 ** math.floor(math.log10(raw))
  for factor in (1, 2, 2.5, 5, 10, 20, 25, 50):
    step = factor * size
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if last - first + 1 <= most:
      break
  if last == first:
    return [low, high]
  return [round(place * step, 12) for place in range(first, last + 1)]


def numbers(values: Sequence[float]) -> list[str]:
  """Texts of an axis' ticks: thousands separated, all with the decimals they need."""
  if max(map(abs, values)) >= 1e12:
    return [f"{value:.2g}" for value in values]
  decimals = next(
    (n for n in range(9) if all(abs(v - round(v, n)) < 1e-9 for v in values)), 9
  )
  return [f"{value:,.{decimals}f}" for value in values]


def percents(values: Sequence[float]) -> list[str]:
  return [f"{text} %" for text in numbers([100 * value for value in values])]


def lines(
  series: Sequence[Line],
  *,
  x: str,
  y: str,
  label: str,
  x_range: tuple[float, float] | None = None,
  y_range: tuple[float, float] | None = None,
  texts: Callable[[Sequence[float]], list[str]] = numbers,
  marks: bool = False,
) -> Markup:
  """Lines over two axes; points that are not finite are left out.

  Args:
    series: at least one point in all.
    x: what the axis shows.
    y: likewise.
    label: the chart in words, for who cannot see it.
    x_range: of the axis; None = of the points.
    y_range: likewise.
    texts: of the ticks of an axis.
    marks: whether each point has a dot.
  """
  points = [(line, _thin(*_finite(line.x, line.y))) for line in series]
  all_x = np.concatenate([x_P for _, (x_P, _) in points])
  all_y = np.concatenate([y_P for _, (_, y_P) in points])
  x_low, x_high = _range(x_range, all_x)
  y_low, y_high = _range(y_range, all_y, margin=0.05)
  y_ticks, x_ticks = ticks(y_low, y_high), ticks(x_low, x_high, most=4)
  y_texts = texts(y_ticks)
  left = 8 + 6.6 * max(map(len, y_texts))
  right, top, bottom, height = WIDTH - 8, 24, 168, 206

  def place_x(value):
    return left + (right - left) * (value - x_low) / (x_high - x_low)

  def place_y(value):
    return bottom - (bottom - top) * (value - y_low) / (y_high - y_low)

  parts = [_text(0, 11, y, "muted")]
  for tick, text in zip(y_ticks, y_texts):
    at = place_y(tick)
    parts.append(_line(left, at, right, at, "grid"))
    parts.append(_text(left - 5, at + 4, text, "tick", "end"))
  parts += _ticks_below(bottom, [place_x(tick) for tick in x_ticks], texts(x_ticks))
  parts.append(_line(left, bottom, right, bottom, "axis"))
  parts.append(_text(right, height - 4, x, "muted", "end"))
  for line, (x_P, y_P) in points:
    pairs = list(zip(place_x(x_P), place_y(y_P)))
    path = " ".join(f"{_n(a)},{_n(b)}" for a, b in pairs)
    if len(pairs) > 1:
      parts.append(
        Markup('<polyline class="curve" points="{}" style="{}"/>').format(
          path, _stroke(line.series)
        )
      )
    if marks or len(pairs) == 1:
      parts += [
        Markup('<circle cx="{}" cy="{}" r="2.4" style="{}"/>').format(
          _n(a), _n(b), _fill(line.series)
        )
        for a, b in pairs
      ]
  return _svg(height, label, parts)


def bars(
  groups: Sequence[Bars],
  *,
  x: str,
  label: str,
  text: Callable[[float], str] = lambda value: f"{value:.4f}",
) -> Markup:
  """Horizontal bars from 0, each with its number; a group's title stands above it.

  Args:
    groups: at least one.
    x: what the bars show.
    label: the chart in words.
    text: of a bar's number.
  """
  values = [bar.value for group in groups for bar in group.bars]
  high = max([value for value in values if value], default=1.0)
  right = WIDTH - 52
  parts, y = [], 0
  for group in groups:
    parts.append(_text(0, y + 12, group.title, "name"))
    parts.append(_text(WIDTH, y + 12, group.note, "muted", "end"))
    y += 17
    for bar in group.bars:
      length = right * (bar.value or 0) / high
      parts.append(
        Markup('<rect x="0" y="{}" width="{}" height="11" style="{}">{}</rect>').format(
          y, _n(max(length, 1)), _fill(bar.series), _title(bar.name)
        )
      )
      said = "–" if bar.value is None else text(bar.value)
      parts.append(_text(max(length, 1) + 5, y + 9.7, said, "tick"))
      y += 14
    y += 8
  parts.append(_line(0, y - 4, right, y - 4, "axis"))
  x_ticks = ticks(0, high, most=4)
  parts += _ticks_below(y - 4, [right * t / high for t in x_ticks], numbers(x_ticks))
  parts.append(_text(WIDTH, y + 28, x, "muted", "end"))
  return _svg(y + 32, label, parts)


def means(rows: Sequence[Mean], *, x: str, label: str) -> Markup:
  """Means with their intervals on one axis, a row each: a forest plot.

  Args:
    rows: at least one.
    x: what the means are of.
    label: the chart in words.
  """
  ends = [end for row in rows for end in (row.mean, *(row.interval or ()))]
  low, high = _range(None, np.array(ends), margin=0.04)

  def place(value):
    return 4 + (WIDTH - 8) * (value - low) / (high - low)

  parts, bottom = [], 36 * len(rows) + 2
  x_ticks = ticks(low, high, most=4)
  for tick in x_ticks:
    parts.append(_line(place(tick), 0, place(tick), bottom, "grid"))
  for n, row in enumerate(rows):
    y = 36 * n
    said = f"{row.mean:.4f}"
    if row.interval:
      said += " [{:.4f}, {:.4f}]".format(*row.interval)
    room = WIDTH - 6.6 * len(said) - 12
    parts.append(_text(0, y + 13, _clip(row.name, int(room / 6.8)), "name halo"))
    parts.append(_text(WIDTH, y + 13, said, "tick halo", "end"))
    if row.interval:
      a, b = map(place, row.interval)
      parts.append(
        Markup('<path class="curve" d="M{} {}H{}M{} {}v8M{} {}v8" style="{}"/>').format(
          _n(a), y + 25, _n(b), _n(a), y + 21, _n(b), y + 21, _stroke(row.series, False)
        )
      )
    parts.append(
      Markup('<circle cx="{}" cy="{}" r="4" style="{}"/>').format(
        _n(place(row.mean)), y + 25, _fill(row.series)
      )
    )
  parts.append(_line(0, bottom, WIDTH, bottom, "axis"))
  parts += _ticks_below(bottom, [place(tick) for tick in x_ticks], numbers(x_ticks))
  parts.append(_text(WIDTH, bottom + 32, x, "muted", "end"))
  return _svg(bottom + 36, label, parts)


def level(cells: Sequence[Cell], *, label: str) -> Markup:
  """A row of rectangles that is as wide as its place; it has no letters to stretch."""
  parts = []
  for cell in cells:
    # A border of what is narrower than it would hide it.
    edge = Markup(' class="edged"') if cell.width > 0.004 else ""
    parts.append(
      Markup(
        '<rect x="{}" width="{}" height="10" fill-opacity="{}"{}>{}</rect>'
      ).format(
        round(1000 * cell.start, 2),
        round(1000 * cell.width, 2),
        round(0.2 + 0.8 * cell.strength, 2),
        edge,
        _title(cell.title),
      )
    )
  return Markup(
    '<svg class="level" viewBox="0 0 1000 10" preserveAspectRatio="none" role="img" '
    'aria-label="{}">{}</svg>'
  ).format(label, Markup("").join(parts))


def swatch(series: int) -> Markup:
  """The key of a series, for a legend."""
  return Markup(
    '<svg class="swatch" viewBox="0 0 24 12" aria-hidden="true">'
    '<path class="curve" d="M1 6H23" style="{}"/></svg>'
  ).format(_stroke(series))


def _svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
  return Markup(
    '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
  ).format(WIDTH, _n(height), label, Markup("").join(parts))


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> Markup:
  return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(
    _n(x), _n(y), kind, anchor, text
  )


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
  return Markup('<path class="{}" d="M{} {}L{} {}"/>').format(
    kind, _n(x1), _n(y1), _n(x2), _n(y2)
  )


def _ticks_below(y: float, at: Sequence[float], texts: Sequence[str]) -> list[Markup]:
  """Ticks of an axis at height y, their texts held within the drawing."""
  parts = []
  for x, text in zip(at, texts):
    half = 3.4 * len(text)
    anchor = "start" if x < half else "end" if x > WIDTH - half else "middle"
    parts.append(_line(x, y, x, y + 4, "axis"))
    parts.append(_text(x, y + 16, text, "tick", anchor))
  return parts


def _title(text: str) -> Markup:
  return Markup("<title>{}</title>").format(text) if text else Markup("")


def _stroke(series: int, dashed: bool = True) -> str:
  dash = DASHES[(series - 1) // SERIES % len(DASHES)] if dashed else ""
  colour = f"stroke:var(--s{(series - 1) % SERIES + 1})"
  return f"{colour};stroke-dasharray:{dash}" if dash else colour


def _fill(series: int) -> str:
  return f"fill:var(--s{(series - 1) % SERIES + 1})"


def _finite(x: Sequence[float], y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
  x_P, y_P = np.asarray(x, np.float64), np.asarray(y, np.float64)
  kept_P = np.isfinite(x_P) & np.isfinite(y_P)
  return x_P[kept_P], y_P[kept_P]


def _thin(x_P: np.ndarray, y_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """At most MOST_POINTS of the points, first and last among them."""
  if len(x_P) <= MOST_POINTS:
    return x_P, y_P
  kept = np.unique(np.linspace(0, len(x_P) - 1, MOST_POINTS).round().astype(int))
  return x_P[kept], y_P[kept]


def _range(given: tuple[float, float] | None, values: np.ndarray, margin: float = 0):
  """What an axis spans: what is given, or the values and a margin on both sides."""
  low, high = map(float, given or (values.min(), values.max()))
  half = margin * (high - low) if high > low else abs(low) / 2 or 0.5
  return (low, high) if given else (low - half, high + half)


def _clip(text: str, letters: int) -> str:
  return text if len(text) <= letters else text[: max(letters - 1, 1)] + "…"


def _n(value: float) -> str:
  return f"{value:.1f}".rstrip("0").rstrip(".")
