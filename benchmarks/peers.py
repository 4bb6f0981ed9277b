"""Alternative ways to constrain beam search to a catalogue, as baselines."""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.top_k import top_k
from lightlm_jax.runtime.errors import UserError

MOST_IN_DICTS = 1_000_000  # maximum items; dicts take hundreds of bytes per node


class DictTrie:
  """A dict of dicts on the host, as is common with `generate` of transformers."""

  jit = False

  def __init__(self, roots: list[dict]):
    """Creates a trie from the root of each row, or from one root for all rows."""
    self._roots = roots

  def start(self, B: int):
    """Returns the state: nodes, a list of dicts per row, and scores, [B, 1] float32."""
    roots = self._roots * B if len(self._roots) == 1 else self._roots
    return [[root] for root in roots], np.zeros((B, 1), np.float32)

  def step(self, level: int, state, log_prob_BKV, width: int):
    """Returns the best `width` continuations, as transition.py describes."""
    del level
    score_BKV = self._candidates(state, log_prob_BKV)
    B, K, V = score_BKV.shape
    flat_BX = score_BKV.reshape(B, K * V)
    best = min(width, K * V)
    flat_BK = np.argpartition(-flat_BX, best - 1, axis=1)[:, :best]
    order_BK = np.argsort(-np.take_along_axis(flat_BX, flat_BK, axis=1), axis=1)
    flat_BK = np.take_along_axis(flat_BK, order_BK, axis=1)
    score_BK = np.take_along_axis(flat_BX, flat_BK, axis=1)
    parent_BK, token_BK = flat_BK // V, flat_BK % V
    nodes = [
      [of_row[parent].get(token, {}) for parent, token in zip(parents, tokens)]
      for of_row, parents, tokens in zip(
        state[0], parent_BK.tolist(), token_BK.tolist()
      )
    ]
    return score_BK, parent_BK, token_BK, (nodes, score_BK)

  def _candidates(self, state, log_prob_BKV) -> np.ndarray:
    """Returns the scores of all continuations, [B, K, V], -inf if invalid."""
    nodes, score_BK = state
    log_prob_BKV = np.asarray(log_prob_BKV)
    score_BKV = np.full(log_prob_BKV.shape, -np.inf, np.float32)
    for row, of_row in enumerate(nodes):
      for slot, children in enumerate(of_row):
        tokens = list(children)
        log_prob = log_prob_BKV[row, slot, tokens]
        score_BKV[row, slot, tokens] = score_BK[row, slot] + log_prob
    return score_BKV


def dict_trie(code_IL: np.ndarray, vocab_size: int) -> DictTrie:
  """Builds a trie of Python dicts; a UserError above MOST_IN_DICTS items."""
  del vocab_size
  if len(code_IL) > MOST_IN_DICTS:
    raise UserError(f"Python dicts are for {MOST_IN_DICTS:,} items at most")
  return DictTrie([root(code_IL)])


def root(code_IL: np.ndarray) -> dict:
  """Builds a dict trie of codes without padding; returns its root."""
  top = {}
  for code in code_IL.tolist():
    node = top
    for token in code:
      node = node.setdefault(token, {})
  return top


class _Range(NamedTuple):
  low_BK: jax.Array  # codes of rank low to high - 1 begin with the beam's tokens
  high_BK: jax.Array
  score_BK: jax.Array


