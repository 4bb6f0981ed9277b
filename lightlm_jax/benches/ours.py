"""One level of the package's own search, in each of its forms.

`beam.search` holds the levels together with the model in one program; here each is a
program of its own, so that it can be timed alone. A test holds the two together.
"""

from typing import NamedTuple
from unittest import mock

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.benches import catalogue
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import filters
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.decoding.top_k import top_k
from lightlm_jax.errors import UserError

TRIE_BYTES = 256 * 2**20  # for masks, as in configs/
DENSE_BYTES = 2 * 2**30  # for masks at every level


class State(NamedTuple):
  """The beams after a level, and what the request brought."""

  node_BK: jax.Array
  score_BK: jax.Array
  excluded_BE: jax.Array
  paths: tuple[filters.Path, ...] | None  # from level 0 on


@flax.struct.dataclass
class Ours:
  """`lightlm_jax.decoding`, as `transition` wants it.

  Attributes:
    trie: of the catalogue.
    prefix_MI1: as in `Allowed`: one shared mask or none.
    exclude: whether each row excludes items of its own; static.
  """

  trie: trie_lib.Trie
  prefix_MI1: jax.Array
  exclude: bool = flax.struct.field(pytree_node=False)

  @property
  def masked(self) -> bool:
    return self.prefix_MI1.shape[0] > 0

  def start(self, B: int) -> State:
    """The root of each of B rows."""
    excluded_BE = np.zeros((B, 0), np.int32)
    if self.exclude:
      number = int((np.asarray(self.trie.item_R) >= 0).sum())
      excluded_BE = catalogue.random_exclusions(number, B)
    zero_B1 = jnp.zeros((B, 1), jnp.int32)
    score_B1 = zero_B1.astype(jnp.float32)
    return State(zero_B1, score_B1, jnp.asarray(excluded_BE), None)

  def open_items(self, B: int) -> np.ndarray:
    """[B, I] bool: what each row may get, in the order of the catalogue."""
    item_R = np.asarray(self.trie.item_R)
    item_R = item_R[item_R >= 0]
    rank_R = np.broadcast_to(np.arange(len(item_R)), (B, len(item_R)))
    open_BI = np.empty(rank_R.shape, bool)
    allowed = self._allowed(self.start(B))
    open_BI[:, item_R] = filters.is_open(allowed, jnp.asarray(rank_R))
    return open_BI

  def mask(self, level: int, state: State, log_prob_BKV) -> jax.Array:
    """Scores [B, K, C] of all candidates, -inf where closed."""
    return self._candidates(level, state, log_prob_BKV)[1]

  def step(self, level: int, state: State, log_prob_BKV, width: int):
    """The best `width` of all candidates: see `transition`."""
    token_BKC, score_BKC, paths = self._candidates(level, state, log_prob_BKV)
    B, K, C = score_BKC.shape
    flat_BX = score_BKC.reshape(B, K * C)
    score_BK, flat_BK = top_k(flat_BX, min(width, K * C))
    parent_BK, column_BK = flat_BK // C, flat_BK % C
    token_BK = jnp.take_along_axis(token_BKC.reshape(B, K * C), flat_BK, axis=1)
    node_BK = jnp.take_along_axis(state.node_BK, parent_BK, axis=1)
    node_BK = self.trie.child(node_BK, column_BK, level, not self.masked)
    nowhere = self.trie.nowhere(level + 1)
    node_BK = jnp.where(score_BK > -jnp.inf, node_BK, nowhere)
    state = State(node_BK, score_BK, state.excluded_BE, paths)
    return score_BK, parent_BK, token_BK, state

  def _allowed(self, state: State) -> Allowed:
    mask_B = jnp.zeros(len(state.excluded_BE), jnp.int32)
    return Allowed(self.prefix_MI1, mask_B, state.excluded_BE)

  def _candidates(self, level: int, state: State, log_prob_BKV):
    # The order of the calls is that of beam.search.
    dense = not self.masked
    paths = state.paths
    if self.exclude and paths is None:
      paths = filters.paths(self.trie, self._allowed(state))
    node_BK = state.node_BK
    token_BKC, _, open_BKC = self.trie.children(node_BK, level, dense)
    if self.masked:
      allowed = self._allowed(state)
      open_BKC &= filters.open_in_mask(self.trie, allowed, node_BK, level)
    if paths is not None:
      open_BKC = filters.without(
        open_BKC, self.trie, paths[level], node_BK, level, dense
      )
    log_prob_BKC = log_prob_BKV
    if not self.trie.by_mask(level, dense):
      here_BKC = jnp.minimum(token_BKC, self.trie.vocab_size - 1)
      log_prob_BKC = jnp.take_along_axis(log_prob_BKV, here_BKC, axis=2)
    score_BKC = state.score_BK[..., None] + log_prob_BKC
    return token_BKC, jnp.where(open_BKC, score_BKC, -jnp.inf), paths


def sparse(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Children are listed at every level."""
  return _make(code_IL, vocab_size, byte_budget=0)


def hybrid(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Masks where nodes are full, lists elsewhere: what a search uses."""
  return _make(code_IL, vocab_size, byte_budget=TRIE_BYTES)


def hybrid_excluding(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Each request excludes EXCLUSIONS items of its own."""
  return _make(code_IL, vocab_size, byte_budget=TRIE_BYTES, exclude=True)


def shared_mask(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """Half of the catalogue is open, the same half for all requests."""
  open_R = np.random.default_rng(0).random(len(code_IL)) < 0.5
  prefix_I1 = np.append(0, np.cumsum(open_R)).astype(np.int32)
  return _make(code_IL, vocab_size, byte_budget=0, prefix_MI1=prefix_I1[None])


def dense(code_IL: np.ndarray, vocab_size: int) -> Ours:
  """A mask at every level.

  Raises:
    UserError: they take more than DENSE_BYTES.
  """
  lists, _ = trie_lib.build(code_IL, vocab_size, 0)
  rows = sum(len(level.first_N1) - 1 for level in lists.levels)
  needed = rows * -(-vocab_size // 32) * 4
  if needed > DENSE_BYTES:
    raise UserError(f"its masks take {needed:,} bytes of at most {DENSE_BYTES:,}")
  with mock.patch.object(trie_lib, "DENSE_SHARE", 0):
    return _make(code_IL, vocab_size, byte_budget=DENSE_BYTES)


def _make(code_IL, vocab_size, *, byte_budget, exclude=False, prefix_MI1=None) -> Ours:
  trie, _ = trie_lib.build(code_IL, vocab_size, byte_budget)
  if prefix_MI1 is None:
    prefix_MI1 = allowed_lib.no_shared_mask()
  return jax.device_put(Ours(trie, prefix_MI1, exclude))
