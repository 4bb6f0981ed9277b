"""New items: everything old stays as it is, and a new code stands with its like.

So do items that training never saw, where they are not left apart.
"""

import collections

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from small_logs import check, make_log, strip

from lightlm_jax import config as config_lib
from lightlm_jax.config.data_groups import Ids
from lightlm_jax.data import datasets, splits
from lightlm_jax.ids import build, codes, grow, plain, quantise, spectral
from lightlm_jax.runtime.errors import UserError


def add(book, neighbours, cold=(), *, capacity=1000, seed=0):
  cold_I = np.isin(np.arange(len(book.items_IL)), cold)
  neighbours = [np.array(near, np.int64) for near in neighbours]
  return grow.add_items(book, neighbours, cold_I, capacity=capacity, seed=seed)


def added(book, neighbours, cold=(), **options):
  """The new items' codes alone, as tuples."""
  return strip(add(book, neighbours, cold, **options).items_IL)[len(book.items_IL) :]


# Any book.


def random_book(log, draw, seed):
  return plain.random_ids(log, draw(st.integers(2, 6)), seed)


def clustered_book(tokens):
  def make(log, draw, seed):
    config = Ids(
      branching=draw(st.integers(2, 5)),
      leaf_size=draw(st.integers(1, 9)),
      levels=draw(st.integers(1, 3)),
      tokens=tokens,
    )
    return spectral.spectral_ids(log, config, seed=seed)

  return make


def quantised_book(log, draw, seed):
  centres, levels = draw(st.integers(1, 4)), draw(st.integers(1, 3))
  size = log.num_users + log.num_items, levels
  label_NL = np.random.default_rng(seed).integers(centres, size=size)
  return quantise.codes(label_NL, log.num_users, centres, seed)


BOOKS = {
  "rid": random_book,
  "iid": lambda log, draw, seed: plain.independent_ids(log),
  "sci, tokens by level": clustered_book("level"),
  "sci, tokens by node": clustered_book("node"),
  "gci": quantised_book,
}


def grown(draw, make_book):
  """A book, what its new items are like, and which of the old ones are cold."""
  num_items = draw(st.integers(1, 24))
  item = st.integers(0, num_items - 1)
  rows = draw(st.lists(st.lists(item, max_size=5), min_size=1, max_size=8))
  seed = draw(st.integers(0, 99))
  tables = make_book(make_log(rows, num_items), draw, seed)
  neighbours = draw(st.lists(st.lists(item, max_size=6), max_size=12))
  return codes.code_book(*tables, {}), neighbours, draw(st.sets(item)), seed


def free_tokens(old, now):
  """{stem: tokens that end an old code of its depth and never follow it}, by search."""
  ends = collections.defaultdict(set)
  for code in old:
    ends[len(code)].add(code[-1])
  return {
    stem: {
      token
      for token in ends[len(stem) + 1]
      if not any(code[: len(stem) + 1] == (*stem, token) for code in now)
    }
    for stem in {code[:-1] for code in old}
  }


@pytest.mark.parametrize("kind", BOOKS)
@given(data=st.data())
def test_what_is_old_stays_and_new_codes_follow_the_rule(kind, data):
  book, neighbours, cold, seed = grown(data.draw, BOOKS[kind])
  old = strip(book.items_IL)
  room = sum(map(len, free_tokens(old, old).values()))
  if room < len(neighbours):
    left = f"no free code for {len(neighbours) - room} of {len(neighbours)} new items"
    with pytest.raises(UserError, match=left):
      add(book, neighbours, sorted(cold), seed=seed)
    return
  larger = add(book, neighbours, sorted(cold), seed=seed)

  users, items = len(book.users_UL), len(old) + len(neighbours)
  check(larger.items_IL, larger.users_UL, make_log([[]] * users, items))
  new = strip(larger.items_IL)
  assert new[: len(old)] == old
  np.testing.assert_array_equal(larger.users_UL, book.users_UL)
  assert larger.vocab_size == book.vocab_size
  before, after = (
    {tuple(code[:n]) for code in paths for n in range(len(code))}
    for paths in (old, new)
  )
  assert after == before, "an inner node was added"

  cold_stems = sorted({old[item][:-1] for item in cold})
  for place, near in enumerate(neighbours, start=len(old)):
    votes = collections.Counter(old[item][:-1] for item in near)
    size = collections.Counter(code[:-1] for code in new[:place])
    wanted = sorted(votes, key=lambda stem: (-votes[stem], size[stem], stem))
    free = free_tokens(old, new[:place])
    stem, token = new[place][:-1], new[place][-1]
    assert token in free[stem]
    with_room = [stem for stem in wanted + cold_stems if free[stem]]
    if with_room:
      assert stem == with_room[0]
    else:
      assert len(free[stem]) == max(map(len, free.values()))


