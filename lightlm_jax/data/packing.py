"""Packs several short sequences into a row: little padding, mixed lengths.

Rows are the same in every epoch; their order in batches changes. Packing looks at
lengths only: a combination of lengths that fills a row is found once and used for many
rows, so the search does not slow down as the log grows.
"""

from typing import NamedTuple

import numpy as np

_SPARE = 1.01  # the number of rows may exceed the minimum by this factor
_MULTIPLE = 8  # the width is a multiple of this


class Rows(NamedTuple):
  """The layout of E examples; up to `max_per_row` share a row of `width` tokens."""

  max_per_row: int  # examples
  width: int  # source tokens of a row
  length_E: np.ndarray  # int from 1, the source tokens at every position of the log


def rows(length_E: np.ndarray, max_per_row: int) -> Rows:
  """Returns the narrowest layout in which nearly all rows hold `max_per_row` examples.

  `length_E` has the number of source tokens of every example, at least 1.
  """
  number_L = np.bincount(length_E)
  fewest = -(-len(length_E) // max_per_row)
  narrowest = max(number_L.size - 1, -(-int(length_E.sum()) // fewest))
  width = -(-narrowest // _MULTIPLE) * _MULTIPLE
  while sum(n for n, _ in _patterns(number_L, width, max_per_row)) > _SPARE * fewest:
    width += _MULTIPLE
  return Rows(max_per_row, width, length_E)


def pack(
  length_N: np.ndarray, width: int, seed: int, max_per_row: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Packs sequences into rows.

  A row is filled with the longest sequence that fits, again and again (first-fit
  decreasing). With `max_per_row`, each sequence after a row's first is at most as long
  as the space left, divided by the number of sequences that the row may still hold. If
  none is so short, the shortest one is taken. So the last rows hold long sequences too.

  Args:
    length_N: int, the length of each sequence, from 1 to `width`.
    width: number of columns of a row.
    seed: decides which of equally long sequences share a row.
    max_per_row: maximum number of sequences in a row; None = no limit.

  Returns:
    row_N and column_N, int64: the row and column at which each sequence begins.
  """
  # There is one slot per sequence, ordered by row, then by column.
  first, row, column, length = 0, [], [], []
  for times, lengths in _patterns(np.bincount(length_N), width, max_per_row):
    column_S = np.cumsum(lengths) - lengths
    row.append(first + np.repeat(np.arange(times), len(lengths)))
    column.append(np.tile(column_S, times))
    length.append(np.tile(lengths, times))
    first += times
  row_N, column_N = np.zeros((2, len(length_N)), np.int64)
  shuffled_N = np.random.default_rng(seed).permutation(len(length_N))[::-1]
  sequence_N = shuffled_N[np.argsort(length_N[shuffled_N], kind="stable")]
  slot_N = np.argsort(np.concatenate(length), kind="stable")
  row_N[sequence_N] = np.concatenate(row)[slot_N]
  column_N[sequence_N] = np.concatenate(column)[slot_N]
  return row_N, column_N


def _patterns(
  number_L: np.ndarray, width: int, max_per_row: int | None
) -> list[tuple[int, np.ndarray]]:
  """Returns pairs (number of equal rows, lengths of the sequences in each of them).

  `number_L[l]` sequences have length l, and each gets its place in one of the rows;
  `width` and `max_per_row` are as in `pack`.
  """
  left_L, found = number_L.copy(), []
  while left_L.any():
    lengths, free = [], width
    free_L = left_L.copy()
    while max_per_row is None or len(lengths) < max_per_row:
      fits = np.flatnonzero(free_L[: free + 1])
      if not len(fits):
        break
      others = 1 if max_per_row is None or not lengths else max_per_row - len(lengths)
      even = fits[fits <= free // others]
      length = even[-1] if len(even) else fits[0]
      lengths.append(length)
      free_L[length] -= 1
      free -= length
    used_L = left_L - free_L
    times = int((left_L[used_L > 0] // used_L[used_L > 0]).min())
    left_L -= times * used_L
    found.append((times, np.array(lengths)))
  return found
