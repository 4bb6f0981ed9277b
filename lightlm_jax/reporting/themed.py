"""A matplotlib figure inside a page, in the page's colours: light, dark, in print."""

import re

from markupsafe import Markup

from lightlm_jax.reporting import html as page


def style() -> dict[str, object]:
  """matplotlib's settings for figures that look as the page does, for an rc_context."""
  colour = page.colours()
  return {
    "font.size": 11,  # as large on a phone as charts.py writes
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": colour["line"],
    "grid.linewidth": 0.8,
    "axes.edgecolor": colour["muted"],
    "axes.labelcolor": colour["ink"],
    "axes.titlecolor": colour["ink"],
    "text.color": colour["ink"],
    "xtick.color": colour["muted"],
    "ytick.color": colour["muted"],
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "axes.facecolor": colour["paper"],
    "figure.facecolor": colour["paper"],
    "lines.linewidth": 1.6,
  }


def inline(svg: bytes, name: str, label: str) -> Markup:
  """A figure's SVG as text for HTML.

  Args:
    svg: what was drawn under `style`; nothing of it may need clipping.
    name: of a figure that is alone on the page with it: ids begin with it.
    label: the figure in words, for who cannot see it.
  """
  text = svg.decode()
  body = text[text.index('<g id="figure_1"') : text.rindex("</svg>")]
  body = re.sub(r' clip-path="[^"]*"', "", body)
  body = re.sub(r"<clipPath.*?</clipPath>", "", body, flags=re.DOTALL)
  # What is not referred to needs no id; of what is, two figures may have the same.
  used = set(re.findall(r'href="#([^"]*)"', body))
  body = re.sub(
    r' id="([^"]*)"',
    lambda found: f' id="{name}-{found[1]}"' if found[1] in used else "",
    body,
  )
  body = body.replace('href="#', f'href="#{name}-')
  body = re.sub(
    r' (d|x|y|transform)="[^"]*"',  # places alone: a tick's text keeps its decimals
    lambda found: re.sub(r"(\d\.\d\d)\d+", r"\1", found[0]),
    body,
  )
  for variable, colour in page.colours().items():
    body = body.replace(colour, f"var(--{variable})")
  width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()
  return Markup(
    '<svg class="drawn" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
  ).format(width, height, label, Markup(body))
