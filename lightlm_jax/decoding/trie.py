"""The trie of all item codes as dense tables on the device.

Every state is an internal node; row `state` says which tokens may follow and where
they lead. The decoder never leaves the device to ask what is allowed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.errors import UserError


class DenseTrie(NamedTuple):
  """Transition tables of T states over V tokens, and the leaves they lead to.

  State 0 is the root. Items are counted in code order (the order of the sorted
  codes), so that the items below any state are a range: `low` to `high - 1`. States
  `0 … T - 1` are internal nodes, `T + r` is the leaf of the item with rank r. All
  leaves share the last row of the tables, which allows nothing.

  Attributes:
    mask_TV: bool [T + 1, V], may this token follow? The precomputed mask.
    next_TV: int32 [T + 1, V], the child it leads to; where the mask is false, the
      state that stands for no item.
    low_S: int32 [T + I + 1], first rank below each state, leaves included.
    high_S: int32 [T + I + 1], one past the last rank; the last state holds nothing.
    item_R: int32 [I], the catalogue index of each rank.
  """

  mask_TV: jax.Array
  next_TV: jax.Array
  low_S: jax.Array
  high_S: jax.Array
  item_R: jax.Array

  @property
  def num_internal(self) -> int:
    """T, the number of states that have children."""
    return self.mask_TV.shape[0] - 1

  @property
  def num_items(self) -> int:
    return self.item_R.shape[0]

  @property
  def nowhere(self) -> int:
    """The state of a sequence that is no prefix of any item."""
    return self.num_internal + self.num_items

  def row(self, state: jax.Array) -> jax.Array:
    """The table row of any state: its own, or the one that all leaves share."""
    return jnp.minimum(state, self.num_internal)

  def is_leaf(self, state: jax.Array) -> jax.Array:
    """True where a state is a whole item."""
    return (state >= self.num_internal) & (state < self.nowhere)

  def leaf_rank(self, state: jax.Array) -> jax.Array:
    """The item's rank in code order of a leaf state; 0 elsewhere."""
    return jnp.where(self.is_leaf(state), state - self.num_internal, 0)


def build_dense(
  code_IL: np.ndarray, vocab_size: int, byte_budget: int
) -> tuple[DenseTrie, np.ndarray]:
  """Builds the tables from codes in any order, and each item's rank in code order.

  Args:
    code_IL: int32 [I, L] tokens, padded with -1 at the end. No code may be a proper
      prefix of another (end such codes with a terminator).
    vocab_size: V, at least one more than the largest token.
    byte_budget: the most that the two dense tables may take.

  Returns:
    The trie (numpy arrays) and rank_I int32.

  Raises:
    UserError: a code is empty, two codes are equal, one is a prefix of another, or
      the tables would not fit the budget.
  """
  num_items, depth = code_IL.shape
  order_R = np.lexsort(code_IL.T[::-1])
  code_RL = code_IL[order_R]
  _refuse_ambiguous(code_RL, order_R)

  # A node starts wherever the prefix differs from the one of the rank before.
  differs_RL = np.ones((num_items, depth), dtype=bool)
  differs_RL[1:] = np.logical_or.accumulate(code_RL[1:] != code_RL[:-1], axis=1)
  length_R = (code_RL >= 0).sum(axis=1)

  parent_R = np.zeros(num_items, dtype=np.int64)  # the root, one level up
  low, high = [np.zeros(1, np.int64)], [np.full(1, num_items)]
  edges = []
  num_internal = 1
  for level in range(depth):
    real_R = length_R > level
    inner_R = length_R > level + 1
    starts = np.flatnonzero(differs_RL[:, level] & inner_R)
    # Ranks of one inner node stand together, so counting its starts numbers it.
    node_R = num_internal - 1 + np.cumsum(differs_RL[:, level] & inner_R)
    child_R = np.where(inner_R, node_R, -1 - np.arange(num_items))
    first_R = differs_RL[:, level] & real_R
    edges.append((parent_R[first_R], code_RL[first_R, level], child_R[first_R]))
    low.append(starts)
    ends = np.flatnonzero(inner_R & np.append(differs_RL[1:, level], True)) + 1
    high.append(ends)
    num_internal += len(starts)
    parent_R = np.where(inner_R, node_R, 0)
  parent, token, child = (np.concatenate(column) for column in zip(*edges, strict=True))

  table_bytes = (num_internal + 1) * vocab_size * 5
  if table_bytes > byte_budget:
    raise UserError(
      f"a dense trie of {num_internal} states and {vocab_size} tokens takes "
      f"{table_bytes:,} bytes, decoding.trie_bytes allows {byte_budget:,}; raise it "
      "or choose ids with fewer tokens"
    )
  nowhere = num_internal + num_items
  mask_TV = np.zeros((num_internal + 1, vocab_size), dtype=bool)
  next_TV = np.full((num_internal + 1, vocab_size), nowhere, dtype=np.int32)
  mask_TV[parent, token] = True
  next_TV[parent, token] = np.where(child >= 0, child, num_internal - 1 - child)
  rank_R = np.arange(num_items)
  trie = DenseTrie(
    mask_TV=mask_TV,
    next_TV=next_TV,
    low_S=np.concatenate([*low, rank_R, [0]]).astype(np.int32),
    high_S=np.concatenate([*high, rank_R + 1, [0]]).astype(np.int32),
    item_R=order_R.astype(np.int32),
  )
  rank_I = np.empty(num_items, dtype=np.int32)
  rank_I[order_R] = rank_R
  return trie, rank_I


def level_widths(code_IL: np.ndarray) -> tuple[int, ...]:
  """How many different beams there can be after each step, whole codes included."""
  return tuple(
    len(np.unique(code_IL[:, : level + 1], axis=0)) for level in range(code_IL.shape[1])
  )


def _refuse_ambiguous(code_RL: np.ndarray, order_R: np.ndarray) -> None:
  """Raises if sorted codes hold an empty one, a pair of equals or a prefix."""
  if (code_RL[:, 0] < 0).any():
    raise UserError(f"item {order_R[np.argmax(code_RL[:, 0] < 0)]} has an empty code")
  agree_RL = (code_RL[1:] == code_RL[:-1]) | (code_RL[:-1] < 0)
  clash = np.flatnonzero(agree_RL.all(axis=1))
  if len(clash):
    a, b = order_R[clash[0]], order_R[clash[0] + 1]
    raise UserError(
      f"the code of item {a} equals or begins the code of item {b}; "
      "make codes unique, or end them with a terminator"
    )
