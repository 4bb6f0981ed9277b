"""Filters per request: which branches of the trie hold an allowed item.

The items below a node are a range of ranks. A branch is open if its range holds an item
that the request's shared mask allows and that the request does not exclude. The number
of such items is a difference of the mask's cumulative counts, less the exclusions in
the range: exclusions are sorted, so that those below a node are neighbours. The trie
stays unchanged, and no step is linear in the catalogue.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.decoding.trie import WORD, Trie


class Path(NamedTuple):
  """One level's edges on the paths from the root to a request's exclusions."""

  parent_BE: jax.Array  # int32 states of the upper level
  child_BE: jax.Array  # int32 states of the lower one
  closed_BE: jax.Array  # bool: the child holds no item that the request may get


def paths(trie: Trie, allowed: Allowed) -> tuple[Path, ...]:
  """Returns the edges from the root to each exclusion, a `Path` for each of L levels.

  Exclusions can close only nodes on these paths. A repeated exclusion counts once.
  An exclusion that the shared mask does not allow anyway does not count.
  """
  rank_BE = allowed.excluded_BE
  counts_BE = jnp.diff(rank_BE, axis=1, prepend=-1) > 0
  counts_BE &= _open_between(allowed, rank_BE, rank_BE + 1) > 0
  count_BE1 = jnp.pad(jnp.cumsum(counts_BE, axis=1, dtype=jnp.int32), ((0, 0), (1, 0)))
  found = []
  # Padding becomes nodes that no beam reaches.
  child_BE = jnp.minimum(rank_BE, trie.nowhere(trie.depth))
  for level in range(trie.depth - 1, -1, -1):
    low_BE = trie.rank(child_BE, level + 1)
    high_BE = trie.rank(child_BE + 1, level + 1)
    start_BE, end_BE = _runs(child_BE)
    excluded_BE = jnp.take_along_axis(count_BE1, end_BE, axis=1)
    excluded_BE -= jnp.take_along_axis(count_BE1, start_BE, axis=1)
    closed_BE = _open_between(allowed, low_BE, high_BE) <= excluded_BE
    parent_BE = trie.parent(child_BE, level + 1)
    found.append(Path(parent_BE, child_BE, closed_BE))
    child_BE = parent_BE
  return tuple(found[::-1])


def _runs(sorted_BE: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns where the run of equal numbers around each number starts and ends."""
  E = sorted_BE.shape[1]
  at_1E = jnp.arange(E)[None]
  differs_BE = jnp.diff(sorted_BE, axis=1) != 0
  first_BE = jnp.pad(differs_BE, ((0, 0), (1, 0)), constant_values=True)
  last_BE = jnp.pad(differs_BE, ((0, 0), (0, 1)), constant_values=True)
  start_BE = jax.lax.cummax(jnp.where(first_BE, at_1E, 0), axis=1)
  end_BE = jnp.where(last_BE, at_1E + 1, E)
  return start_BE, jax.lax.cummin(end_BE, axis=1, reverse=True)


def open_in_mask(
  trie: Trie, allowed: Allowed, state_BK: jax.Array, level: int
) -> jax.Array:
  """Returns which children of each state hold an item that the shared mask allows.

  The result is [B, K, C] bool in the order of `Trie.listed`, C the level's `width`.
  Columns after a node's last child are meaningless; `Trie.listed` closes them.
  """
  here = trie.levels[level]
  column_C1 = jnp.arange(here.width + 1)[None, None]
  child_BKC1 = here.first_N1[state_BK][..., None] + column_C1
  child_BKC1 = jnp.minimum(child_BKC1, trie.nowhere(level + 1))
  rank_BKC1 = trie.rank(child_BKC1, level + 1)
  return jnp.diff(_open_before(allowed, rank_BKC1), axis=-1) > 0


def without(
  open_BKC: jax.Array, trie: Trie, path: Path, state_BK: jax.Array, level: int
) -> jax.Array:
  """Returns `open_BKC`, but false for the listed children that `path` closes."""
  B, K, C = open_BKC.shape
  slot_BE, hit_BE = _beam_of(path, state_BK)
  column_BE = path.child_BE - trie.levels[level].first_N1[path.parent_BE]
  place_BE = jnp.where(hit_BE, slot_BE * C + column_BE, K * C)  # K * C is dropped
  close = jax.vmap(lambda row_J, place_E: row_J.at[place_E].set(False, mode="drop"))
  return close(open_BKC.reshape(B, K * C), place_BE).reshape(B, K, C)


def without_bits(
  word_BKW: jax.Array, trie: Trie, path: Path, state_BK: jax.Array, level: int
) -> jax.Array:
  """Returns the masks `word_BKW`, with bits cleared for children that `path` closes."""
  B, K, W = word_BKW.shape
  slot_BE, hit_BE = _beam_of(path, state_BK)
  # A child's bit is subtracted once, even if several of its items are excluded.
  hit_BE &= jnp.diff(path.child_BE, axis=1, prepend=-1) > 0
  token_BE = trie.token(path.child_BE, level)
  place_BE = jnp.where(hit_BE, slot_BE * W + token_BE // WORD, K * W)  # as above
  bit_BE = jnp.uint32(1) << (token_BE % WORD).astype(jnp.uint32)
  take = jax.vmap(lambda row_J, at_E, bit_E: row_J.at[at_E].add(-bit_E, mode="drop"))
  return take(word_BKW.reshape(B, K * W), place_BE, bit_BE).reshape(B, K, W)


def _beam_of(path: Path, state_BK: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the beam at each edge's parent, and whether the edge is closed, [B, E]."""
  is_it_BEK = path.parent_BE[:, :, None] == state_BK[:, None, :]
  return jnp.argmax(is_it_BEK, axis=2), path.closed_BE & is_it_BEK.any(axis=2)


def is_allowed(allowed: Allowed, rank_BK: jax.Array) -> jax.Array:
  """Returns whether each row may get the items of these ranks, [B, K] bool."""
  in_mask_BK = _open_between(allowed, rank_BK, rank_BK + 1) > 0
  return in_mask_BK & (rank_BK[:, :, None] != allowed.excluded_BE[:, None]).all(axis=2)


def _open_between(allowed: Allowed, low_BE: jax.Array, high_BE: jax.Array) -> jax.Array:
  """Returns how many ranks from `low` to `high - 1` each row's shared mask allows."""
  if not allowed.prefix_MI1.shape[0]:
    return high_BE - low_BE
  return _open_before(allowed, high_BE) - _open_before(allowed, low_BE)


def _open_before(allowed: Allowed, rank: jax.Array) -> jax.Array:
  """Returns how many ranks below `rank` [B, …] each row's shared mask allows."""
  mask_B = allowed.mask_B.reshape(-1, *[1] * (rank.ndim - 1))
  # Ranks of padding may exceed the last count.
  return allowed.prefix_MI1.at[mask_B, rank].get(mode="clip")
