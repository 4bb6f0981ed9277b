"""The trie of all item codes, on the device.

A trie of depth L has levels 0 to L; a state is a node's number within its level, the
root is state 0 of level 0. The nodes of a level are in code order (the order of the
sorted codes), so the children of a node are consecutive: the trie stores only each
node's first child, and the token of each child. A code that is shorter than L continues
as a chain of single children down to level L. Level L has one node per item, whose
number is the item's rank: the item's place in code order. So the items below any node
are a range of ranks.

If a node of a level has a large share of the vocabulary as children, the level also has
a transition mask, a bit for each node and token: faster than lists of children.
"""

from collections.abc import Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.runtime.errors import UserError

WORD = 32  # bits of a mask's word
# From this share of the vocabulary masks are faster: results/decode has the times.
DENSE_SHARE = 0.25


@flax.struct.dataclass
class Level:
  """The N nodes of a level, including padding, and the M children of all of them."""

  # int32 [N + 1], node n's children are nodes `first[n]` to `first[n + 1] - 1` of the
  # next level; padding has none.
  first_N1: jax.Array
  # int32 [N + 1], the items below node n have the ranks `low[n]` to `low[n + 1] - 1`.
  # None on the last level, where these are in `first_N1`.
  low_N1: jax.Array | None
  # The token of each node of the next level (V = the code has ended), in the narrowest
  # integer type, with `width` more entries, so that a slice stays within the array.
  token_M: jax.Array
  # uint32 [N, V / 32], bit v of row n is set if node n has a child with token v (bit 0
  # if the code has ended). None = the level has the list only.
  mask_NW: jax.Array | None
  # The most children of a node, rounded up; static.
  width: int = flax.struct.field(pytree_node=False)


@flax.struct.dataclass
class Trie:
  """The trie as arrays: its levels, and the catalogue index of each item in code order.

  Every size is rounded up by `capacity`, so that compiled programs accept a changed
  catalogue of about the same size.
  """

  levels: tuple[Level, ...]  # 0 to L - 1
  item_R: jax.Array  # int32, -1 where the capacity exceeds the catalogue
  vocab_size: int = flax.struct.field(pytree_node=False)  # V; static

  @property
  def depth(self) -> int:
    """L, the length of the longest code."""
    return len(self.levels)

  def nowhere(self, level: int) -> int:
    """Returns a level's padding node (level > 0), reached by tokens without a child."""
    if level == self.depth:
      return self.item_R.shape[0] - 1
    return self.levels[level].first_N1.shape[0] - 2

  def ended(self, state: jax.Array, level: int) -> jax.Array:
    """Returns which states of a level < L are codes that have ended, bool."""
    here = self.levels[level]
    first = here.first_N1[state]
    return (here.token_M[first] == self.vocab_size) & (here.first_N1[state + 1] > first)

  def listed(self, state_BK: jax.Array, level: int) -> tuple[jax.Array, jax.Array]:
    """Returns the children's token_BKC int32, and open_BKC bool, which of them exist.

    C is the level's `width`. An ended state has one child, in column 0: the same code.
    """
    here = self.levels[level]
    first_BK1 = here.first_N1[state_BK][..., None]
    number_BK1 = here.first_N1[state_BK + 1][..., None] - first_BK1
    token_BKC = _slices(here.token_M, first_BK1, here.width).astype(jnp.int32)
    return token_BKC, jnp.arange(here.width)[None, None] < number_BK1

  def child(self, state: jax.Array, column: jax.Array, level: int) -> jax.Array:
    """Returns a node's child number `column`, from 0, as a state of the next level."""
    return self.levels[level].first_N1[state] + column

  def child_by_token(
    self, state_BK: jax.Array, token_BK: jax.Array, level: int
  ) -> jax.Array:
    """Returns each state's child with its token in `token_BK`, found in the mask.

    The level must have a mask, and each state must have such a child.
    """
    here = self.levels[level]
    assert here.mask_NW is not None
    word_W = jnp.arange(here.mask_NW.shape[1])[None, None]
    word_BK1, bit_BK1 = token_BK[..., None] // WORD, token_BK[..., None] % WORD
    below_BK1 = (jnp.uint32(1) << bit_BK1.astype(jnp.uint32)) - 1
    before_BKW = jnp.where(word_W == word_BK1, below_BK1, jnp.uint32(0))
    before_BKW = jnp.where(word_W < word_BK1, jnp.uint32(2**WORD - 1), before_BKW)
    ones_BKW = jax.lax.population_count(here.mask_NW[state_BK] & before_BKW)
    return here.first_N1[state_BK] + ones_BKW.sum(axis=-1).astype(jnp.int32)

  def token(self, child: jax.Array, level: int) -> jax.Array:
    """Returns the token that leads from `level` to `child`; 0 if the code has ended."""
    token = self.levels[level].token_M[child].astype(jnp.int32)
    return jnp.where(token == self.vocab_size, 0, token)

  def follow(self, state_BK: jax.Array, token_BK: jax.Array, level: int) -> jax.Array:
    """Returns each state's child with its token; `nowhere(level + 1)` if there is none.

    An ended state has only one child, which is returned whatever the token.
    """
    if level == 0:  # the root alone: a table of its children by token, V = none
      token_M = self.levels[0].token_M.astype(jnp.int32)
      child_V1 = jnp.full(self.vocab_size + 1, self.nowhere(1), jnp.int32)
      child_V1 = child_V1.at[token_M].set(jnp.arange(len(token_M), dtype=jnp.int32))
      return child_V1.at[self.vocab_size].set(self.nowhere(1))[token_BK]
    token_BK = jnp.where(self.ended(state_BK, level), self.vocab_size, token_BK)
    token_BKC, open_BKC = self.listed(state_BK, level)
    is_it_BKC = open_BKC & (token_BKC == token_BK[..., None])
    next_BK = self.child(state_BK, jnp.argmax(is_it_BKC, axis=-1), level)
    return jnp.where(is_it_BKC.any(axis=-1), next_BK, self.nowhere(level + 1))

  def parent(self, state: jax.Array, level: int) -> jax.Array:
    """Returns the parent of a state of `level`: a state of `level - 1`."""
    first_N1 = self.levels[level - 1].first_N1
    return (
      jnp.searchsorted(first_N1, state, side="right", method="scan_unrolled") - 1
    ).astype(jnp.int32)

  def rank(self, state: jax.Array, level: int) -> jax.Array:
    """Returns the lowest rank of the items below each node `state` of `level` (0 to L).

    The highest is `rank(state + 1, level) - 1`. `state` may be one past the last node.
    """
    if level == self.depth:
      return state
    here = self.levels[level]
    return (here.first_N1 if here.low_N1 is None else here.low_N1)[state]


