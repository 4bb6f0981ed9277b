"""The live filters against sets of items, at every node of the trie."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_search import begins, build_roomy, prefix_free, quick_jit, running_counts

from lightlm_jax.decoding import filters
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.decoding.trie import bits

VOCAB = 40
TOKENS = (0, 1, 31, 32, 39)
DEPTH = 4
ITEMS = 20
ROOM = 24
EXCLUSIONS = 12
ROWS = 3


@quick_jit
def open_children(trie, allowed, state_LBK):
  """The children of all states of each level, open in the mask, and open to the row.

  Of each level a pair, by list and by mask where it has one; a pair of what the mask
  opens and what is left. And whether every item is open to the row.
  """
  levels = []
  for level, path in enumerate(filters.paths(trie, allowed)):
    state_BK = state_LBK[level]
    _, open_BKC = trie.listed(state_BK, level)
    if allowed.prefix_MI1.shape[0]:
      open_BKC &= filters.open_in_mask(trie, allowed, state_BK, level)
    left_BKC = filters.without(open_BKC, trie, path, state_BK, level)
    column_C = jnp.arange(open_BKC.shape[2])[None, None]
    found = [(trie.child(state_BK[..., None], column_C, level), open_BKC, left_BKC)]
    if (mask_NW := trie.levels[level].mask_NW) is not None:
      word_BKW = mask_NW[state_BK]
      left_BKW = filters.without_bits(word_BKW, trie, path, state_BK, level)
      state_BKV = jnp.repeat(state_BK[..., None], VOCAB, axis=2)
      token_BKV = jnp.broadcast_to(jnp.arange(VOCAB)[None, None], state_BKV.shape)
      flat = (x.reshape(ROWS, -1) for x in (state_BKV, token_BKV))
      next_BKV = trie.child_by_token(*flat, level).reshape(state_BKV.shape)
      open_BKV, left_BKV = (
        bits(word).reshape(*state_BK.shape, -1)[..., :VOCAB]
        for word in (word_BKW, left_BKW)
      )
      found.append((next_BKV, open_BKV, left_BKV))
    levels.append(found)
  rank_BR = jnp.broadcast_to(jnp.arange(ITEMS)[None], (ROWS, ITEMS))
  return levels, filters.is_allowed(allowed, rank_BR)


def ranks_below(codes):
  """The ranks below every node, by level and in code order."""
  by_rank = sorted(codes)
  return [
    [
      {rank for rank, code in enumerate(by_rank) if begins(prefix, code)}
      for prefix in sorted({code[:level] for code in codes})
    ]
    for level in range(DEPTH + 1)
  ]


def random_beams(trie, below_L, rng):
  """Most nodes of every level, each in one beam of any place; other beams are empty."""
  state_LBK = [np.zeros((ROWS, 1), np.int32)]
  for level in range(1, DEPTH):
    state_K = np.full(ROOM, trie.nowhere(level), np.int32)
    state_K[: len(below_L[level])] = np.arange(len(below_L[level]))
    state_BK = np.stack([rng.permutation(state_K) for _ in range(ROWS)])
    state_BK[rng.random(state_BK.shape) < 0.1] = trie.nowhere(level)
    state_LBK.append(state_BK)
  return state_LBK


def check(codes, open_MI, mask_B, excluded_BE, *, seed=0, masks=False):
  """Every child of every beam against sets; `open_MI` None = no shared mask."""
  trie, _ = build_roomy(codes, VOCAB, DEPTH, ROOM, masks=masks)
  if open_MI is None:
    prefix_MI1 = no_shared_mask()
    open_MI = np.ones((2, ITEMS), bool)
  else:
    prefix_MI1 = running_counts(open_MI)
  allowed = Allowed(prefix_MI1, np.array(mask_B, np.int32), excluded_BE)
  below_L = ranks_below(codes)
  state_LBK = random_beams(trie, below_L, np.random.default_rng(seed))
  found_L, is_open_BR = jax.device_get(open_children(trie, allowed, state_LBK))
  for row in range(ROWS):
    in_mask = set(np.flatnonzero(open_MI[mask_B[row]]).tolist())
    left = in_mask - set(excluded_BE[row].tolist())
    assert np.flatnonzero(is_open_BR[row]).tolist() == sorted(left)
    for level, found in enumerate(found_L):
      assert len(found) == 1 + masks
      for beam, state in enumerate(state_LBK[level][row]):
        here = below_L[level][state] if state < len(below_L[level]) else set()
        children = [(n, b) for n, b in enumerate(below_L[level + 1]) if b <= here]
        for next_BKC, open_BKC, left_BKC in found:
          next_C = next_BKC[row, beam]
          opened = next_C[open_BKC[row, beam]].tolist()
          assert opened == [node for node, below in children if below & in_mask]
          kept = next_C[left_BKC[row, beam]].tolist()
          assert kept == [node for node, below in children if below & left]


@st.composite
def requests(draw):
  """Codes, two masks, the mask of each row and its exclusions, all by rank.

  The exclusions are a careless caller's: some twice, some closed by the mask already.
  """
  codes = draw(prefix_free(TOKENS, DEPTH, 40, ITEMS))
  seed = draw(st.integers(0, 2**32 - 1))
  rng = np.random.default_rng(seed)
  open_MI = rng.random((2, ITEMS)) < [[0.4], [0.9]]
  excluded_BE = np.full((ROWS, EXCLUSIONS), ITEMS, np.int32)
  for row_E in excluded_BE:
    count = draw(st.integers(0, EXCLUSIONS))
    # Most of them neighbours, so that whole branches are closed.
    low = rng.integers(ITEMS)
    near_E = np.minimum(low + rng.integers(count + 1, size=count), ITEMS - 1)
    far_E = rng.integers(ITEMS, size=count)
    row_E[:count] = np.sort(np.where(rng.random(count) < 0.8, near_E, far_E))
  return codes, open_MI, rng.integers(2, size=ROWS), excluded_BE, seed


@settings(max_examples=40)
@given(requests())
def test_a_child_is_open_while_an_item_below_it_is(case):
  codes, open_MI, mask_B, excluded_BE, seed = case
  check(codes, open_MI, mask_B, excluded_BE, seed=seed)


@pytest.mark.parametrize("masks", [False, True])
@settings(max_examples=40)
@given(requests())
def test_exclusions_alone_close_the_same_children_in_both_forms(masks, case):
  codes, _, mask_B, excluded_BE, seed = case
  check(codes, None, mask_B, excluded_BE, seed=seed, masks=masks)


@pytest.mark.parametrize("masked", [False, True])
def test_a_branch_closes_with_its_last_open_item(masked):
  """Two branches of ten items; the first loses one item after the other."""
  codes = [(a, 0, b, c) for a in (0, 1) for b in (0, 31) for c in (0, 1, 31, 32, 39)]
  open_MI = np.ones((2, ITEMS), bool)
  open_MI[1, 2:9:2] = False  # four of the ten
  for number in range(11):
    excluded_BE = np.full((ROWS, EXCLUSIONS), ITEMS, np.int32)
    excluded_BE[0, :number] = np.arange(number)
    twice = [rank for rank in range(number) if rank % 2 or not masked]
    excluded_BE[1, : 2 * len(twice[:6])] = np.sort(twice[:6] * 2)
    excluded_BE[2, :number] = np.arange(10, 10 + number)
    check(codes, open_MI if masked else None, [0, 1, 0], excluded_BE)
