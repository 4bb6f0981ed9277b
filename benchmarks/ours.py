"""Isolates one level of the package's own beam search, for several forms of the trie.

`beam.search` compiles all levels and the model into one program. Here each level is a
program of its own and can be timed alone; a test compares both.
"""

from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.benchmarks import catalogue
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import candidates, filters
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.runtime.errors import UserError

TRIE_BYTES = 256 * 2**20  # maximum bytes of the masks, as in configs/
DENSE_BYTES = 2 * 2**30  # maximum bytes of the masks if every level has one


class State(NamedTuple):
  """The beams after a level, and the request's filters."""

  node_BK: jax.Array
  score_BK: jax.Array
  excluded_BE: jax.Array
  paths: tuple[filters.Path, ...] | None  # by level; None before level 0


@flax.struct.dataclass
class Ours:
  """An adapter of `lightlm_jax.decoding` to the interface in transition.py.

  Attributes:
    trie: the trie of the catalogue.
    prefix_MI1: a shared mask or none, as in `Allowed`.
    exclude: True if each row excludes items of its own; static.
  """

  trie: trie_lib.Trie
  prefix_MI1: jax.Array
  exclude: bool = flax.struct.field(pytree_node=False)

  def start(self, B: int) -> State:
    """Returns the state at the root for B rows."""
    excluded_BE = np.zeros((B, 0), np.int32)
    if self.exclude:
      number = int((np.asarray(self.trie.item_R) >= 0).sum())
      excluded_BE = catalogue.random_exclusions(number, B)
    zero_B1 = jnp.zeros((B, 1), jnp.int32)
    score_B1 = zero_B1.astype(jnp.float32)
    return State(zero_B1, score_B1, jnp.asarray(excluded_BE), None)

  def open_items(self, B: int) -> np.ndarray:
    """Returns the allowed items of each row, [B, I] bool, in catalogue order."""
    item_R = np.asarray(self.trie.item_R)
    item_R = item_R[item_R >= 0]
    rank_R = np.broadcast_to(np.arange(len(item_R)), (B, len(item_R)))
    open_BI = np.empty(rank_R.shape, bool)
    allowed = self._allowed(self.start(B))
    open_BI[:, item_R] = filters.is_allowed(allowed, jnp.asarray(rank_R))
    return open_BI

  def step(self, level: int, state: State, log_prob_BKV, width: int):
    """Returns the best `width` continuations, as transition.py describes."""
    allowed, paths = self._allowed(state), state.paths
    if self.exclude and level == 0:
      paths = filters.paths(self.trie, allowed)
    path = paths[level] if paths else None
    node_BK = state.node_BK
    children = candidates.children(self.trie, level, node_BK, allowed, path)
    scale = candidates.Scale(
      log_prob_BK=state.score_BK,
      total_BK=jnp.zeros_like(state.score_BK),
      norm_BK=jnp.ones_like(state.score_BK),
      finished_BK=self.trie.ended(node_BK, level),
    )
    best = children.best(log_prob_BKV, scale, width)
    node_BK = jnp.take_along_axis(node_BK, best.parent_BK, axis=1)
    node_BK = children.child(self.trie, level, node_BK, best)
    nowhere = self.trie.nowhere(level + 1)
    node_BK = jnp.where(best.key_BK > -jnp.inf, node_BK, nowhere)
    state = State(node_BK, best.key_BK, state.excluded_BE, paths)
    return best.key_BK, best.parent_BK, best.token_BK, state

  def _allowed(self, state: State) -> Allowed:
    mask_B = jnp.zeros(len(state.excluded_BE), jnp.int32)
    return Allowed(self.prefix_MI1, mask_B, state.excluded_BE)


def sparse(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Builds a trie with child lists at every level."""
  return _make(code_IL, vocab_size, byte_budget=0)


def hybrid(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Builds the default trie, with masks on dense levels and child lists elsewhere."""
  return _make(code_IL, vocab_size, byte_budget=TRIE_BYTES)


def hybrid_excluding(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Builds the default trie; each request excludes EXCLUSIONS items of its own."""
  return _make(code_IL, vocab_size, byte_budget=TRIE_BYTES, exclude=True)


def shared_mask(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Builds a trie of child lists, with a shared mask that allows half the catalogue."""
  open_MR = np.random.default_rng(0).random((1, len(code_IL))) < 0.5
  prefix_MI1 = allowed_lib.shared_masks(open_MR, np.arange(len(code_IL)))
  return _make(code_IL, vocab_size, byte_budget=0, prefix_MI1=prefix_MI1)


def dense(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Builds a trie with a mask at every level.

  Raises:
    UserError: the masks take more than DENSE_BYTES.
  """
  lists, _ = trie_lib.build(code_IL, vocab_size, 0)
  rows = sum(len(level.first_N1) - 1 for level in lists.levels)
  needed = rows * -(-vocab_size // 32) * 4
  if needed > DENSE_BYTES:
    raise UserError(f"its masks take {needed:,} bytes of at most {DENSE_BYTES:,}")
  return _make(code_IL, vocab_size, byte_budget=DENSE_BYTES, dense_share=0)


def _make(
  code_IL,
  vocab_size,
  *,
  byte_budget,
  dense_share=trie_lib.DENSE_SHARE,
  exclude=False,
  prefix_MI1=None,
) -> Ours:
  trie, _ = trie_lib.build(code_IL, vocab_size, byte_budget, dense_share)
  if prefix_MI1 is None:
    prefix_MI1 = allowed_lib.no_shared_mask()
  trie, prefix_MI1 = jax.device_put((trie, prefix_MI1))
  return Ours(trie, prefix_MI1, exclude)
