"""The trie against a dict of prefixes."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_search import PLENTY, begins, build_roomy, following, prefix_free, quick_jit

from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.ids.codes import stack_codes
from lightlm_jax.runtime.errors import UserError

VOCAB = 70
TOKENS = (0, 1, 31, 32, 63, 64, 69)  # in all three words of a mask, and on their edges
DEPTH = 4
MOST = 40
ROOM = 48

any_codes = prefix_free(TOKENS, DEPTH, MOST)


def build(codes, vocab_size=VOCAB, byte_budget=PLENTY, **dense_share):
  return trie_lib.build(stack_codes(codes), vocab_size, byte_budget, **dense_share)


@quick_jit
def everything(trie):
  """What a trie says of all nodes of each level, of padding too.

  N nodes, C columns, V tokens; M nodes of the next level.
  """
  levels = []
  for level in range(trie.depth):
    node_N = jnp.arange(len(trie.levels[level].first_N1) - 1)
    token_1NC, open_1NC = trie.listed(node_N[None], level)
    column_C = jnp.arange(token_1NC.shape[2])[None]
    token_VN = jnp.arange(trie.vocab_size)[:, None]
    token_VN, node_VN = jnp.broadcast_arrays(token_VN, node_N[None])
    below_M = jnp.arange(trie.nowhere(level + 1) + 1)
    of_level = {
      "token_NC": token_1NC[0],
      "open_NC": open_1NC[0],
      "next_NC": trie.child(node_N[:, None], column_C, level),
      "follow_NV": trie.follow(node_VN, token_VN, level).T,
      "ended_N": trie.ended(node_N, level),
      "low_N": trie.rank(node_N, level),
      "high_N": trie.rank(node_N + 1, level),
      "parent_M": trie.parent(below_M, level + 1),
    }
    if trie.levels[level].mask_NW is not None:
      open_NV = trie_lib.bits(trie.levels[level].mask_NW)
      of_level |= {
        "open_NV": open_NV.reshape(len(node_N), -1),
        "next_NV": trie.child_by_token(node_VN, token_VN, level).T,
        "token_M": trie.token(below_M, level),
      }
    levels.append(of_level)
  return levels


def check(codes, trie, rank_I):
  """A trie's whole walk from the root against a dict of the prefixes of `codes`."""
  levels = jax.device_get(everything(jax.device_put(trie)))
  by_rank = sorted(codes)
  assert [by_rank[rank] for rank in rank_I] == codes
  tokens_after = following(codes)
  visited = set()
  prefix_of = {0: ()}
  for level, a in enumerate(levels):
    nowhere, below = trie.nowhere(level), trie.nowhere(level + 1)
    if level:
      assert nowhere not in prefix_of
      assert not a["open_NC"][nowhere].any()
      assert not a["ended_N"][nowhere]
      assert (a["follow_NV"][nowhere] == below).all()
      assert a["low_N"][nowhere] == a["high_N"][nowhere]
      if "open_NV" in a:
        assert not a["open_NV"][nowhere].any()
    prefix_below = {}
    for node, prefix in prefix_of.items():
      ranks = [rank for rank, code in enumerate(by_rank) if begins(prefix, code)]
      assert list(range(a["low_N"][node], a["high_N"][node])) == ranks
      tokens = tokens_after[prefix]
      visited.add(prefix)
      ended = tokens is None
      assert a["ended_N"][node] == ended
      children = [prefix] if ended else [(*prefix, token) for token in sorted(tokens)]
      states = a["next_NC"][node, : len(children)]
      assert np.flatnonzero(a["open_NC"][node]).tolist() == list(range(len(children)))
      open_tokens = [0] if ended else sorted(tokens)
      if ended:
        assert (a["follow_NV"][node] == states[0]).all()
      else:
        assert a["token_NC"][node, : len(children)].tolist() == open_tokens
        expected_V = np.full(trie.vocab_size, below)
        expected_V[open_tokens] = states
        assert a["follow_NV"][node].tolist() == expected_V.tolist()
      if "open_NV" in a:
        assert np.flatnonzero(a["open_NV"][node]).tolist() == open_tokens
        assert a["next_NV"][node, open_tokens].tolist() == states.tolist()
        assert a["token_M"][states].tolist() == open_tokens
      for child, child_prefix in zip(states, children, strict=True):
        assert a["parent_M"][child] == node
        assert child not in prefix_below, "two prefixes share a node"
        prefix_below[child] = child_prefix
    prefix_of = prefix_below
  assert visited | set(codes) == set(tokens_after)
  assert {
    item: prefix_of[rank] for rank, item in enumerate(trie.item_R[: len(codes)])
  } == (dict(enumerate(codes)))
  assert (trie.item_R[len(codes) :] == -1).all()
  assert len(trie.item_R) > len(codes)


