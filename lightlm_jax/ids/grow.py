"""New items get codes, all others keep theirs: no token, no inner node is added."""

import collections
from collections.abc import Sequence
import dataclasses

import numpy as np

from lightlm_jax.ids.codes import CodeBook, code_book, split_last, stack_codes
from lightlm_jax.ids.neighbours import by_attributes
from lightlm_jax.runtime.errors import UserError

# Items of training, most like it, that say where an item without training belongs.
NEIGHBOURS = 10


def add_items(
  book: CodeBook,
  neighbours: Sequence[np.ndarray],
  cold_I: np.ndarray,
  *,
  capacity: int,
  seed: int,
) -> CodeBook:
  """The book with further items behind its own; a model trained on it goes on.

  A new item joins the leaf that most of its neighbours are in (of equals the smallest,
  then the first): it takes all their tokens but the last, and a last one that none of
  this leaf has, drawn from those that end codes of this length. (One that was given to
  a single item, or names a cluster elsewhere, is said of a second thing by that.) If
  the leaf is full, the next one of its neighbours counts. An item without neighbours,
  or all of whose neighbours' leaves are full, is put to the items that have no training
  interactions; where there are none, or no room beside them, into the leaf with the
  most free tokens.

  Args:
    book: I items.
    neighbours: of each new item the old items it is like (bought by the same users, of
      the same brand), catalogue indices; none, if nothing is known of it.
    cold_I: bool, the old items without training interactions.
    capacity: the most items that the trie's tables hold.
    seed: of the last tokens.

  Raises:
    UserError: there is no room for all of them, or a neighbour is no item.
  """
  num_items = len(book.items_IL)
  if num_items + len(neighbours) > capacity:
    raise UserError(
      f"{num_items:,} items and {len(neighbours):,} new ones are more than the "
      f"{capacity:,} that there is room for; build the ids anew"
    )
  stem_IL, _ = split_last(book.items_IL)
  stem_CL, leaf_I = np.unique(stem_IL, axis=0, return_inverse=True)
  leaf_I = leaf_I.reshape(-1)
  stems = [tuple(stem_L[stem_L >= 0].tolist()) for stem_L in stem_CL]
  size_C = np.bincount(leaf_I)
  cold_leaves = np.unique(leaf_I[cold_I]).tolist()
  ends, following = _tokens(book.items_IL)

  def free_tokens(leaf: int) -> list[int]:
    return sorted(ends[len(stems[leaf])] - following[stems[leaf]])

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
    with_room = (leaf for leaf in (*wanted, *cold_leaves) if number_free(leaf))
    leaf = next(with_room, None)
    if leaf is None:
      leaf = max(range(len(stems)), key=number_free)
    free = free_tokens(leaf)
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
  """The book with items that training never saw beside their like, not apart.

  As if they had come later: their codes are taken back, and `add_items` gives them new
  ones by the trained items that are nearest in attributes. All other codes stay, and
  so does the vocabulary. An item that is like no trained one keeps the code it has.

  Args:
    book: I items.
    cold_I: bool, the items without training interactions; where there are none, the
      book itself is returned.
    attributes: of each item, see `neighbours.by_attributes`.
    seed: of the last tokens.

  Raises:
    UserError: nothing is known of the items, or there is no room for all of them.
  """
  if attributes is None:
    raise UserError(
      "config.ids.cold is 'attributes', which wants item_attributes.json (raw item id "
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
  manifest = {**book.manifest, "cold_placed": placed}  # of so many
  return dataclasses.replace(book, items_IL=items_IL, manifest=manifest)


def _tokens(items_IL: np.ndarray) -> tuple[dict[int, set], dict[tuple, set]]:
  """The tokens that end a code, by their depth; those that follow a prefix, by it."""
  ends, following = collections.defaultdict(set), collections.defaultdict(set)
  for code_L in items_IL:
    code = code_L[code_L >= 0].tolist()
    ends[len(code) - 1].add(code[-1])
    # Not only the last: a token that leads on after this prefix ends nothing there.
    for depth, token in enumerate(code):
      following[tuple(code[:depth])].add(token)
  return ends, following
