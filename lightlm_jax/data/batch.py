"""Batches of requests or examples, of static shapes; padding rows have weight 0."""

from typing import Any, NamedTuple

import numpy as np

from lightlm_jax.data.splits import Requests

SHORTEST_HISTORY = 5
Array = Any  # a jax.Array on the devices, or a numpy array on the host


class Batch(NamedTuple):
  """A batch of B rows of H columns: requests, or training examples with their targets.

  If a row may hold K > 1 examples, user_B, target_B and weight_B have shape [B, K]. If
  every position of a history has a target, target_B has shape [B, H].
  """

  user_B: Array  # int32 user indices, -1 = unknown
  history_BH: Array  # int32 catalogue indices, right-aligned (newest last), -1 = none
  segment_BH: Array  # int32, each item's example within the row, from 1; 0 = padding
  # int32 index of the next item, -1 = unknown; [B, H] if every position has a target
  target_B: Array
  weight_B: Array  # float32, 0 for padding


def history_width(longest: int, max_history: int | None = None) -> int:
  """Rounds `longest` up to 5, 10, 20, …; at most `max_history`, None = no limit."""
  width = SHORTEST_HISTORY
  while width < longest:
    width *= 2
  return width if max_history is None else min(width, max_history)


def request_batch(
  requests: Requests, index: np.ndarray, *, batch_size: int, width: int
) -> Batch:
  """Returns the requests at `index` as a batch of numpy arrays, padded to `batch_size`.

  The batch has `width` history columns; longer histories keep their newest items.
  """
  end_R = requests.offset_N1[index + 1]
  source_RH = end_R[:, None] - width + np.arange(width)
  held_RH = source_RH >= requests.offset_N1[index][:, None]
  history_BH = np.full((batch_size, width), -1, dtype=np.int32)
  history_BH[: len(index)][held_RH] = requests.item_E[source_RH[held_RH]]

  padding = (0, batch_size - len(index))
  return Batch(
    user_B=np.pad(requests.user_N[index], padding, constant_values=-1),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=np.pad(requests.target_N[index], padding, constant_values=-1),
    weight_B=(np.arange(batch_size) < len(index)).astype(np.float32),
  )