@settings(max_examples=60)
@given(any_codes)
def test_walking_the_children_visits_every_prefix_once(codes):
  listed, rank_I = build_roomy(codes, VOCAB, DEPTH, ROOM, masks=False)
  assert all(level.mask_NW is None for level in listed.levels)
  check(codes, listed, rank_I)
  masked, rank_I = build_roomy(codes, VOCAB, DEPTH, ROOM, masks=True)
  assert all(level.mask_NW is not None for level in masked.levels)
  check(codes, masked, rank_I)


CATALOGUES = {
  "one short item": ([(3,)], 4),
  "all padding but one": ([(t,) for t in range(7)], 7),
  "as many nodes as fit, twice": ([(6 - t, t) for t in range(7)], 7),
  "the whole of two words": ([(t, 63 - t) for t in range(64)], 64),
  "short and long": ([(0, 0, 0, 0), (0, 0, 1), (0, 1), (1,), (2, 0)], 3),
}


@pytest.mark.parametrize("byte_budget", [0, PLENTY])
@pytest.mark.parametrize("name", CATALOGUES)
def test_the_walk_of_a_real_capacity_is_right_too(name, byte_budget):
  codes, vocab_size = CATALOGUES[name]
  trie, rank_I = build(codes, vocab_size, byte_budget, dense_share=0)
  assert {level.mask_NW is None for level in trie.levels} == {byte_budget == 0}
  check(codes, trie, rank_I)


@settings(max_examples=50)
@given(any_codes, st.randoms())
def test_the_order_of_the_catalogue_only_names_the_items(codes, random):
  order = list(range(len(codes)))
  random.shuffle(order)
  trie, _ = build(codes)
  shuffled, _ = build([codes[item] for item in order])
  for a, b in zip(jax.tree.leaves(trie.levels), jax.tree.leaves(shuffled.levels)):
    assert (a == b).all()
  assert [order[item] for item in shuffled.item_R[: len(codes)]] == (
    trie.item_R[: len(codes)].tolist()
  )


def test_capacity_is_an_eighth_more_at_most_or_the_next_eight():
  sizes = [*range(1, 5000), *(2**n + d for n in range(13, 30) for d in (-1, 0, 1))]
  before = 0
  for size in sizes:
    room = trie_lib.capacity(size)
    assert 0 <= room - size < max(8, size / 8)
    assert trie_lib.capacity(room) == room
    assert room >= before, "more items, less room"
    before = room
  assert len({trie_lib.capacity(size) for size in range(1, 10**5)}) < 100


def random_items(seed, number, depth=3, vocab_size=30):
  rng = np.random.default_rng(seed)
  codes = {
    tuple(code) for code in rng.integers(0, vocab_size, (number, depth)).tolist()
  }
  assert len(codes) == number
  return list(codes)


@pytest.mark.parametrize("byte_budget", [0, PLENTY])
def test_catalogues_of_one_capacity_have_one_shape(byte_budget):
  """Shapes differ exactly where the nodes of a level or its width need more room."""

  def room(codes):
    """What shapes may depend on: the room for all nodes, and for a node's children."""
    tokens_after = following(codes)
    nodes = [sum(len(p) == n for p in tokens_after) for n in range(4)]
    widest = [
      max(len(tokens_after[p]) for p in tokens_after if len(p) == n) for n in range(3)
    ]
    return [trie_lib.capacity(n + 1) for n in nodes], [
      trie_lib.capacity(n) for n in widest
    ]

  def shape(codes):
    return jax.tree.map(
      lambda leaf: (leaf.shape, leaf.dtype),
      build(codes, 30, byte_budget, dense_share=0)[0],
    )

  fitting = []
  for seed in range(10):
    few, more, many = (random_items(seed, number) for number in (40, 41, 48))
    assert (shape(few) == shape(more)) == (room(few) == room(more))
    assert shape(few) != shape(many), "48 items and a place for nowhere fit in 48"
    fitting.append(room(few) == room(more))
  assert set(fitting) == {True, False}


