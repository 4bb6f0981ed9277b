"""The dense trie against a dict of prefixes."""

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest

from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.errors import UserError
from lightlm_jax.ids.codes import stack_codes

VOCAB = 6
PLENTY = 2**24


def build(codes, vocab_size=VOCAB, byte_budget=PLENTY):
  return trie_lib.build_dense(stack_codes(codes), vocab_size, byte_budget)


def begins(prefix, code):
  return code[: len(prefix)] == prefix


@st.composite
def prefix_free(draw):
  """Codes of 1 to 5 tokens in any order, none of which begins another."""
  code = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5).map(tuple)
  drawn = draw(st.lists(code, min_size=1, max_size=40, unique=True))
  return [a for a in drawn if not any(begins(a, b) for b in drawn if len(b) > len(a))]


@settings(max_examples=200, deadline=None)
@given(prefix_free())
def test_every_prefix_is_a_state(codes):
  trie, rank_I = build(codes)
  assert trie.num_items == len(codes)
  by_rank = sorted(codes)
  assert [by_rank[rank] for rank in rank_I] == codes
  assert [codes[item] for item in trie.item_R] == by_rank

  visited, todo = {}, [((), 0)]
  while todo:
    prefix, state = todo.pop()
    assert state not in visited, "two prefixes share a state"
    visited[state] = prefix
    below = [begins(prefix, code) for code in by_rank]
    low, high = int(trie.low_S[state]), int(trie.high_S[state])
    assert np.flatnonzero(below).tolist() == list(range(low, high))
    assert bool(trie.is_leaf(state)) == (prefix in codes)
    if prefix in codes:
      assert codes[trie.item_R[int(trie.leaf_rank(state))]] == prefix
    row = int(trie.row(state))
    children = {
      code[len(prefix)] for code in codes if begins(prefix, code) and code != prefix
    }
    assert set(np.flatnonzero(trie.mask_TV[row]).tolist()) == children
    for token in range(VOCAB):
      following = int(trie.next_TV[row, token])
      if token in children:
        todo.append(((*prefix, token), following))
      else:
        assert following == trie.nowhere
  assert set(visited) == set(range(trie.nowhere)), "a state that nothing leads to"
  assert trie.low_S[trie.nowhere] == trie.high_S[trie.nowhere]
  assert not trie.is_leaf(trie.nowhere)


@settings(max_examples=50, deadline=None)
@given(prefix_free(), st.randoms())
def test_the_order_of_the_catalogue_only_names_the_items(codes, random):
  order = list(range(len(codes)))
  random.shuffle(order)
  trie, _ = build(codes)
  shuffled, _ = build([codes[item] for item in order])
  for field in ("mask_TV", "next_TV", "low_S", "high_S"):
    assert (getattr(trie, field) == getattr(shuffled, field)).all()
  assert [order[item] for item in shuffled.item_R] == trie.item_R.tolist()


@pytest.mark.parametrize("code", [(3,), (0, 5, 0, 5)])
def test_one_item_is_a_catalogue(code):
  trie, rank_I = build([code])
  assert rank_I.tolist() == [0]
  assert trie.num_internal == len(code)
  state = 0
  for token in code:
    assert trie.mask_TV[state].sum() == 1
    assert (trie.low_S[state], trie.high_S[state]) == (0, 1)
    state = int(trie.next_TV[state, token])
  assert state == trie.num_internal
  assert bool(trie.is_leaf(state))


def test_tables_are_what_the_device_gathers_from():
  trie, rank_I = build([(1, 2), (0,)])
  dtypes = [np.asarray(leaf).dtype.name for leaf in (*trie, rank_I)]
  assert dtypes == ["bool", "int32", "int32", "int32", "int32", "int32"]
  assert trie.mask_TV.shape == trie.next_TV.shape == (3, VOCAB)
  assert not trie.mask_TV[-1].any()  # the row that all leaves share


@pytest.mark.parametrize(
  ("codes", "names"),
  [
    ([(4,), (1, 2), (3,), (1, 2)], "item 1 .* item 3"),  # equal
    ([(5,), (1, 2, 0), (1, 3), (1, 2)], "item 3 .* item 1"),  # 3 begins 1
    ([(2, 1, 1), (2,), (2, 0, 4), (1, 1)], "item 1 .* item [02]"),
  ],
)
def test_ambiguous_codes_are_refused_by_name(codes, names):
  with pytest.raises(UserError, match=names) as caught:
    build(codes)
  assert "terminator" in str(caught.value)
  assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(
  st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=3).map(tuple),
    min_size=2,
    max_size=8,
  )
)
def test_codes_are_refused_exactly_if_one_begins_another(codes):
  pairs = [
    (a, b)
    for a in range(len(codes))
    for b in range(len(codes))
    if a != b and begins(codes[a], codes[b])
  ]
  if not pairs:
    build(codes)
    return
  with pytest.raises(UserError) as caught:
    build(codes)
  assert any(
    f"item {a} equals or begins the code of item {b};" in str(caught.value)
    for a, b in pairs
  )


def test_an_empty_code_is_refused_by_name():
  with pytest.raises(UserError, match="item 2 has an empty code"):
    build([(1,), (2, 3), (), (0,)])


def test_the_byte_budget_is_kept_to_the_byte():
  codes = [(0, 1), (0, 2), (3, 1), (4,)]
  trie, _ = build(codes)
  taken = trie.mask_TV.nbytes + trie.next_TV.nbytes
  build(codes, byte_budget=taken)
  with pytest.raises(UserError) as caught:
    build(codes, byte_budget=taken - 1)
  message = str(caught.value)
  for part in ("3 states", "6 tokens", f"{taken:,}", f"{taken - 1:,}", "trie_bytes"):
    assert part in message
