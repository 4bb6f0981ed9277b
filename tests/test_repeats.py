"""The bias of repeats, against loops in plain Python."""

import math

import jax
import numpy as np

from lightlm_jax.models import repeats

B, H = 3, 60


def recency(between: int) -> int:
  """T5's buckets: one for each distance below 8, then logarithmic up to 128."""
  if between < 8:
    return between
  return min(8 + int(math.log(between / 8) / math.log(128 / 8) * 8), 15)


def test_a_bias_is_the_sum_of_what_the_history_shows():
  rng = np.random.default_rng(0)
  token_BH = rng.integers(-1, 9, size=(B, H)).astype(np.int32)
  # Padding, one long history, and rows of several histories.
  segment_BH = np.ones((B, H), np.int32)
  segment_BH[0, :5] = 0
  segment_BH[1] = np.repeat((1, 2, 3), (1, 9, 50))
  bias_P = np.arange(1, repeats.NUMBER + 1, dtype=np.float32) ** 2
  found = jax.jit(repeats.of_history, static_argnums=3)(
    bias_P, token_BH, segment_BH, True
  )
  wanted_BHH = np.zeros((B, H, H), np.float32)
  is_last_BHH = np.zeros((B, H, H), bool)
  recency_P, times_P, habit_P, length_P = np.split(bias_P, (16, 20, 24))
  for b, q in np.argwhere(segment_BH > 0):
    read = [h for h in range(q + 1) if segment_BH[b, h] == segment_BH[b, q]]
    tokens = [token_BH[b, h] for h in read]
    real = [token for token in tokens if token >= 0]
    habit = len(real) - len(set(real))
    for token in set(real):
      last = max(h for h in read if token_BH[b, h] == token)
      is_last_BHH[b, q, last] = True
      wanted_BHH[b, q, last] = (
        recency_P[recency(q - last)]
        + times_P[min(real.count(token), 4) - 1]
        + habit_P[min(habit, 3)]
        + length_P[min(int(math.log2(len(read))), 5)]
      )
  np.testing.assert_array_equal(found[1], is_last_BHH)
  np.testing.assert_allclose(found[0], wanted_BHH)
  # A request has one prediction, after its last column.
  newest = repeats.of_history(bias_P, token_BH, segment_BH)
  for whole, row in zip(found, newest):
    np.testing.assert_array_equal(row, whole[:, -1:])
