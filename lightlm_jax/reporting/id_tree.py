"""The ids as a tree: its first levels as rectangles, and a table of all levels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.reporting.advice import note
from lightlm_jax.reporting.run_files import Run

LEVELS = 3  # levels that are drawn
SMALLEST = 1 / 600  # clusters with a smaller share of the items are drawn as one


class Cell(NamedTuple):
  """A rectangle of a level; `start` and `width` are shares of the whole width."""

  start: float
  width: float
  strength: float  # 0 to 1: how dark it is
  title: str  # "" = none


def ids(runs: Sequence[Run]) -> dict[str, Any]:
  """Returns each code book once: rectangles of its first levels, a table of all."""
  books: dict[str, dict[str, Any]] = {}
  for run in runs:
    if run.book is None:
      continue
    found = books.setdefault(run.book.sha256, {"runs": [], "book": run.book})
    found["runs"].append(run.name)
  lines = [
    note(
      f"{run.name} should have ids, but {run.workdir / 'codes'} holds no complete "
      "ones; `train` writes them"
    )
    for run in runs
    if run.results and run.results.get("ids") and run.book is None
  ]
  without = [run.name for run in runs if run.results and not run.results.get("ids")]
  if without:
    lines.append(note(f"No ids are used by {', '.join(without)}"))
  pictures = [
    {"runs": found["runs"]} | _picture(found["book"]) for found in books.values()
  ]
  return {"books": pictures, "missing": lines}


def partition(
  items_IL: np.ndarray, levels: int = LEVELS, smallest: float = SMALLEST
) -> list[list[Cell]]:
  """Returns the rectangles of the first levels; each cluster lies below its parent.

  The children of a cluster stand under it, the largest first. Children with a smaller
  share of the items than `smallest` share one rectangle, so a level has at most
  1 / smallest rectangles more than the level above. Codes that have ended leave a gap.
  """
  I = len(items_IL)
  cell_I, start_C = np.zeros(I, np.int64), np.zeros(1)
  drawn = []
  for depth in range(min(levels, items_IL.shape[1])):
    inside_N = np.flatnonzero((items_IL[:, depth] >= 0) & (cell_I >= 0))
    if not len(inside_N):
      break
    keys_NK = np.column_stack([cell_I[inside_N], items_IL[inside_N, : depth + 1]])
    key_GK, group_N, size_G = np.unique(
      keys_NK, axis=0, return_inverse=True, return_counts=True
    )
    group_N = group_N.reshape(-1)
    order_G = np.lexsort((-size_G, key_GK[:, 0]))
    clusters, cluster_of_G = [], np.empty(len(key_GK), np.int64)
    above, at = -1, 0.0
    for g in order_G:
      if key_GK[g, 0] != above:
        above = key_GK[g, 0]
        at = float(start_C[above])
        joined = False
      small = size_G[g] < smallest * I
      if not (small and joined):  # the small ones come last and share a rectangle
        path = "" if small else "·".join(map(str, key_GK[g, 1:]))
        clusters.append(_Clusters(path, at, []))
      clusters[-1].sizes.append(int(size_G[g]))
      cluster_of_G[g] = len(clusters) - 1
      at += float(size_G[g]) / I
      joined = small
    largest = max((sum(c.sizes) for c in clusters if c.path), default=1)
    drawn.append(
      [
        Cell(
          start=c.start,
          width=sum(c.sizes) / I,
          strength=(sum(c.sizes) / largest) ** 0.5 if c.path else 0.0,
          title=c.title,
        )
        for c in clusters
      ]
    )
    start_C = np.array([c.start for c in clusters])
    cell_I = np.full(I, -1)
    cell_I[inside_N] = cluster_of_G[group_N]
  return drawn


class _Clusters(NamedTuple):
  """The content of a rectangle: one cluster, or small clusters without a path."""

  path: str
  start: float
  sizes: list[int]

  @property
  def title(self) -> str:
    items = f"{self.sizes[0]:,} {'item' if self.sizes[0] == 1 else 'items'}"
    if self.path:
      return f"{self.path}: {items}"
    most = "" if self.sizes[0] == 1 else "at most "
    number = len(self.sizes)
    return f"{number:,} {'cluster' if number == 1 else 'clusters'} of {most}{items}"


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
  levels = []
  for cells, row in zip(partition(items_IL), rows):
    label = (
      f"Level {row['level']}: {row['tokens']:,} tokens, {row['prefixes']:,} prefixes, "
      f"the largest of {row['largest']:,} items"
    )
    levels.append({"name": f"Level {row['level']}", "cells": cells, "label": label})
  return {
    "kind": book.manifest.get("kind", "unknown"),
    "options": book.manifest.get("options") or {},
    "sha256": book.sha256[:16],
    "num_items": len(items_IL),
    "vocab_size": book.vocab_size,
    "rows": rows,
    "levels": levels,
  }
