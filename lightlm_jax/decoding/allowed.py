"""The items that a request may get, and those that it got."""

from typing import NamedTuple

import jax
import numpy as np

from lightlm_jax.data.interactions import concatenate_rows
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding.trie import capacity

FEWEST_EXCLUSIONS = 8


class Allowed(NamedTuple):
  """Which items each request may get: data, not structure, so it compiles nothing.

  Items are counted in *code order*, the order of the sorted codes, in which every
  subtree of the trie is a range. Systems without codes count in catalogue order.
  """

  # int32 [M, I + 1] or longer, M shared masks as running counts of open items: items
  # `lo` to `hi - 1` hold `prefix[m, hi] - prefix[m, lo]` open ones. M = 0: no mask.
  prefix_MI1: jax.Array
  mask_B: jax.Array  # int32, the shared mask of each request
  # int32 ranks that the request itself excludes: sorted, unique, only items open in its
  # mask, padded with I. E = 0 excludes nothing.
  excluded_BE: jax.Array


class Recommendations(NamedTuple):
  """The best K items of each request, best first."""

  items_BK: jax.Array  # int32 catalogue indices, -1 where there is none
  scores_BK: jax.Array  # float32, -inf where there is none
  valid_BK: jax.Array  # bool, false where there is none


def exclusion_width(most: int) -> int:
  """The bucket 8, 32, 128, 512, … that holds `most` excluded items: never fewer."""
  width = FEWEST_EXCLUSIONS
  while width < most:
    width *= 4
  return width


def seen_items(requests: Requests, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The whole histories at `index` as pairs: int64 row in the batch, int32 item."""
  length_R = requests.length_N[index]
  row_P = np.repeat(np.arange(len(index)), length_R)
  return row_P, concatenate_rows(
    requests.item_E, requests.offset_N1[:-1][index], length_R
  )


def exclusions(
  row_P: np.ndarray, item_P: np.ndarray, *, rank_I: np.ndarray, batch_size: int
) -> np.ndarray:
  """Pairs (row, item) as `Allowed.excluded_BE`, E the bucket of the longest row.

  Args:
    row_P: integers in [0, batch_size).
    item_P: catalogue indices, repeats allowed; the caller leaves out items that the
      request's shared mask closes already.
    rank_I: each catalogue item's place in code order.
    batch_size: B.
  """
  num_items = len(rank_I)
  key_P = np.unique(row_P * np.int64(num_items) + rank_I[item_P])
  row_P, excluded_P = np.divmod(key_P, num_items)
  count_B = np.bincount(row_P, minlength=batch_size)
  place_P = np.arange(len(key_P)) - np.repeat(np.cumsum(count_B) - count_B, count_B)
  width = exclusion_width(count_B.max())
  excluded_BE = np.full((batch_size, width), num_items, dtype=np.int32)
  excluded_BE[row_P, place_P] = excluded_P
  return excluded_BE


def shared_masks(allowed_MI: np.ndarray, rank_I: np.ndarray) -> np.ndarray:
  """Masks, bool [M, I] over the catalogue, as `Allowed.prefix_MI1`.

  They are [M, `capacity(I + 1)`], room for a catalogue that grows: behind the last item
  nothing is open. `rank_I` is each item's place in code order.
  """
  num_masks, num_items = allowed_MI.shape
  open_MR = np.zeros((num_masks, capacity(num_items + 1) - 1), bool)
  open_MR[:, rank_I] = allowed_MI
  return np.pad(np.cumsum(open_MR, axis=1, dtype=np.int32), ((0, 0), (1, 0)))


def no_shared_mask() -> np.ndarray:
  """`Allowed.prefix_MI1` of requests that use no shared mask."""
  return np.zeros((0, 1), dtype=np.int32)
