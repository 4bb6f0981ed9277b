"""Many short histories in one row: next to no padding, and all lengths in a batch.

A row is nearly of one length (a row of 50 holds 25 twos, or ten fives) and the same in
every epoch; it is a batch of many rows, drawn anew, that mixes them.
"""

import numpy as np


def pack(length_N: np.ndarray, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Puts sequences into rows, the longest that fits always next (first-fit decreasing).

  Args:
    length_N: int, each from 1 to `width`.
    width: columns of a row.
    seed: of which among equally long ones go together.

  Returns:
    row_N and column_N, int64: where each begins. Sequences do not overlap, and the
    columns that stay empty are the last of their row.
  """
  rng = np.random.default_rng(seed)
  shuffled_N = rng.permutation(len(length_N))
  # By length, then in the order drawn; each list is taken from its end.
  by_length = [[] for _ in range(width + 1)]
  for n, length in zip(shuffled_N.tolist(), length_N[shuffled_N].tolist()):
    by_length[length].append(n)
  row_N, column_N = np.zeros((2, len(length_N)), np.int64)
  row, column = 0, 0
  longest = width
  for _ in range(len(length_N)):
    while longest and not by_length[longest]:
      longest -= 1
    length = min(longest, width - column)
    while length and not by_length[length]:
      length -= 1
    if not length:
      row, column, length = row + 1, 0, longest
    n = by_length[length].pop()
    row_N[n], column_N[n] = row, column
    column += length
  return row_N, column_N
