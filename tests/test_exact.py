"""Scores by teacher forcing against brute force, and against a search wide enough."""

import functools
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_search import (
  MULTIPLIER,
  NORMS,
  ROWS,
  START,
  SlowModel,
  build_roomy,
  prefix_free,
  quick_jit,
  random_codes,
  random_table,
  running_counts,
  step,
)

from lightlm_jax.decoding import beam, exact
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.decoding.trie import capacity
from lightlm_jax.ids.codes import stack_codes
from lightlm_jax.systems import item_scores

VOCAB = 8
ITEMS = 14
DEPTH = 4
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def force(table_XV, told_QL):
  """The toy model of every row on whole prefixes: float32 [B, Q, L, V]."""
  context_BQ = jnp.broadcast_to(
    jnp.arange(ROWS, dtype=jnp.uint32)[:, None], (ROWS, len(told_QL))
  )
  logits = []
  for token_Q in told_QL.T:
    context_BQ = context_BQ * jnp.uint32(MULTIPLIER) + token_Q.astype(jnp.uint32)[None]
    logits.append(table_XV[context_BQ % len(table_XV)])
  return jnp.stack(logits, axis=2)


@functools.partial(quick_jit, static_argnames="num_ranks")
def all_scores(table, cut, num_ranks):
  """[3, B, I] in code order, under each of the norms."""
  options = {"num_ranks": num_ranks, "start_token": START}
  return [
    exact.scores(
      functools.partial(force, table),
      cut,
      length_penalty=penalty,
      length_offset=offset,
      **options,
    )
    for penalty, offset in NORMS
  ]


CATALOGUES = {
  "codes of 1 to 4 tokens": (random_codes(0, 40, 8, 4), 8),
  "one token an item": ([(t,) for t in range(10)], 10),
  "one item": ([(3, 2, 4)], 6),
  "one short item": ([(3,)], 6),
  "a root with one child": ([(5, a, b) for a in (2, 4) for b in (0, 3, 5)], 6),
  "one wide node": ([(2, t) for t in range(300)] + [(3, 2), (4,), (5, 5, 5)], 300),
}


@pytest.mark.parametrize("most_prefixes", [1, 3, 10**6])
@pytest.mark.parametrize("name", CATALOGUES)
def test_every_item_has_its_score(name, most_prefixes):
  codes, vocab_size = CATALOGUES[name]
  by_rank = sorted(codes)
  table = random_table(0, vocab_size, contexts=499)
  cut = exact.chunks(stack_codes(by_rank), most_prefixes)
  model = SlowModel(table)
  found = jax.device_get(all_scores(table, cut, len(codes)))
  for norm, score_BI in zip(NORMS, found, strict=True):
    expected = [
      [model.score(row, code, norm) for code in by_rank] for row in range(ROWS)
    ]
    assert score_BI.dtype == np.float32
    np.testing.assert_allclose(score_BI, expected, **TOLERANCE)


@settings(max_examples=60)
@given(prefix_free(range(5), DEPTH, 40), st.integers(1, 12))
def test_chunks_hold_every_item_once_and_few_prefixes(codes, most_prefixes):
  by_rank = sorted(codes)
  cut = exact.chunks(stack_codes(by_rank), most_prefixes)
  X, Q, _ = cut.prefix_XQL.shape
  G = cut.row_XG.shape[1]
  assert Q <= most_prefixes
  assert (X - 1) * G < capacity(len(codes) + 1) <= X * G
  rebuilt = [
    (*(t for t in cut.prefix_XQL[x, cut.row_XG[x, g]] if t >= 0), cut.token_XG[x, g])
    for x in range(X)
    for g in range(G)
  ]
  assert rebuilt[: len(codes)] == by_rank
  runs = 1 + sum(a[:-1] != b[:-1] for a, b in itertools.pairwise(by_rank))
  assert (X == 1) == (runs <= most_prefixes)


def test_equal_prefixes_are_forced_once():
  """300 items below one node, two others: three prefixes and room for more."""
  codes = [(2, t) for t in range(300)] + [(3, 2), (4,)]
  found = exact.chunks(stack_codes(codes), 10**6).prefix_XQL
  assert found.tolist() == [[[2], [3], *[[-1]] * 6]]
  assert exact.chunks(stack_codes(codes), 3).prefix_XQL.shape == (1, 3, 1)
  assert exact.chunks(stack_codes(codes[:300]), 1).prefix_XQL.shape == (1, 1, 1)


