"""Draws cluster sizes of ids, and how often user and item ids agree, see quality.py."""

from typing import Any

from etils import epath
import numpy as np

from lightlm_jax.ids import quality
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.reporting import drawing


def draw(report: dict[str, Any], book: CodeBook, path: epath.PathLike) -> None:
  """Draws `book` and its `quality.report` to a .png or .svg file."""
  figure = drawing.new(9, 3.4)
  left, right = figure.subplots(1, 2)
  for level, size_C in enumerate(quality.cluster_sizes(book.items_IL), start=1):
    ordered = np.sort(size_C)[::-1]
    left.plot(np.arange(1, len(ordered) + 1), ordered, label=f"level {level}")
  left.set(xlabel="cluster, largest first", ylabel="items", title="cluster sizes")
  left.loglog()
  left.legend()
  for name, shares in report["agreement"].items():
    if shares:
      levels = range(1, 1 + len(shares))
      right.plot(levels, shares, marker="o", label=name.replace("_", " "))
  right.set(
    xlabel="level", ylabel="share", ylim=(0, None), title="user's code and item's agree"
  )
  right.set_xticks(range(1, 1 + len(report["tokens_per_level"])))
  right.legend()
  drawing.write(figure, epath.Path(path))