@flax.struct.dataclass
class SortedCodes:
  """Sorted codes, in which a binary search finds every token of the vocabulary.

  Attributes:
    token_R: for each level, the tokens on it of the R sorted codes.
  """

  token_R: tuple[jax.Array, ...]

  def start(self, B: int) -> _Range:
    """Returns the state for B rows: the range of all codes, with score 0."""
    zero_B1 = jnp.zeros((B, 1), jnp.int32)
    return _Range(zero_B1, zero_B1 + len(self.token_R[0]), zero_B1.astype(jnp.float32))

  def step(self, level: int, state: _Range, log_prob_BKV, width: int):
    """Returns the best `width` continuations, as transition.py describes."""
    score_BKV, bound_BKV1 = self._candidates(level, state, log_prob_BKV)
    score_BK, parent_BK, token_BK = _best(score_BKV, width)
    low_BK = _pick(bound_BKV1, parent_BK, token_BK)
    high_BK = _pick(bound_BKV1, parent_BK, token_BK + 1)
    return score_BK, parent_BK, token_BK, _Range(low_BK, high_BK, score_BK)

  def _candidates(self, level: int, state: _Range, log_prob_BKV):
    """Returns [B, K, V] scores, and [B, K, V + 1] first ranks with a token >= 0 … V."""
    token_R = self.token_R[level]
    wanted_V1 = jnp.arange(log_prob_BKV.shape[2] + 1, dtype=jnp.int32)[None, None]

    def halve(_, bounds):
      low, high = bounds
      middle = (low + high) // 2
      below = (low < high) & (token_R[middle] < wanted_V1)
      return jnp.where(below, middle + 1, low), jnp.where(below, high, middle)

    B, K, V = log_prob_BKV.shape
    bounds = (
      jnp.broadcast_to(bound_BK[..., None], (B, K, V + 1))
      for bound_BK in (state.low_BK, state.high_BK)
    )
    halvings = len(token_R).bit_length()
    bound_BKV1, _ = jax.lax.fori_loop(0, halvings, halve, tuple(bounds))
    open_BKV = bound_BKV1[..., 1:] > bound_BKV1[..., :-1]
    score_BKV = state.score_BK[..., None] + log_prob_BKV
    return jnp.where(open_BKV, score_BKV, -jnp.inf), bound_BKV1


def binary_search(code_IL: np.ndarray, vocab_size: int) -> SortedCodes:
  """Sorts the codes for binary search."""
  del vocab_size
  code_RL = code_IL[np.lexsort(code_IL.T[::-1])]
  return SortedCodes(tuple(jnp.asarray(token_R) for token_R in code_RL.T))


class _Nodes(NamedTuple):
  node_BK: jax.Array
  score_BK: jax.Array


@flax.struct.dataclass
class Scattered:
  """Child lists, padded to a level's longest and scattered over the vocabulary."""

  trie: trie_lib.Trie

  def start(self, B: int) -> _Nodes:
    """Returns the state at the root for B rows."""
    zero_B1 = jnp.zeros((B, 1), jnp.int32)
    return _Nodes(zero_B1, zero_B1.astype(jnp.float32))

  def step(self, level: int, state: _Nodes, log_prob_BKV, width: int):
    """Returns the best `width` continuations, as transition.py describes."""
    score_BKV, next_BKV = self._candidates(level, state, log_prob_BKV)
    score_BK, parent_BK, token_BK = _best(score_BKV, width)
    node_BK = _pick(next_BKV, parent_BK, token_BK)
    return score_BK, parent_BK, token_BK, _Nodes(node_BK, score_BK)

  def _candidates(self, level: int, state: _Nodes, log_prob_BKV):
    B, K, V = log_prob_BKV.shape
    token_BKC, open_BKC = self.trie.listed(state.node_BK, level)
    column_C = jnp.arange(token_BKC.shape[2])
    child_BKC = self.trie.child(state.node_BK[..., None], column_C[None, None], level)
    token_BKC = jnp.where(open_BKC, token_BKC, V)  # V is out of range: dropped
    row_BKC = jnp.arange(B)[:, None, None]
    slot_BKC = jnp.arange(K)[None, :, None]
    nowhere_BKV = jnp.full((B, K, V), self.trie.nowhere(level + 1), jnp.int32)
    next_BKV = nowhere_BKV.at[row_BKC, slot_BKC, token_BKC].set(child_BKC, mode="drop")
    score_BKV = state.score_BK[..., None] + log_prob_BKV
    return jnp.where(next_BKV != nowhere_BKV, score_BKV, -jnp.inf), next_BKV


def naive(code_IL: np.ndarray, vocab_size: int) -> Scattered:
  """Builds a trie of child lists that are padded and scattered."""
  trie, _ = trie_lib.build(code_IL, vocab_size, 0)
  return Scattered(jax.device_put(trie))


def _best(score_BKV: jax.Array, width: int):
  """Returns scores, beams and tokens of the best `width` continuations, [B, K] each."""
  B, K, V = score_BKV.shape
  score_BK, flat_BK = top_k(score_BKV.reshape(B, K * V), min(width, K * V))
  return score_BK, flat_BK // V, flat_BK % V


def _pick(value_BKV: jax.Array, parent_BK: jax.Array, token_BK: jax.Array):
  """Returns `value_BKV[b, parent, token]` for every beam, [B, K]."""
  return value_BKV[jnp.arange(len(value_BKV))[:, None], parent_BK, token_BK]
