"""Draws ids as a tree of rectangles, one row per level, and tabulates their levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.reporting.advice import note
from lightlm_jax.reporting.run_files import Run

LEVELS = 3  # number of levels that are drawn
SMALLEST = 1 / 600  # clusters with a smaller share of the items share a rectangle


class Cell(NamedTuple):
  """A rectangle of one level; `start` and `width` are shares of the drawing's width."""

  start: float
  width: float
  strength: float  # 0 to 1, its darkness
  title: str  # "" = none


def ids(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns the rectangles and table of levels for each distinct code book of runs."""
  books: dict[str, dict[str, Any]] = {}
  lines = []
  for run in runs:
    if run.book is not None:
      digest = run.book.sha256
      books[digest] = books.get(digest) or {"runs": [], **_picture(run.book)}
      books[digest]["runs"].append(run.name)
    elif run.results.get("ids"):
      where = f"{run.workdir / 'codes'} holds no complete ones"
      text = f"{run.name} should have ids, but {where}; `train` writes them"
      lines.append(note(text))
  without = [r.name for r in runs if r.results and not r.results.get("ids")]
  if without:
    lines.append(note(f"No ids are used by {', '.join(without)}"))
  return {"books": list(books.values()), "missing": lines}


def partition(items_IL: np.ndarray, smallest: float = SMALLEST) -> list[list[Cell]]:
  """Returns the rectangles of the first LEVELS levels; children are below their parent.

  items_IL holds I codes of L tokens, padded with -1. A cluster is the items with a
  common prefix; its children go from the largest to the smallest. Children whose share
  of all items is below `smallest` form one rectangle, so a level has at most
  1 / smallest rectangles more than the level above. Nothing is below a code's end.
  """
  # G: clusters of a level, in the order in which they are drawn; C: rectangles.
  I = len(items_IL)
  cell_I, start_C = np.zeros(I, np.int64), np.zeros(1)
  drawn = []
  for depth in range(min(LEVELS, items_IL.shape[1])):
    inside_N = np.flatnonzero((items_IL[:, depth] >= 0) & (cell_I >= 0))
    if not len(inside_N):
      break
    keys_NK = np.column_stack([cell_I[inside_N], items_IL[inside_N, : depth + 1]])
    key_GK, group_N, size_G = np.unique(
      keys_NK, axis=0, return_inverse=True, return_counts=True
    )
    order_G = np.lexsort((-size_G, key_GK[:, 0]))
    key_GK, size_G = key_GK[order_G], size_G[order_G]
    above_G, is_small_G = key_GK[:, 0], size_G < smallest * I
    before_G = np.cumsum(size_G) - size_G
    first_G = np.searchsorted(above_G, above_G)  # first child of a cluster
    # Small children come last in their cluster and share a rectangle.
    joins_G = is_small_G & np.roll(is_small_G, 1) & (np.arange(len(size_G)) > first_G)
    cell_G = np.cumsum(~joins_G) - 1
    start_C = (start_C[above_G] + (before_G - before_G[first_G]) / I)[~joins_G]
    size_C = np.bincount(cell_G, weights=size_G).astype(int)
    clusters_C = np.bincount(cell_G)
    largest = max(size_C[~is_small_G[~joins_G]], default=1)
    drawn.append([])
    for g, start, size, clusters in zip(
      np.flatnonzero(~joins_G), start_C.tolist(), size_C, clusters_C
    ):
      items = _count(size_G[g], "item")
      title = "·".join(map(str, key_GK[g, 1:])) + f": {items}"
      if is_small_G[g]:
        most = "" if size_G[g] == 1 else "at most "
        title = f"{_count(clusters, 'cluster')} of {most}{items}"
      strength = 0.0 if is_small_G[g] else float((size / largest) ** 0.5)
      drawn[-1].append(Cell(start, float(size / I), strength, title))
    cell_I = np.full(I, -1)
    cell_I[inside_N] = cell_G[np.argsort(order_G)][group_N.reshape(-1)]
  return drawn


def _count(number: int, noun: str) -> str:
  return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _picture(book: CodeBook) -> dict[str, Any]:
  items_IL = book.items_IL
  length_I = (items_IL >= 0).sum(axis=1)
  rows = []
  for depth in range(items_IL.shape[1]):
    inner_NL = items_IL[items_IL[:, depth] >= 0, : depth + 1]
    size_C = np.unique(inner_NL, axis=0, return_counts=True)[1]
    rows.append(
      {
        "level": depth + 1,
        "tokens": len(np.unique(inner_NL[:, -1])),
        "prefixes": len(size_C),
        "largest": int(size_C.max()),
        "ends": int((length_I == depth + 1).sum()),
      }
    )
  return {
    "kind": book.manifest.get("kind", "unknown"),
    "sha256": book.sha256[:16],
    "num_items": len(items_IL),
    "vocab_size": book.vocab_size,
    "rows": rows,
    "levels": partition(items_IL),
  }
