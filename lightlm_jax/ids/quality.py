"""Statistics of codes before any model is trained: sizes, entropy and agreement.

A *level* is a position in the code; statistics per level are lists. Two codes *agree*
down to a level if all their tokens up to and including that level are equal.
"""

from typing import Any

import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Split
from lightlm_jax.ids import graph
from lightlm_jax.ids.codes import CodeBook, split_last

QUANTILES = (0.1, 0.5, 0.9, 1.0)
# Most items whose nearest neighbour is computed, so that the pairs fit into memory.
MOST_NEIGHBOURS = 50_000


def report(book: CodeBook, split: Split, *, seed: int) -> dict[str, Any]:
  """Returns the report on a code book that the command `index` writes.

  Its fields: num_items, num_users, vocab_size, length ({number of tokens: number of
  items}), collisions (items minus distinct codes), largest_leaf, tokens_per_level,
  entropy_per_level (bits), cluster_sizes (`QUANTILES` per level). Two more fields hold,
  per level, the share of pairs whose codes agree down to that level. "agreement" has
  pairs of a user and an item (keys training, held_out, random; held_out is None if
  nothing is held out), "neighbours" pairs of two items (keys nearest, random).
  """
  items_IL, users_UL = book.items_IL, book.users_UL
  rng = np.random.default_rng(seed)
  length_I = (items_IL >= 0).sum(axis=1)
  count = np.bincount(length_I)
  return {
    "num_items": len(items_IL),
    "num_users": len(users_UL),
    "vocab_size": book.vocab_size,
    "length": {str(n): int(count[n]) for n in np.flatnonzero(count)},
    "collisions": len(items_IL) - len(np.unique(items_IL, axis=0)),
    "largest_leaf": largest_leaf(items_IL),
    "tokens_per_level": [len(np.unique(t[t >= 0])) for t in items_IL.T],
    "entropy_per_level": [_entropy(t[t >= 0]) for t in items_IL.T],
    "cluster_sizes": [
      np.quantile(size_C, QUANTILES).tolist() for size_C in cluster_sizes(items_IL)
    ],
    "agreement": _agreement_with_users(items_IL, users_UL, split, rng),
    "neighbours": _agreement_of_neighbours(items_IL, split.train, rng),
  }


def agreement(code_PL: np.ndarray, other_PL: np.ndarray) -> list[float] | None:
  """Returns, per level, the share of P pairs whose codes agree down to that level.

  Row p of both arrays is pair p; without pairs the result is None. A code agrees with
  nothing beyond its end. Arrays are padded with -1 at the end and may differ in width.
  """
  if not len(code_PL):
    return None
  width = min(code_PL.shape[1], other_PL.shape[1])
  code_PL, other_PL = code_PL[:, :width], other_PL[:, :width]
  equal_PL = (code_PL == other_PL) & (code_PL >= 0)
  return np.logical_and.accumulate(equal_PL, axis=1).mean(axis=0).tolist()


def cluster_sizes(items_IL: np.ndarray) -> list[np.ndarray]:
  """Returns, per level, the number of items below each inner node of the trie."""
  sizes = []
  for level in range(items_IL.shape[1] - 1):
    inner_NL = items_IL[items_IL[:, level + 1] >= 0, : level + 1]
    sizes.append(np.unique(inner_NL, axis=0, return_counts=True)[1])
  return [size_C for size_C in sizes if len(size_C)]


def largest_leaf(items_IL: np.ndarray) -> int:
  """Returns the largest number of items whose codes differ only in the last token."""
  stem_IL, _ = split_last(items_IL)
  return int(np.unique(stem_IL, axis=0, return_counts=True)[1].max())


def nearest_neighbours(train: Interactions, item_A: np.ndarray) -> np.ndarray:
  """Returns the nearest other item to each in `item_A`, [A] int64; -1 = none.

  An item's vector is 1 for its buyers and 0 for other users. The nearest item of the
  catalogue has the greatest cosine above 0; ties go to the lower index.
  """
  bought_UI = graph.distinct_purchases(train)
  together_AI = (bought_UI.T.tocsr()[item_A] @ bought_UI).tocoo()
  row_P, column_P = together_AI.coords
  other_P = column_P != item_A[row_P]
  row_P, column_P = row_P[other_P], column_P[other_P]
  buyers_I = np.bincount(bought_UI.indices, minlength=train.num_items)
  product_P = buyers_I[item_A[row_P]] * buyers_I[column_P]
  cosine_P = together_AI.data[other_P] / np.sqrt(product_P)
  order_P = np.lexsort((column_P, -cosine_P, row_P))
  row_N, first_N = np.unique(row_P[order_P], return_index=True)
  nearest_A = np.full(len(item_A), -1)
  nearest_A[row_N] = column_P[order_P[first_N]]
  return nearest_A


def _agreement_with_users(items_IL, users_UL, split: Split, rng) -> dict[str, Any]:
  train = split.train
  pairs = {"training": (train.user_E, train.item_E), "held_out": None}
  if split.test is not None and split.validation is not None:
    held = (split.validation, split.test)
    pairs["held_out"] = (
      np.concatenate([requests.user_N for requests in held]),
      np.concatenate([requests.target_N for requests in held]),
    )
  pairs["random"] = (train.user_E, rng.integers(len(items_IL), size=len(train.item_E)))
  return {
    name: pair and agreement(users_UL[pair[0]], items_IL[pair[1]])
    for name, pair in pairs.items()
  }


def _agreement_of_neighbours(items_IL, train: Interactions, rng) -> dict[str, Any]:
  item_A = np.arange(len(items_IL))
  if len(item_A) > MOST_NEIGHBOURS:
    item_A = rng.choice(item_A, MOST_NEIGHBOURS, replace=False)
  nearest_A = nearest_neighbours(train, item_A)
  code_NL = items_IL[item_A[nearest_A >= 0]]
  others_N = rng.integers(len(items_IL), size=len(code_NL))
  return {
    "nearest": agreement(code_NL, items_IL[nearest_A[nearest_A >= 0]]),
    "random": agreement(code_NL, items_IL[others_N]),
  }


def _entropy(token_N: np.ndarray) -> float:
  share_V = np.unique(token_N, return_counts=True)[1] / len(token_N)
  return float(-(share_V * np.log2(share_V)).sum())