# One book, whose leaves are to be seen: (0,), (1,) and that of the cold item, (2,).

OLD = [(0, 3), (0, 4), (0, 5), (1, 3), (1, 6), (2, 7)]
COLD = (5,)


@pytest.fixture
def book():
  return codes.code_book(np.array(OLD), np.array([[8], [9]]), {"kind": "x"})


@pytest.mark.parametrize(
  ("near", "leaf", "free"),
  [([0, 2], 0, {6, 7}), ([4], 1, {4, 5, 7}), ([5], 2, {3, 4, 5, 6})],
)
def test_a_new_item_joins_its_neighbours_leaf(book, near, leaf, free):
  drawn = [added(book, [near], COLD, seed=seed)[0] for seed in range(30)]
  assert set(drawn) == {(leaf, token) for token in free}


@pytest.mark.parametrize(
  ("near", "leaf"),
  [
    ([0, 3, 4], 1),
    ([3, 0, 1], 0),
    ([3, 3, 0], 1),  # a neighbour named twice counts twice
    ([0, 3], 1),  # of equals the smaller
    ([0, 1, 3, 4, 5], 1),
  ],
)
def test_most_neighbours_win(book, near, leaf):
  ((stem, _),) = added(book, [near], COLD)
  assert stem == leaf


def test_of_leaves_equal_in_size_too_the_first_counts(book):
  # Once an item has joined it, (1,) has three as (0,) has.
  first, second = added(book, [[4], [3, 0]], COLD)
  assert (first[0], second[0]) == (1, 0)


def test_a_full_leaf_passes_on_to_the_next_neighbours(book):
  stems = [code[0] for code in added(book, [[0, 1, 3]] * 7, COLD)]
  # Two are free in (0,), three in (1,); what neither takes goes to the cold item.
  assert stems == [0, 0, 1, 1, 1, 2, 2]


def test_items_nothing_is_known_of_join_the_cold_ones(book):
  assert [code[0] for code in added(book, [[], []], COLD)] == [2, 2]
  # Beside them there is room for four; then the most free tokens count, three in (1,).
  stems = [code[0] for code in added(book, [[]] * 5, COLD)]
  assert stems == [2, 2, 2, 2, 1]


def test_without_cold_items_they_go_where_most_is_free(book):
  assert [code[0] for code in added(book, [[]])] == [2]


def test_the_seed_decides_the_tokens_and_nothing_else(book):
  near = [[0], [4], [4], [], []]
  books = [add(book, near, COLD, seed=seed) for seed in (0, 0, 1, 2, 3)]
  assert books[0].sha256 == books[1].sha256
  assert len({book.sha256 for book in books}) > 2
  assert len({tuple(book.items_IL[:, 0]) for book in books}) == 1


def test_a_book_may_grow_again(book):
  larger = add(add(book, [[0], []], COLD), [[4], [6]], COLD, seed=1)
  assert strip(larger.items_IL)[: len(OLD)] == OLD
  assert [code[0] for code in strip(larger.items_IL)[len(OLD) :]] == [0, 2, 1, 0]
  assert larger.manifest == {"kind": "x", "added": 4}
  assert add(book, [], COLD).sha256 == book.sha256


def test_no_more_items_than_the_tables_hold(book):
  assert len(add(book, [[0], [4]], COLD, capacity=8).items_IL) == 8
  with pytest.raises(UserError, match="3 new ones exceed the capacity of 8"):
    add(book, [[0], [4], [4]], COLD, capacity=8)


def test_a_full_book_says_how_many_found_no_code(book):
  # There are 9 free codes: 2, 3 and 4.
  assert len(added(book, [[0]] * 9, COLD)) == 9
  with pytest.raises(UserError, match="no free code for 2 of 11 new items; build"):
    add(book, [[0]] * 11, COLD)


def test_a_book_of_one_token_an_item_has_no_free_code():
  book = codes.code_book(*plain.independent_ids(make_log([[0, 1]], 3)), {})
  with pytest.raises(UserError, match="no free code for 1 of 1 new items"):
    add(book, [[1]])


@pytest.mark.parametrize("neighbour", [-1, 6])
def test_a_neighbour_that_is_no_item_is_one_line(neighbour):
  items_IL = np.arange(12).reshape(6, 2) % 4
  items_IL[:, 0] = np.arange(6) // 2
  book = codes.code_book(items_IL, np.array([[0]]), {})
  with pytest.raises(UserError, match=f"neighbour outside .* 6 items: .*{neighbour}"):
    grow.add_items(book, [[0, neighbour]], np.zeros(6, bool), capacity=9, seed=0)


# Items without training interactions, beside their like.


