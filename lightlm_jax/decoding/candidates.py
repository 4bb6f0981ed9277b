"""Open (allowed) next tokens of all beams at a level of the trie, and the best ones.

A level has a list of each node's children, and it may have a mask of the vocabulary for
each node (see `Trie`). `Listed` reads the lists, `Masked` the masks. Both compare all
continuations of all beams, so they find the same beams, up to rounding.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.decoding import filters
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.decoding.top_k import top_k
from lightlm_jax.decoding.trie import WORD, Trie, bits

# Beams' logits [B, K, V], float32, or a function that returns them, and, given tokens
# [B, K, C] or [C], those of these alone; tokens beyond the vocabulary are the last one.
Logits = jax.Array | Callable[..., jax.Array]
# All logits are one product with the whole table; those of children read rows of it for
# each beam: as fast on a CPU, at a width of 128, if they are a 64th to a 100th of V.
FEW = 1 / 128


class Scale(NamedTuple):
  """Each beam's numbers that turn logits into the scores that rank continuations."""

  log_prob_BK: jax.Array  # float32, the beam's log-probability
  total_BK: jax.Array  # float32, the logarithm of the softmax's denominator
  norm_BK: jax.Array  # float32, the divisor of its log-probability, see `length_norm`
  finished_BK: jax.Array  # bool: its only continuation is itself, with the same score

  def key(self, logits_BKC: jax.Array) -> jax.Array:
    """Returns the scores, [B, K, C] float32; a beam's scores sort as its logits do."""
    log_prob_BK1, total_BK1, norm_BK1, finished_BK1 = (x[..., None] for x in self)
    gain_BKC = jnp.where(finished_BK1, 0.0, logits_BKC - total_BK1)
    return (log_prob_BK1 + gain_BKC) / norm_BK1


class Best(NamedTuple):
  """The best continuations of each row, best first; the key of empty slots is -inf."""

  key_BK: jax.Array  # float32
  parent_BK: jax.Array  # int32, the beam that each continues
  token_BK: jax.Array  # int32
  column_BK: jax.Array  # int32, place among the parent's children; if `Masked`, token


