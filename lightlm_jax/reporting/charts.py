"""Draws charts for a page: matplotlib figures as inline SVG in the page's colours.

A chart is 320 points wide, the width of a phone, so that its text keeps its size there.
Colours become CSS variables of the page (--s1 … --s8 for series, --ink, --line): one
drawing serves light mode, dark mode and print.
"""

from collections.abc import Sequence
import hashlib
import re
from typing import Any, NamedTuple

from markupsafe import Markup
import numpy as np

from lightlm_jax.reporting import drawing
from lightlm_jax.reporting import html as page

WIDTH = 320
SERIES = 8  # number of colours; further series repeat them with another dash
MOST_POINTS = 400  # most points that are drawn of a line
_MARGIN = 13  # beside an axis whose outer tick labels are centred on its ends
_DASHES = ((None, None), (5, 3), (1.5, 2.5))


class Line(NamedTuple):
  """A line of a chart; `series`, which counts from 1, decides its colour and dash."""

  name: str
  x: Sequence[float] | np.ndarray
  y: Sequence[float] | np.ndarray
  series: int


class Bar(NamedTuple):
  """A bar of a chart; an unknown value is None. `series` is as in `Line`."""

  name: str
  value: float | None
  series: int


class Bars(NamedTuple):
  """A group of bars under a title, with `note` at its right."""

  title: str
  note: str
  bars: Sequence[Bar]


class Mean(NamedTuple):
  """A mean and its interval (low, high), None if unknown. `series` is as in `Line`."""

  name: str
  mean: float
  interval: tuple[float, float] | None
  series: int


def style() -> dict[str, Any]:
  """Returns matplotlib settings that make figures look like the page."""
  colour = page.colours()
  sizes = ("font.size", "axes.titlesize", "axes.labelsize", "legend.fontsize")
  sizes += ("xtick.labelsize", "ytick.labelsize")
  muted = ("axes.edgecolor", "xtick.color", "ytick.color")
  ink = ("axes.labelcolor", "axes.titlecolor", "text.color")
  return {
    **dict.fromkeys(sizes, 11),
    **dict.fromkeys(muted, colour["muted"]),
    **dict.fromkeys(ink, colour["ink"]),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), colour["paper"]),
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": colour["line"],
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.6,
  }


def inline(svg: bytes, name: str, label: str) -> Markup:
  """Converts a figure's SVG to an element of the page.

  Args:
    svg: a figure drawn with the settings of `style`; its clip paths are dropped.
    name: a name that is unique on the page, put before each id in the SVG.
    label: the figure in words, for screen readers.
  """
  text = svg.decode()
  body = text[text.index('<g id="figure_1"') : text.rindex("</svg>")]
  body = re.sub(r' clip-path="[^"]*"', "", body)
  body = re.sub(r"<clipPath.*?</clipPath>", "", body, flags=re.DOTALL)
  # Keeps only ids that are referenced, with a prefix: figures may use equal ids.
  used = set(re.findall(r'href="#([^"]*)"', body))
  body = re.sub(
    r' id="([^"]*)"',
    lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "",
    body,
  )
  body = body.replace('href="#', f'href="#{name}-')
  body = re.sub(r"font-family: [^;]*; ", "", body)  # inherited from the page
  body = re.sub(
    r' (d|x|y|transform)="[^"]*"',  # coordinates only: tick labels keep their decimals
    lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]),
    body,
  )
  for variable, colour in page.colours().items():
    body = body.replace(colour, f"var(--{variable})")
  _, _, width, height = re.findall(r'viewBox="(\S+) (\S+) (\S+) (\S+)"', text)[0]
  return Markup(
    '<svg class="drawn" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
  ).format(width, height, label, Markup(body))


def lines(
  series: Sequence[Line],
  *,
  x: str,
  y: str,
  label: str,
  shares: bool = False,
  y_range: tuple[float, float] | None = None,
  marks: bool = False,
) -> Markup:
  """Returns a line chart of at most MOST_POINTS finite points of each line.

  Args:
    series: the lines; at least one must have a finite point.
    x: label of the x axis.
    y: label of the y axis.
    label: the chart in words, for screen readers.
    shares: whether both axes are shares from 0 to 1, which are shown as percentages.
    y_range: limits of the y axis, ignored with `shares`; None = those of the points.
    marks: whether points have dots; a line's only point always has one.
  """
  with drawing.style(style()):
    figure = drawing.new(WIDTH / 72, 206 / 72)
    panel = figure.subplots()
    for line in series:
      x_P, y_P = _thin(line.x, line.y)
      dot = "o" if marks or len(x_P) == 1 else ""
      panel.plot(x_P, y_P, marker=dot, markersize=3.5, **_line_style(line.series))
    panel.set_title(y, weight="normal", color=page.colours()["muted"])
    if shares:
      panel.set(xlim=(0, 1), ylim=(0, 1))
      for axis in (panel.xaxis, panel.yaxis):
        axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    else:
      panel.set_ylim(y_range)
      panel.locator_params(axis="x", nbins=4)
      panel.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    panel.grid(visible=False, axis="x")
    panel.tick_params(axis="y", length=0)
    return _finished(figure, panel, x, label)


