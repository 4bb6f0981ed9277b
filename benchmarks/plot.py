"""Draws the time of a transition step against the number of items."""

from typing import Any

from etils import epath

from lightlm_jax.reporting import drawing as figures


def draw(transition: dict[str, Any], path: epath.Path) -> None:
  """Draws a panel for each depth (rows) and beam size (columns).

  Args:
    transition: result of `transition.run`.
    path: PNG file to write.
  """
  rows = transition["rows"]
  depths = sorted({row["depth"] for row in rows})
  beams = sorted({row["beams"] for row in rows})
  names = list(dict.fromkeys(row["implementation"] for row in rows))
  figure = figures.new(3.6 * len(beams) + 2.2, 3.2 * len(depths) + 0.4)
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
  figure.supylabel("μs per row and level")
  figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center")
  figures.write(figure, path)
