"""Draws the transition step: time against items."""

import io
from typing import Any

from etils import epath

from lightlm_jax import workdir
from lightlm_jax.errors import UserError


def check() -> None:
  """Refuses before hours of timing what could not be drawn after them."""
  try:
    import matplotlib.figure  # noqa: F401, PLC0415, of the extra `figures`
  except ImportError:
    raise UserError("--figure wants matplotlib: pip install -e '.[figures]'")


def draw(transition: dict[str, Any], path: epath.Path) -> None:
  """A row of panels for each depth, a panel for each width of the search.

  Args:
    transition: what `transition.run` returned.
    path: PNG.
  """
  import matplotlib.figure  # noqa: PLC0415, of the extra `figures`

  rows = transition["rows"]
  depths = sorted({row["depth"] for row in rows})
  beams = sorted({row["beams"] for row in rows})
  names = list(dict.fromkeys(row["implementation"] for row in rows))
  size = 3.6 * len(beams) + 2.2, 3.2 * len(depths) + 0.4
  figure = matplotlib.figure.Figure(figsize=size, layout="constrained")
  panels = figure.subplots(
    len(depths), len(beams), squeeze=False, sharex=True, sharey=True
  )
  for depth, of_depth in zip(depths, panels):
    for width, panel in zip(beams, of_depth):
      for name in names:
        points = sorted(
          (row["items"], 1e6 * row["step"] / row["rows"])
          for row in rows
          if (row["implementation"], row["depth"], row["beams"]) == (name, depth, width)
        )
        panel.plot(*zip(*points), marker="o", label=name)
      panel.set(title=f"{depth} tokens, {width} beams")
      panel.loglog()
      panel.grid(visible=True, alpha=0.3)
  figure.supxlabel("items")
  figure.supylabel("μs a row and level")
  figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
  content = io.BytesIO()
  figure.savefig(content, dpi=120, format="png")
  workdir.write_whole(path, content.getvalue())