def bars(groups: Sequence[Bars], *, x: str, label: str) -> Markup:
  """Returns a chart of groups of horizontal bars; for `x` and `label` see `lines`."""
  height = sum(25 + 14 * len(group.bars) for group in groups)
  values = [bar.value for group in groups for bar in group.bars]
  high = max([value for value in values if value], default=1.0)
  with drawing.style(style()):
    figure, panel = _rows(height)
    panel.grid(visible=False)
    panel.set_xlim(0, 1.2 * high)  # room for the value of the longest bar
    muted, y = page.colours()["muted"], 0
    for group in groups:
      right = panel.get_yaxis_transform()
      panel.text(0, y + 12, group.title, weight="bold", transform=right)
      panel.text(1, y + 12, group.note, ha="right", color=muted, transform=right)
      y += 17
      for bar in group.bars:
        length = bar.value or 0
        colour = _line_style(bar.series)["color"]
        panel.barh(y + 5.5, max(length, high / 300), height=11, color=colour)
        text = "–" if bar.value is None else f"{bar.value:.4f}"
        panel.text(length + high / 60, y + 9.5, text, color=muted)
        y += 14
      y += 8
    return _finished(figure, panel, x, label)


def means(rows: Sequence[Mean], *, x: str, label: str) -> Markup:
  """Returns a forest plot of means with intervals; for `x` and `label` see `lines`."""
  with drawing.style(style()):
    figure, panel = _rows(36 * len(rows))
    panel.grid(visible=False, axis="y")
    paper = {"facecolor": page.colours()["paper"], "linewidth": 0, "pad": 1}
    options = {"transform": panel.get_yaxis_transform(), "bbox": paper}
    for n, row in enumerate(rows):
      text, colour = f"{row.mean:.4f}", _line_style(row.series)["color"]
      if row.interval:
        low, high = row.interval
        text += f" [{low:.4f}, {high:.4f}]"
        ends = [[row.mean - low], [high - row.mean]]
        panel.errorbar(row.mean, 36 * n + 25, xerr=ends, capsize=4, color=colour)
      panel.plot(row.mean, 36 * n + 25, "o", markersize=7, color=colour)
      room = WIDTH - 2 * _MARGIN - 7 * len(text)
      name = clip(row.name, int(room / 7))
      panel.text(0, 36 * n + 13, name, weight="bold", **options)
      panel.text(1, 36 * n + 13, text, ha="right", **options)
    return _finished(figure, panel, x, label)


def _rows(height: float):
  """Returns a figure and axes; the axes are `height` points high, y runs downwards."""
  whole = height + 36
  figure = drawing.new(WIDTH / 72, whole / 72)
  figure.set_layout_engine("none")
  width = 1 - 2 * _MARGIN / WIDTH
  panel = figure.add_axes((_MARGIN / WIDTH, 36 / whole, width, height / whole))
  panel.set_ylim(height, 0)
  panel.set_yticks([])
  panel.locator_params(axis="x", nbins=4)
  return figure, panel


def _finished(figure, panel, x: str, label: str) -> Markup:
  """Labels the x axis with `x`; returns the figure as SVG, which `label` describes."""
  panel.spines["left"].set_visible(False)
  panel.set_xlabel(x, loc="right", color=page.colours()["muted"])
  svg = drawing.content(figure, "svg")
  digest = hashlib.sha256(label.encode() + svg).hexdigest()
  return inline(svg, f"c{digest[:10]}", label)


def _line_style(series: int) -> dict[str, Any]:
  colour = page.colours()[f"s{(series - 1) % SERIES + 1}"]
  dash = _DASHES[(series - 1) // SERIES % len(_DASHES)]
  return {"color": colour, "dashes": dash}


def _thin(x, y) -> tuple[np.ndarray, np.ndarray]:
  """Returns x and y of at most MOST_POINTS finite points, with the first and last."""
  x_P, y_P = np.asarray(x, np.float64), np.asarray(y, np.float64)
  kept = np.flatnonzero(np.isfinite(x_P) & np.isfinite(y_P))
  if len(kept) > MOST_POINTS:
    kept = kept[np.linspace(0, len(kept) - 1, MOST_POINTS).round().astype(int)]
  return x_P[kept], y_P[kept]


def clip(text: str, letters: int) -> str:
  """Cuts a text to at most `letters` characters; a cut text ends with an ellipsis."""
  return text if len(text) <= letters else text[: max(letters - 1, 1)] + "…"
