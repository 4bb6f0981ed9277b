"""Codes for new items in an existing code book, whose other codes do not change."""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np
import scipy.sparse

from lightlm_jax.ids.codes import CodeBook, code_book, split_last, stack_codes
from lightlm_jax.runtime.errors import UserError

# How many nearest trained items decide where a cold item is placed.
NEIGHBOURS = 10
# Pairs of a new and a known item in memory at once: 50 MB if every pair has a cosine.
PAIRS_AT_ONCE = 2**22
# Cosines are rounded to so many decimals: the order of summation must not break ties.
DECIMALS = 9


def add_items(
  book: CodeBook,
  neighbours: Sequence[np.ndarray],
  cold_I: np.ndarray,
  *,
  capacity: int,
  seed: int,
) -> CodeBook:
  """Returns the book with new items appended; models trained on `book` stay valid.

  The vocabulary and the inner nodes of the trie stay the same. A leaf is all items
  whose codes differ only in the last token. A new item joins the first leaf that has a
  free token. It tries its neighbours' leaves (most neighbours first), then the leaves
  of cold items, then all leaves (most free tokens first). Among its neighbours' leaves,
  ties go to the leaf with fewest items, then to the first by prefix. The item's code is
  the leaf's prefix and a token that is free there, drawn at random from the tokens that
  end codes of this length.

  `neighbours` has, for each new item, the catalogue indices of similar old items
  (bought by the same users, of the same brand), empty if nothing is known. `cold_I`,
  bool, marks the old items without training interactions. `capacity` is the largest
  number of items that the trie's tables have room for.

  Raises:
    UserError: `capacity` is exceeded, no code is free for an item, or a neighbour is
      outside the catalogue.
  """
  num_items = len(book.items_IL)
  if num_items + len(neighbours) > capacity:
    raise UserError(
      f"{num_items:,} items and {len(neighbours):,} new ones exceed the capacity of "
      f"{capacity:,}; build the ids anew"
    )
  stem_IL, _ = split_last(book.items_IL)
  stem_CL, leaf_I = np.unique(stem_IL, axis=0, return_inverse=True)
  leaf_I = leaf_I.reshape(-1)
  stems = [tuple(stem_L[stem_L >= 0].tolist()) for stem_L in stem_CL]
  size_C = np.bincount(leaf_I)
  cold_leaves = np.unique(leaf_I[cold_I]).tolist()
  ends, following = _tokens(book.items_IL)

  def number_free(leaf: int) -> int:
    end = ends[len(stems[leaf])]
    return len(end) - sum(token in end for token in following[stems[leaf]])

  rng = np.random.default_rng(seed)
  codes = [code_L[code_L >= 0] for code_L in book.items_IL]
  for number, old_items in enumerate(neighbours):
    old_items = np.asarray(old_items, int)
    if ((old_items < 0) | (old_items >= num_items)).any():
      raise UserError(
        f"new item {number} has a neighbour outside the catalogue of {num_items:,} "
        f"items: {old_items.tolist()}"
      )
    votes = collections.Counter(leaf_I[old_items].tolist())
    wanted = sorted(votes, key=lambda leaf: (-votes[leaf], size_C[leaf], leaf))
    not_full = (leaf for leaf in (*wanted, *cold_leaves) if number_free(leaf))
    leaf = next(not_full, None)
    if leaf is None:
      leaf = max(range(len(stems)), key=number_free)
    free = sorted(ends[len(stems[leaf])] - following[stems[leaf]])
    if not free:
      raise UserError(
        f"there is no free code for {len(neighbours) - number:,} of "
        f"{len(neighbours):,} new items; build the ids anew"
      )
    token = free[rng.integers(len(free))]
    following[stems[leaf]].add(token)
    size_C[leaf] += 1
    codes.append(np.array([*stems[leaf], token]))
  added = book.manifest.get("added", 0) + len(neighbours)
  return code_book(stack_codes(codes), book.users_UL, {**book.manifest, "added": added})