def build(
  code_IL: np.ndarray,
  vocab_size: int,
  byte_budget: int,
  dense_share: float = DENSE_SHARE,
) -> tuple[Trie, np.ndarray]:
  """Builds the trie of codes, and computes each item's rank in code order.

  Args:
    code_IL: int32 [I, L] tokens, padded with -1 at the end. No code may be a proper
      prefix of another (end such codes with a terminator).
    vocab_size: V, at least one more than the largest token.
    byte_budget: most bytes of all masks together; levels nearer to the root, which
      every search passes, have priority.
    dense_share: a level gets a mask, within the budget, if its largest number of
      children, rounded up by `capacity`, is at least this share of the vocabulary.

  Returns:
    The trie (numpy arrays) and rank_I int32.

  Raises:
    UserError: a code is empty, two codes are equal, or one is a prefix of another.
    ValueError: no items, a token outside the vocabulary, or a token after padding.
  """
  num_items, depth = code_IL.shape
  if not num_items or code_IL.max() >= vocab_size:
    raise ValueError(f"{num_items} codes with tokens up to {code_IL.max(initial=-1)}")
  if ((code_IL[:, :-1] < 0) & (code_IL[:, 1:] >= 0)).any():
    raise ValueError("a code goes on behind its padding")
  order_R = _code_order(code_IL, vocab_size)
  code_RL = code_IL[order_R]
  _refuse_ambiguous(code_RL, order_R)
  code_RL[code_RL < 0] = vocab_size

  levels = []
  start_N = np.zeros(1, dtype=np.int64)  # the first rank below each node of a level
  differs_R = np.zeros(num_items, dtype=bool)
  differs_R[0] = True
  for level in range(depth):
    # A node starts where the prefix differs from that of the previous rank.
    differs_R[1:] |= code_RL[1:, level] != code_RL[:-1, level]
    start_M = np.flatnonzero(differs_R)
    first_N1 = np.append(np.searchsorted(start_M, start_N), len(start_M))
    low_N1 = np.append(start_N, num_items) if level < depth - 1 else None
    token_M = code_RL[start_M, level]
    arrays = first_N1, low_N1, token_M
    here = _level(level, *arrays, vocab_size, byte_budget, dense_share)
    byte_budget -= 0 if here.mask_NW is None else here.mask_NW.nbytes
    levels.append(here)
    start_N = start_M
  item_R = _padded(order_R, capacity(num_items + 1), -1, np.int32)
  rank_I = np.argsort(order_R).astype(np.int32)
  return Trie(tuple(levels), item_R, vocab_size), rank_I


def stack(tries: Sequence[Trie]) -> Trie:
  """Returns tries with as many levels and tokens as one, of arrays with an axis more.

  `jax.tree.map(lambda x: x[n], …)` gives trie n, padded to the size of the largest, and
  without masks.
  """
  levels = []
  for same in zip(*(trie.levels for trie in tries), strict=True):
    width = max(level.width for level in same)
    first_N1, low_N1 = (
      _stacked([getattr(level, name) for level in same])
      for name in ("first_N1", "low_N1")
    )
    ends = [level.token_M[: len(level.token_M) - level.width] for level in same]
    token_M = _stacked([np.append(x, np.full(width, x[-1], x.dtype)) for x in ends])
    levels.append(Level(first_N1, low_N1, token_M, None, width))
  item_R = _stacked([trie.item_R for trie in tries])
  return Trie(tuple(levels), item_R, tries[0].vocab_size)