@pytest.mark.parametrize("kind", BOOKS)
@given(data=st.data())
def test_cold_items_are_placed_as_if_they_were_new(kind, data):
  book, _, cold, seed = grown(data.draw, BOOKS[kind])
  number = len(book.items_IL)
  sets = st.lists(st.sets(st.integers(0, 5)), min_size=number, max_size=number)
  attributes = [np.array(sorted(row), np.int64) for row in data.draw(sets)]
  cold_I = np.isin(np.arange(number), sorted(cold))
  nearest = grow.by_attributes(
    attributes, np.flatnonzero(cold_I), np.flatnonzero(~cold_I), grow.NEIGHBOURS
  )
  like = {item: near.tolist() for item, near in zip(sorted(cold), nearest) if len(near)}
  stay = [item for item in range(number) if item not in like]
  others = codes.code_book(book.items_IL[stay], book.users_UL, {})
  near = [[stay.index(item) for item in items] for items in like.values()]
  still_cold = [stay.index(item) for item in sorted(cold - like.keys())]
  try:
    larger = add(others, near, still_cold, seed=seed)
  except UserError as error:
    with pytest.raises(UserError, match=str(error)):
      grow.place_cold(book, cold_I, attributes, seed=seed)
    return
  placed = grow.place_cold(book, cold_I, attributes, seed=seed)
  wanted = dict(zip([*stay, *like], strip(larger.items_IL)))
  assert strip(placed.items_IL) == [wanted[item] for item in range(number)]
  # All the others keep theirs, the users too, and the model its vocabulary.
  before = strip(book.items_IL)
  assert all(wanted[item] == before[item] for item in stay)
  np.testing.assert_array_equal(placed.users_UL, book.users_UL)
  assert placed.vocab_size == book.vocab_size
  check(placed.items_IL, placed.users_UL, make_log([[]] * len(book.users_UL), number))


def placed_of_old(attributes, cold):
  """The codes after that, and the book: `OLD`, with users of other tokens' numbers."""
  book = codes.code_book(np.array(OLD), np.array([[0], [1]]), {"kind": "x"})
  rows = [np.array(row, np.int64) for row in attributes]
  cold_I = np.isin(np.arange(len(OLD)), cold)
  book = grow.place_cold(book, cold_I, rows, seed=0)
  return strip(book.items_IL), book


def test_a_cold_item_leaves_the_others_for_its_like():
  found, book = placed_of_old([[0], [0], [0], [1], [1], [0]], cold=[5])
  assert found == [*OLD[:5], (0, 6)]
  # The token 7 stands for nothing now; the model has it all the same.
  assert (book.vocab_size, book.items_IL.max()) == (8, 6)
  assert book.manifest == {"kind": "x", "cold_placed": [1, 1]}


def test_cold_items_may_stand_anywhere_in_the_catalogue():
  found, _ = placed_of_old([[0], [1], [1], [0], [0], [1]], cold=[0, 5])
  assert found[1:5] == OLD[1:5]
  assert found[0] in {(1, 4), (1, 5)}
  assert found[5] in {(0, 3), (0, 6)}


def test_an_item_of_which_nothing_is_known_stays_where_it_is():
  found, _ = placed_of_old([[0], [0], [0], [1], [1], []], cold=[5])
  assert found == OLD
  found, _ = placed_of_old([[0], [0], [0], [1], [1], [2]], cold=[5])
  assert found == OLD


def test_where_all_are_cold_or_none_nothing_moves(book):
  attributes = [np.array([0])] * len(OLD)
  none, every = np.zeros(len(OLD), bool), np.ones(len(OLD), bool)
  assert grow.place_cold(book, none, attributes, seed=0) is book
  assert grow.place_cold(book, every, attributes, seed=0).sha256 == book.sha256


def test_nothing_known_of_any_item_is_one_line(book):
  with pytest.raises(UserError, match=r"needs item_attributes\.json"):
    grow.place_cold(book, np.zeros(len(OLD), bool), None, seed=0)


@pytest.mark.slow
def test_on_toys_attributes_find_an_items_cluster(data_dir, tmp_path):
  fields = {"data.dir": str(data_dir), "split.withheld": 0.02}
  config = config_lib.load("toys:tiny", overrides=fields)
  dataset = datasets.load(config)
  train = splits.leave_one_out(dataset.log).train
  book = build.code_book(config.ids, train, 0, tmp_path)
  bought_I = np.bincount(train.item_E, minlength=train.num_items) > 0
  cold_I = splits.make(config.split, dataset.log).withheld_I & bought_I
  placed = grow.place_cold(book, cold_I, dataset.attributes, seed=0)
  own, given = book.items_IL[cold_I, 0], placed.items_IL[cold_I, 0]
  chance = (own[:, None] == book.items_IL[None, ~cold_I, 0]).mean()
  # Measured: 51 of 237, where chance has 5.
  assert (own == given).mean() > 5 * chance