def place_cold(
  book: CodeBook,
  cold_I: np.ndarray,
  attributes: Sequence[np.ndarray] | None,
  *,
  seed: int,
) -> CodeBook:
  """Returns the book with new codes for cold items, near similar trained items.

  Cold items (`cold_I`, bool) get new codes from `add_items`, where their neighbours are
  the trained items with most similar attributes. All other codes and the vocabulary
  stay the same. An item that shares no attribute with a trained item keeps its code.

  Raises:
    UserError: `attributes` is None, or no code is free for an item.
  """
  if attributes is None:
    raise UserError(
      "config.ids.cold is 'attributes', which needs item_attributes.json (raw item id "
      "→ list of attributes) beside the log; put it there, or set it to 'apart'"
    )
  if not cold_I.any():
    return book
  cold_N = np.flatnonzero(cold_I)
  near = by_attributes(attributes, cold_N, np.flatnonzero(~cold_I), NEIGHBOURS)
  stays_I = ~cold_I
  stays_I[cold_N] = [not len(items) for items in near]
  place_I = np.cumsum(stays_I) - 1
  grown = add_items(
    dataclasses.replace(book, items_IL=book.items_IL[stays_I]),
    [place_I[items] for items in near if len(items)],
    cold_I[stays_I],
    capacity=len(book.items_IL),
    seed=seed,
  )
  items_IL = np.empty_like(grown.items_IL)
  items_IL[stays_I], items_IL[~stays_I] = np.split(grown.items_IL, [stays_I.sum()])
  placed = [int((~stays_I).sum()), len(cold_N)]
  manifest = {**book.manifest, "cold_placed": placed}  # [moved, cold items]
  return dataclasses.replace(book, items_IL=items_IL, manifest=manifest)


def _tokens(items_IL: np.ndarray) -> tuple[dict[int, set], dict[tuple, set]]:
  """Returns {position: last tokens there} and {prefix: tokens after it} of codes."""
  ends, following = collections.defaultdict(set), collections.defaultdict(set)
  for code_L in items_IL:
    code = code_L[code_L >= 0].tolist()
    ends[len(code) - 1].add(code[-1])
    # Also inner tokens: a token that continues after this prefix cannot end a code.
    for depth, token in enumerate(code):
      following[tuple(code[:depth])].add(token)
  return ends, following


def by_attributes(
  attributes: Sequence[np.ndarray], new_N: np.ndarray, known_M: np.ndarray, k: int
) -> list[np.ndarray]:
  """Returns, for each of `new_N`, the nearest items of `known_M` by attribute cosine.

  An attribute that m of the M known items have weighs log((1 + M) / (1 + m)), which is
  0 if all have it. Items with cosine 0 are not neighbours. `attributes` holds, for each
  catalogue item, an array of distinct attributes, ints from 0.

  Returns:
    N int arrays of at most k catalogue indices, nearest first, ties by index.
  """
  size = 1 + max((int(row.max()) for row in attributes if len(row)), default=0)
  new_NA, known_MA = (_rows(attributes, items, size) for items in (new_N, known_M))
  known_A = np.bincount(known_MA.indices, minlength=size)
  weight_A = np.log((1 + len(known_M)) / (1 + known_A))
  new_NA, known_AM = _unit(new_NA, weight_A), _unit(known_MA, weight_A).T.tocsr()
  chunk = max(1, PAIRS_AT_ONCE // max(1, len(known_M)))
  nearest = []
  for start in range(0, len(new_N), chunk):
    cosine_RM = new_NA[start : start + chunk] @ known_AM
    for begin, end in zip(cosine_RM.indptr[:-1], cosine_RM.indptr[1:]):
      cosine_P = np.round(cosine_RM.data[begin:end], DECIMALS)
      item_P = known_M[cosine_RM.indices[begin:end]]
      # Only cosines above 0, and with the k-th all that equal it; ties by index.
      least = np.partition(cosine_P, -k)[-k] if len(cosine_P) > k else 0
      keep_P = (cosine_P > 0) & (cosine_P >= least)
      item_P, cosine_P = item_P[keep_P], cosine_P[keep_P]
      nearest.append(item_P[np.lexsort((item_P, -cosine_P))[:k]])
  return nearest


def _rows(attributes, items: np.ndarray, size: int) -> scipy.sparse.csr_array:
  """Returns a row per item, of `size` columns: 1 where the item has the attribute."""
  rows = [attributes[item] for item in items]
  offset_N1 = np.cumsum([0] + [len(row) for row in rows])
  index_E = np.concatenate([np.empty(0, np.int64), *rows])
  return scipy.sparse.csr_array(
    (np.ones(len(index_E)), index_E, offset_N1), shape=(len(rows), size)
  )


def _unit(table_NA: scipy.sparse.csr_array, weight_A: np.ndarray):
  """Weights the columns, then scales rows to length 1, except those that are zero."""
  weighted_NA = scipy.sparse.csr_array(table_NA @ scipy.sparse.diags_array(weight_A))
  norm_N = np.sqrt(weighted_NA.power(2).sum(axis=1))
  scale_N = np.divide(1, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
  return scipy.sparse.csr_array(scipy.sparse.diags_array(scale_N) @ weighted_NA)