@pytest.mark.parametrize(
  ("vocab_size", "dtype"),
  [
    (6, "uint8"),
    (255, "uint8"),
    (256, "uint16"),
    (65_535, "uint16"),
    (65_536, "uint32"),
  ],
)
def test_tokens_are_stored_in_the_narrowest_integers(vocab_size, dtype):
  codes = [(vocab_size - 1, 0), (0,)]  # the short one ends in the largest value, V
  trie, rank_I = build(codes, vocab_size, 0)
  assert [level.token_M.dtype.name for level in trie.levels] == [dtype] * 2
  assert {level.first_N1.dtype.name for level in trie.levels} == {"int32"}
  assert trie.item_R.dtype.name == rank_I.dtype.name == "int32"
  assert trie.levels[0].token_M[:2].tolist() == [0, vocab_size - 1]
  assert trie.levels[1].token_M[:2].tolist() == [vocab_size, 0]


def test_the_masks_nearest_to_the_root_go_first():
  codes = random_items(0, 200, depth=3, vocab_size=40)

  def levels(byte_budget):
    return build(codes, 40, byte_budget, dense_share=0)[0].levels

  def masked(byte_budget):
    return [level.mask_NW is not None for level in levels(byte_budget)]

  root, middle, low = (level.mask_NW.nbytes for level in levels(PLENTY))
  assert root < middle < low
  for byte_budget, expected in [
    (0, [False] * 3),
    (root - 1, [False] * 3),
    (root, [True, False, False]),
    (root + middle - 1, [True, False, False]),
    (root + middle, [True, True, False]),
    (low, [True, True, False]),
    (root + middle + low - 1, [True, True, False]),
    (root + middle + low, [True] * 3),
  ]:
    assert masked(byte_budget) == expected, byte_budget


def test_only_levels_that_use_most_of_the_vocabulary_have_a_mask():
  codes = [(a, b) for a in range(40) for b in range(3)]
  assert [level.mask_NW is not None for level in build(codes, 64)[0].levels] == (
    [True, False]
  )


def test_a_trie_takes_twenty_bytes_an_item_and_four_a_stored_range():
  """4 + 2 for a node and its token on the three levels of about as many as items.

  And 2 for the last token, 4 for the item, up to an eighth more for capacity. V times
  24 covers what does not grow with the items: the root's children, and the run-over.
  """
  vocab_size, number = 2048, 10**5
  rng = np.random.default_rng(0)
  code_IL = np.unique(rng.integers(0, vocab_size, (number, 4), dtype=np.int32), axis=0)
  trie, _ = trie_lib.build(rng.permutation(code_IL), vocab_size, 0)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(trie))
  assert 10 * number < size <= 24 * len(code_IL) + 24 * vocab_size


def test_the_description_is_a_line():
  codes = [(a, b) for a in range(60) for b in range(10)]
  trie, _ = build(codes)
  line = trie_lib.describe(trie)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(trie))
  for part in ("600 items", "mask of 64", "list of 16", f"{size:,} bytes"):
    assert part in line
  assert "\n" not in line


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


@settings(max_examples=100)
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


@pytest.mark.parametrize(
  ("code_IL", "message"),
  [
    (np.zeros((0, 2), np.int32), "0 codes"),
    (np.int32([[3, 5], [9, 1]]), "2 codes with tokens up to 9"),
    (np.int32([[3, -1, 2], [4, 1, -1]]), "goes on behind its padding"),
  ],
)
def test_what_is_no_table_of_codes_is_an_error(code_IL, message):
  with pytest.raises(ValueError, match=message):
    trie_lib.build(code_IL, 5 if len(code_IL) else 1, 0)
