"""Many short sequences in one row: next to no padding, and all lengths in a batch.

Rows are the same in every epoch; it is a batch of many rows, drawn anew, that mixes
them. The plan is made in terms of lengths alone, a pattern of lengths at a time, so
that its time does not grow with the log.
"""

from typing import NamedTuple

import numpy as np

# Rows may be this much more than the fewest that hold as many sequences.
_SPARE = 1.01


class Rows(NamedTuple):
  """How examples share rows.

  Attributes:
    most: examples in a row.
    width: what their lengths may add up to.
    length_E: int, of every position of the log.
  """

  most: int
  width: int
  length_E: np.ndarray


def rows(length_E: np.ndarray, most: int, multiple: int = 8) -> Rows:
  """The narrowest rows that come to `most` examples each, nearly all of them.

  Args:
    length_E: int from 1.
    most: examples in a row.
    multiple: of which the width is one.
  """
  number_L = np.bincount(length_E)
  fewest = -(-len(length_E) // most)
  narrowest = max(number_L.size - 1, -(-int(length_E.sum()) // fewest))
  width = -(-narrowest // multiple) * multiple
  while sum(times for times, _ in _patterns(number_L, width, most)) > _SPARE * fewest:
    width += multiple
  return Rows(most, width, length_E)


def pack(
  length_N: np.ndarray, width: int, seed: int, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Puts sequences into rows.

  The longest that fits comes next (first-fit decreasing). Where a row may hold `most`,
  that is after its first the longest that leaves as much for each of the others: long
  ones with short ones, or the last rows would be of short ones alone.

  Args:
    length_N: int, each from 1 to `width`.
    width: columns of a row.
    seed: of which among equally long ones go together.
    most: sequences in a row; None = as many as fit.

  Returns:
    row_N and column_N, int64: where each begins. Sequences do not overlap, and the
    columns that stay empty are the last of their row.
  """
  # A slot of each sequence, in the order of rows, and in them of columns.
  first, row, column, length = 0, [], [], []
  for times, lengths in _patterns(np.bincount(length_N), width, most):
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
  number_L: np.ndarray, width: int, most: int | None
) -> list[tuple[int, np.ndarray]]:
  """(How many rows, the lengths in each of them), until no sequence is left.

  Args:
    number_L: sequences of each length.
  """
  left_L = number_L.copy()
  found = []
  while left_L.any():
    lengths, room = [], width
    free_L = left_L.copy()
    while most is None or len(lengths) < most:
      fits = np.flatnonzero(free_L[: room + 1])
      if not len(fits):
        break
      others = 1 if most is None or not lengths else most - len(lengths)
      even = fits[fits <= room // others]
      length = even[-1] if len(even) else fits[0]
      lengths.append(length)
      free_L[length] -= 1
      room -= length
    used_L = left_L - free_L
    times = int((left_L[used_L > 0] // used_L[used_L > 0]).min())
    left_L -= times * used_L
    found.append((times, np.array(lengths)))
  return found