class Listed(NamedTuple):
  """C children of each beam as a list: their tokens, and which of them are open."""

  token_BKC: jax.Array
  open_BKC: jax.Array
  few: bool = False  # whether to read only the children's rows of the table
  root_C: jax.Array | None = None  # the tokens, if all beams are at the root

  def logits(self, logits: Logits) -> jax.Array:
    """Returns the children's logits, [B, K, C] float32, -inf where not open."""
    if not isinstance(logits, jax.Array):
      logits_BKC = logits(self.token_BKC if self.root_C is None else self.root_C)
    else:
      token_BKC = jnp.minimum(self.token_BKC, logits.shape[-1] - 1)
      logits_BKC = jnp.take_along_axis(logits, token_BKC, axis=2)
    return jnp.where(self.open_BKC, logits_BKC, -jnp.inf)

  def best(self, logits: Logits, scale: Scale, k: int) -> Best:
    """Returns the k best open children of each row."""
    B, K, C = self.token_BKC.shape
    key_BKC = jnp.where(self.open_BKC, scale.key(self.logits(logits)), -jnp.inf)
    key_BK, place_BK = top_k(key_BKC.reshape(B, K * C), min(k, K * C))
    token_BX = self.token_BKC.reshape(B, K * C)
    token_BK = jnp.take_along_axis(token_BX, place_BK, axis=1)
    return Best(key_BK, place_BK // C, token_BK, place_BK % C)

  def child(self, trie: Trie, level: int, state_BK: jax.Array, best: Best) -> jax.Array:
    """Returns the states that the continuations in `best` reach from `state_BK`."""
    return trie.child(state_BK, best.column_BK, level)


class Masked(NamedTuple):
  """Open children of each beam as a mask: bit v % 32 of word v // 32 opens token v."""

  word_BKW: jax.Array  # uint32
  few = False

  def logits(self, logits_BKV: jax.Array) -> jax.Array:
    """Returns all tokens' logits, [B, K, V] float32, -inf where not open."""
    return jnp.where(self._open(logits_BKV.shape[-1]), logits_BKV, -jnp.inf)

  def best(self, logits_BKV: jax.Array, scale: Scale, k: int) -> Best:
    """Returns the k best open tokens of each row, over all its beams."""
    B, K, V = logits_BKV.shape
    W, X = self.word_BKW.shape[2], min(WORD, V)
    if K * W <= k:  # no more than k words exist
      key_BKV = jnp.where(self._open(V), scale.key(logits_BKV), -jnp.inf)
      key_BK, place_BK = top_k(key_BKV.reshape(B, K * V), min(k, K * V))
      return Best(key_BK, place_BK // V, place_BK % V, place_BK % V)

    # They are within the k words whose best open tokens have the highest keys.
    rest = ((0, 0), (0, 0), (0, W * WORD - V))
    ordered_BKWX = _as_integers(jnp.pad(logits_BKV, rest).reshape(B, K, W, WORD))
    lowest = jnp.iinfo(jnp.int32).min
    most_BKW = jnp.where(bits(self.word_BKW), ordered_BKWX, lowest).max(axis=3)
    key_BKW = scale.key(_as_floats(most_BKW))
    key_BKW = jnp.where(self.word_BKW > 0, key_BKW, -jnp.inf)
    _, place_BN = top_k(key_BKW.reshape(B, K * W), k)
    place_BN = jnp.sort(place_BN, axis=1)  # ties go to the first token

    parent_BN, first_BN = place_BN // W, place_BN % W * WORD
    word_BN = jnp.take_along_axis(self.word_BKW.reshape(B, K * W), place_BN, axis=1)
    # The last word may reach beyond the vocabulary: its slice starts earlier.
    start_BN = jnp.minimum(first_BN, V - X)
    open_BNX = bits(word_BN << (first_BN - start_BN).astype(jnp.uint32))[..., :X]
    logits_BNX = _slices(logits_BKV, parent_BN, start_BN, X)
    of_parent = Scale(*(jnp.take_along_axis(x, parent_BN, axis=1) for x in scale))
    key_BNX = jnp.where(open_BNX, of_parent.key(logits_BNX), -jnp.inf)
    key_BK, place_BK = top_k(key_BNX.reshape(B, k * X), k)
    token_BK = jnp.take_along_axis(start_BN, place_BK // X, axis=1) + place_BK % X
    parent_BK = jnp.take_along_axis(parent_BN, place_BK // X, axis=1)
    return Best(key_BK, parent_BK, token_BK, token_BK)

  def child(self, trie: Trie, level: int, state_BK: jax.Array, best: Best) -> jax.Array:
    """Returns the states that the continuations in `best` reach from `state_BK`."""
    return trie.child_by_token(state_BK, best.token_BK, level)

  def _open(self, V: int) -> jax.Array:
    """Returns which tokens are open, [B, K, V] bool."""
    return bits(self.word_BKW).reshape(*self.word_BKW.shape[:2], -1)[..., :V]


def children(
  trie: Trie,
  level: int,
  state_BK: jax.Array,
  allowed: Allowed | None,
  path: filters.Path | None,
) -> Listed | Masked:
  """Returns each state's open children, as a mask or as a list.

  It is a mask if the level has masks and `allowed` has no shared masks. A child is
  closed if the request's shared mask allows none of its items, or if `path`, from
  `filters.paths` for this level, closes it. An argument of None closes nothing.
  """
  mask_NW = trie.levels[level].mask_NW
  if allowed is not None and allowed.prefix_MI1.shape[0]:
    # Shared masks are by rank, the order in which children are listed.
    token_BKC, open_BKC = trie.listed(state_BK, level)
    open_BKC &= filters.open_in_mask(trie, allowed, state_BK, level)
  elif mask_NW is not None:
    word_BKW = mask_NW[state_BK]
    if path is not None:
      word_BKW = filters.without_bits(word_BKW, trie, path, state_BK, level)
    return Masked(word_BKW)
  else:
    token_BKC, open_BKC = trie.listed(state_BK, level)
  if path is not None:
    open_BKC = filters.without(open_BKC, trie, path, state_BK, level)
  if level == 0:
    root_11C, _ = trie.listed(jnp.zeros((1, 1), jnp.int32), level)
    return Listed(token_BKC, open_BKC, True, root_11C[0, 0])
  return Listed(token_BKC, open_BKC, token_BKC.shape[2] <= FEW * trie.vocab_size)


def every_token(finished_BK: jax.Array, V: int) -> Masked:
  """Returns a mask that opens all V tokens, but only token 0 for finished beams."""
  number_W = np.clip(V - WORD * np.arange(-(-V // WORD)), 0, WORD)
  all_W = np.array([(1 << int(n)) - 1 for n in number_W], np.uint32)
  itself_1W = np.eye(1, len(all_W), dtype=np.uint32)
  return Masked(jnp.where(finished_BK[..., None], itself_1W[None], all_W[None, None]))


# XLA's CPU backend stores masked floats before it reduces them by their maximum; with
# integers it does both in one pass over the logits.
def _as_integers(value: jax.Array) -> jax.Array:
  """Maps float32 values to int32 values with the same order."""
  pattern = jax.lax.bitcast_convert_type(value, jnp.int32)
  return jnp.where(pattern < 0, pattern ^ 0x7FFFFFFF, pattern)


def _as_floats(value: jax.Array) -> jax.Array:
  """Inverts `_as_integers`."""
  pattern = jnp.where(value < 0, value ^ 0x7FFFFFFF, value)
  return jax.lax.bitcast_convert_type(pattern, jnp.float32)


def _slices(value_BKV: jax.Array, k_BN: jax.Array, v_BN: jax.Array, X: int):
  """Returns the slices `value[b, k, v : v + X]` for each row b's k and v: [B, N, X]."""
  at_BN2 = jnp.stack([k_BN, v_BN], axis=-1)
  return jax.lax.gather(
    value_BKV,
    at_BN2,
    jax.lax.GatherDimensionNumbers(
      offset_dims=(2,),
      collapsed_slice_dims=(1,),
      start_index_map=(1, 2),
      operand_batching_dims=(0,),
      start_indices_batching_dims=(0,),
    ),
    slice_sizes=(1, 1, X),
    mode="promise_in_bounds",
  )
