"""Batches of requests or examples: static shapes, filled up with weight 0."""

from typing import NamedTuple

import jax
import numpy as np

from lightlm_jax.data.requests import Requests

SHORTEST_HISTORY = 5


class Batch(NamedTuple):
  """Requests on the device, or examples with the items that answer them.

  Attributes:
    user_B: int32 user indices, -1 = unknown. In rows of K examples [B, K], as the
      targets and the weights.
    history_BH: int32 catalogue indices, right-aligned (newest last), -1 = none.
    segment_BH: int32, which example of the row an item belongs to, from 1; 0 = none.
    target_B: int32 catalogue index that followed; -1 where it is not known. In rows of
      sequences [B, H]: what followed each position.
    weight_B: float32, 0 for what only fills the batch.
  """

  user_B: jax.Array
  history_BH: jax.Array
  segment_BH: jax.Array
  target_B: jax.Array
  weight_B: jax.Array


def history_width(longest: int, max_history: int | None = None) -> int:
  """The bucket 5, 10, 20, 40, … that holds `longest` items, at most `max_history`."""
  width = SHORTEST_HISTORY
  while width < longest:
    width *= 2
  return width if max_history is None else min(width, max_history)


def request_batch(
  requests: Requests, index: np.ndarray, *, batch_size: int, width: int
) -> Batch:
  """The requests at `index` as one batch, filled up to `batch_size` with weight 0.

  Args:
    requests: questions with their histories and targets.
    index: at most `batch_size` integers.
    batch_size: B.
    width: H; of a longer history the newest H items are kept.

  Returns:
    numpy arrays in the form of `Batch`.
  """
  end_R = requests.offset_N1[index + 1]
  source_RH = end_R[:, None] - width + np.arange(width)
  held_RH = source_RH >= requests.offset_N1[index][:, None]
  history_BH = np.full((batch_size, width), -1, dtype=np.int32)
  history_BH[: len(index)][held_RH] = requests.item_E[source_RH[held_RH]]

  def fill(values_R, empty, dtype):
    filled_B = np.full(batch_size, empty, dtype=dtype)
    filled_B[: len(index)] = values_R
    return filled_B

  return Batch(
    user_B=fill(requests.user_N[index], -1, np.int32),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=fill(requests.target_N[index], -1, np.int32),
    weight_B=fill(1.0, 0.0, np.float32),
  )