def _stacked(arrays: Sequence[Any]) -> Any:
  """Returns arrays one above the other, each with its last value as padding."""
  if arrays[0] is None:
    return None
  longest = max(len(x) for x in arrays)
  return np.stack([np.pad(x, (0, longest - len(x)), mode="edge") for x in arrays])


def capacity(size: int) -> int:
  """Rounds `size` up to a multiple of 8 and, from 128 on, to four significant bits.

  If `size` is 64 or more, the result is less than 1/8 larger. Programs need no new
  compilation while a catalogue grows up to the result.
  """
  step = max(8, 1 << max(size.bit_length() - 4, 0))
  return -(-size // step) * step


def describe(trie: Trie) -> str:
  """Returns one line: number of items, form and width of each level, size in bytes."""
  form = ", ".join(
    f"{'mask' if level.mask_NW is not None else 'list'} of {level.width:,}"
    for level in trie.levels
  )
  items = int((np.asarray(trie.item_R) >= 0).sum())
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(trie))
  return f"trie: {items:,} items, {form}; {size:,} bytes"


def _level(
  level: int,
  first_N1: np.ndarray,
  low_N1: np.ndarray | None,
  token_M: np.ndarray,
  vocab_size: int,
  byte_budget: int,
  dense_share: float,
) -> Level:
  """Builds a level; all levels but the first have a padding node, `Trie.nowhere`.

  A level gets a mask if the children of one node reach `dense_share` of the vocabulary
  and the mask fits into `byte_budget`.
  """
  count_N = np.diff(first_N1)
  width = min(capacity(int(count_N.max())), vocab_size)
  rows = capacity(len(count_N) + 1) if level else 1
  words = -(-vocab_size // WORD)
  mask_NW: Any = None
  if width >= dense_share * vocab_size and rows * words * 4 <= byte_budget:
    row_M = np.repeat(np.arange(len(count_N)), count_N)
    bit_M = np.where(token_M == vocab_size, 0, token_M).astype(np.int64)
    # A node's tokens are distinct, so the sum of their bits is their union.
    value_M, word_M = np.exp2(bit_M % WORD), row_M * words + bit_M // WORD
    mask = np.bincount(word_M, value_M, minlength=rows * words)
    mask_NW = mask.astype(np.uint32).reshape(rows, words)

  size, narrow = capacity(len(token_M) + 1) + width, np.min_scalar_type(vocab_size)
  return Level(
    _padded(first_N1, rows + 1, first_N1[-1], np.int32),
    None if low_N1 is None else _padded(low_N1, rows + 1, low_N1[-1], np.int32),
    _padded(token_M, size, vocab_size, narrow),
    mask_NW,
    width,
  )


def _padded(value_X: np.ndarray, size: int, fill: int, dtype: Any) -> Any:
  missing = (0, size - len(value_X))
  return np.pad(value_X, missing, constant_values=fill).astype(dtype)


def bits(word: jax.Array) -> jax.Array:
  """Unpacks uint32 words […] to bool […, 32], the lowest bit first."""
  bit_X = jax.lax.broadcasted_iota(jnp.uint32, (*word.shape, WORD), word.ndim)
  return (word[..., None] >> bit_X) & 1 > 0


def _slices(value_M: jax.Array, first_BK1: jax.Array, width: int) -> jax.Array:
  """Returns the slices `value_M[first : first + width]`, [B, K, width]."""
  return jax.lax.gather(
    value_M,
    first_BK1,
    jax.lax.GatherDimensionNumbers(
      offset_dims=(2,), collapsed_slice_dims=(), start_index_map=(0,)
    ),
    slice_sizes=(width,),
    mode="promise_in_bounds",
  )


def _code_order(code_IL: np.ndarray, vocab_size: int) -> np.ndarray:
  """Returns items' indices sorted by code; packs several tokens into an integer key."""
  width = int(vocab_size).bit_length()
  per_key = 63 // width
  keys = []
  for start in range(0, code_IL.shape[1], per_key):
    key_I = np.zeros(len(code_IL), dtype=np.int64)
    for token_I in code_IL[:, start : start + per_key].T:
      key_I = (key_I << width) | (token_I + 1)
    keys.append(key_I)
  return np.lexsort(keys[::-1])


def _refuse_ambiguous(code_RL: np.ndarray, order_R: np.ndarray) -> None:
  """Raises a UserError if a code is empty, equals the next one or is its prefix."""
  if (code_RL[:, 0] < 0).any():
    raise UserError(f"item {order_R[np.argmax(code_RL[:, 0] < 0)]} has an empty code")
  agree_R = np.ones(len(code_RL) - 1, dtype=bool)
  for token_R in code_RL.T:
    agree_R &= (token_R[1:] == token_R[:-1]) | (token_R[:-1] < 0)
  clash = np.flatnonzero(agree_R)
  if len(clash):
    a, b = order_R[clash[0]], order_R[clash[0] + 1]
    raise UserError(
      f"the code of item {a} equals or begins the code of item {b}; "
      "make codes unique, or end them with a terminator"
    )