def test_no_more_chunks_are_made_than_halving_wants():
  codes = [(t, 0) for t in range(12)]  # of a capacity of 16
  for most_prefixes, shape in ((12, (1, 12)), (11, (2, 8)), (4, (4, 4)), (2, (8, 2))):
    assert exact.chunks(stack_codes(codes), most_prefixes).prefix_XQL.shape[:2] == shape


@quick_jit
def search(table, trie, allowed, norm):
  """As many beams as items: no level has more nodes."""
  lengths = {"length_penalty": norm[0], "length_offset": norm[1]}
  options = beam.Options(beam_size=ITEMS, start_token=START, **lengths)
  beams = beam.search(
    functools.partial(step, table),
    jnp.arange(ROWS, dtype=jnp.uint32)[:, None],
    trie,
    allowed,
    options,
    B=ROWS,
  )
  return beam.recommendations(beams, trie, options, k=ITEMS)


@quick_jit
def filtered(score_BI, allowed):
  return item_scores.top_items(
    score_BI, item_scores.allowed_items(allowed, ITEMS), ITEMS
  )


@st.composite
def requests(draw):
  """Codes, two shared masks, each row's mask and what it excludes, by rank."""
  codes = draw(prefix_free(range(VOCAB), DEPTH, 30, ITEMS))
  seed = draw(st.integers(0, 2**32 - 1))
  rng = np.random.default_rng(seed)
  open_MI = rng.random((2, ITEMS)) < [[1.0], [0.6]]
  mask_B = rng.integers(2, size=ROWS)
  excluded_BE = np.full((ROWS, 8), ITEMS, np.int32)
  for row_E in excluded_BE[1:]:
    count = draw(st.integers(0, 8))
    row_E[:count] = np.sort(rng.choice(ITEMS, count, replace=False))
  return codes, open_MI, mask_B, excluded_BE, seed


@settings(max_examples=60)
@given(requests(), st.sampled_from([1, 3, 10**6]), st.sampled_from(range(len(NORMS))))
def test_filtered_scores_are_what_a_wide_enough_search_finds(
  case, most_prefixes, which
):
  codes, open_MI, mask_B, excluded_BE, seed = case
  table = random_table(seed, VOCAB, contexts=499)
  trie, _ = build_roomy(codes, VOCAB, DEPTH, ITEMS + 2, masks=False)
  allowed = Allowed(running_counts(open_MI), mask_B.astype(np.int32), excluded_BE)
  code_RL = np.full((ITEMS, DEPTH), -1, np.int32)
  code_RL[:, : max(map(len, codes))] = stack_codes(sorted(codes))
  # Of one shape for all codes: more prefixes than any chunk has.
  cut = exact.chunks(code_RL, most_prefixes)
  room = ((0, 0), (0, ITEMS + 2 - cut.prefix_XQL.shape[1]), (0, 0))
  cut = cut._replace(prefix_XQL=np.pad(cut.prefix_XQL, room, constant_values=-1))
  score_BR = all_scores(table, cut, ITEMS)[which]
  expected = jax.device_get(filtered(score_BR, allowed))
  found = jax.device_get(search(table, trie, allowed, np.float32(NORMS[which])))

  score_BR = np.asarray(score_BR)
  rank_I = np.argsort(trie.item_R[:ITEMS])
  assert (found.valid_BK == expected.valid_BK).all()
  np.testing.assert_allclose(found.scores_BK, expected.scores_BK, **TOLERANCE)
  for row in range(ROWS):
    open_ranks = np.flatnonzero(open_MI[mask_B[row]])
    left = np.setdiff1d(open_ranks, excluded_BE[row]).tolist()
    ranks = rank_I[found.items_BK[row][found.valid_BK[row]]].tolist()
    assert sorted(ranks) == left
    assert sorted(expected.items_BK[row][expected.valid_BK[row]].tolist()) == left
    # Each item at its own score: the same order, but for what float32 cannot tell.
    np.testing.assert_allclose(
      found.scores_BK[row, : len(ranks)], score_BR[row, ranks], **TOLERANCE
    )
