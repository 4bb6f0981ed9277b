"""Batches of requests: right-aligned, cut, filled up."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
from raw_logs import random_rows

from lightlm_jax.data import interactions, splits
from lightlm_jax.data.batch import history_width, request_batch


@pytest.mark.parametrize(
  ("longest", "most", "width"),
  [(0, None, 5), (5, None, 5), (6, None, 10), (41, None, 80), (41, 20, 20), (3, 2, 2)],
)
def test_history_width(longest, most, width):
  assert history_width(longest, most) == width


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_request_batch_is_right_aligned_and_filled_up(width, seed):
  log = interactions.from_sequences(random_rows(seed=seed).items())
  test = splits.leave_one_out(log).test
  rng = np.random.default_rng(seed)
  index = rng.integers(len(test), size=rng.integers(0, 7))
  batch = request_batch(test, index, batch_size=6, width=width)
  for b in range(6):
    if b >= len(index):
      row, user, target, weight = [], -1, -1, 0.0
    else:
      row, weight = test.row(index[b])[-width:].tolist(), 1.0
      user, target = test.user_N[index[b]], test.target_N[index[b]]
    assert batch.history_BH[b].tolist() == [-1] * (width - len(row)) + row
    assert batch.segment_BH[b].tolist() == [0] * (width - len(row)) + [1] * len(row)
    assert (batch.user_B[b], batch.target_B[b]) == (user, target)
    assert batch.weight_B[b] == weight
  assert {array.dtype.name for array in batch} == {"int32", "float32"}
