"""Arrays of the items that each request may get, and of the recommended items."""

from typing import NamedTuple

import jax
import numpy as np

from lightlm_jax.data.interactions import concatenate_rows
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding.trie import capacity

FEWEST_EXCLUSIONS = 8


class Allowed(NamedTuple):
  """The items that each request may get: those of its shared mask less its exclusions.

  These are arrays, so new values need no compilation. Items are given by rank, their
  place in *code order*: the order of the sorted codes, in which the items below a trie
  node are consecutive. For a system without codes it is the order of the catalogue.
  """

  # int32 [M, I + 1] or longer, M shared masks as cumulative counts of allowed items:
  # `prefix[m, hi] - prefix[m, lo]` of ranks `lo` to `hi - 1`. M = 0: no shared masks.
  prefix_MI1: jax.Array
  mask_B: jax.Array  # int32, each request's row of `prefix_MI1`
  # int32 ranks that each request excludes in addition: sorted, unique, all of them
  # allowed by its mask, padded with I. E = 0: none.
  excluded_BE: jax.Array


class Recommendations(NamedTuple):
  """The best K items of each request, best first."""

  items_BK: jax.Array  # int32 catalogue indices, -1 where there is none
  scores_BK: jax.Array  # float32, -inf where there is none
  valid_BK: jax.Array  # bool, false where there is none


def exclusion_width(most: int) -> int:
  """Returns the smallest of 8, 32, 128, 512, … that holds `most` exclusions."""
  width = FEWEST_EXCLUSIONS
  while width < most:
    width *= 4
  return width


def seen_items(requests: Requests, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns all (request, item) pairs of the histories of the requests at `index`.

  The pairs are two arrays: int64 places in `index` and int32 catalogue indices.
  """
  length_R = requests.length_N[index]
  row_P = np.repeat(np.arange(len(index)), length_R)
  return row_P, concatenate_rows(
    requests.item_E, requests.offset_N1[:-1][index], length_R
  )


def exclusions(
  row_P: np.ndarray, item_P: np.ndarray, *, rank_I: np.ndarray, batch_size: int
) -> np.ndarray:
  """Converts pairs of a batch row and an item to `Allowed.excluded_BE`.

  E is `exclusion_width(n)`, where n is the largest number of items of any row.

  Args:
    row_P: integers in [0, batch_size), the request that excludes the item.
    item_P: catalogue index of the item to exclude, which the request's shared mask
      (see `Allowed`) must not exclude already; pairs may repeat.
    rank_I: each item's place in the order of the codes (token sequences).
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
  """Converts masks, bool [M, I] over the catalogue, to `Allowed.prefix_MI1`.

  The result is [M, `capacity(I + 1)`], with room for a growing catalogue; ranks beyond
  the last item are not allowed. `rank_I` is each item's place in code order.
  """
  num_masks, num_items = allowed_MI.shape
  open_MR = np.zeros((num_masks, capacity(num_items + 1) - 1), bool)
  open_MR[:, rank_I] = allowed_MI
  return np.pad(np.cumsum(open_MR, axis=1, dtype=np.int32), ((0, 0), (1, 0)))


def no_shared_mask() -> np.ndarray:
  """Returns an `Allowed.prefix_MI1` without masks (M = 0): every item is allowed."""
  return np.zeros((0, 1), dtype=np.int32)
