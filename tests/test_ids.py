"""Plain ids, code books, and books by configuration."""

import dataclasses
import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from small_logs import check, make_log

from lightlm_jax.config import schema
from lightlm_jax.data import interactions, splits
from lightlm_jax.data.synthetic import Shop, item_attributes, make_shop
from lightlm_jax.ids import build, codes, grow, plain
from lightlm_jax.runtime.errors import UserError

SMALL_SHOP = Shop(num_users=200, num_items=60, num_categories=4, num_shelves=12)


# RID, SID, IID.


def digits(table_NL, base):
  """The numbers that a table of digits writes, places told by token ranges."""
  place_L = np.arange(table_NL.shape[1]) * base
  digit_NL = table_NL - place_L
  assert ((digit_NL >= 0) & (digit_NL < base)).all()
  return [int(sum(d * base**p for p, d in enumerate(row[::-1]))) for row in digit_NL]


SIZES = st.integers(1, 70)


@given(SIZES, SIZES, st.integers(2, 80), st.integers(0, 99))
def test_random_ids_write_a_permutation(num_items, num_users, base, seed):
  log = make_log([[0]] * num_users, num_items)
  items, users = plain.random_ids(log, base, seed)
  check(items, users, log)
  assert users.min() > items.max()
  for table, size in ((items, num_items), (users - items.max() - 1, num_users)):
    assert sorted(digits(table, base)) == list(range(size))
    length = table.shape[1]
    assert base**length >= size
    assert length == 1 or base ** (length - 1) < size


def test_random_ids_depend_on_the_seed_alone():
  log = make_log([[0]] * 50, 50)
  first, again, other = (plain.random_ids(log, 10, seed) for seed in (0, 0, 1))
  for a, b, c in zip(first, again, other):
    np.testing.assert_array_equal(a, b)
    assert (a == c).all(axis=1).mean() < 0.2
  # Items and users do not share an order.
  assert (first[0] == first[1] - first[0].max() - 1).all(axis=1).mean() < 0.2


def test_sequential_ids_number_by_first_appearance():
  log = make_log([[4, 2, 4], [5], [2, 0]], num_items=7)
  items, users = plain.sequential_ids(log, base=3)
  check(items, users, log)
  assert [digits(items, 3)[item] for item in (4, 2, 5, 0, 1, 3, 6)] == list(range(7))
  assert users.min() > items.max()
  assert digits(users - items.max() - 1, 3) == [0, 1, 2]


@given(st.lists(st.lists(st.integers(0, 8), max_size=5), min_size=1), st.integers(2, 5))
def test_sequential_ids_of_any_log(rows, base):
  log = make_log(rows, num_items=9)
  items, users = plain.sequential_ids(log, base)
  check(items, users, log)
  seen = list(dict.fromkeys(item for row in rows for item in row))
  number_I = digits(items, base)
  assert [number_I[item] for item in seen] == list(range(len(seen)))
  assert [number_I[item] for item in range(9) if item not in seen] == list(
    range(len(seen), 9)
  )


def test_independent_ids_are_one_token():
  log = make_log([[0], [1, 1], [2]], num_items=4)
  items, users = plain.independent_ids(log)
  check(items, users, log)
  assert items.shape == (4, 1)
  assert users.shape == (3, 1)
  assert not set(items.ravel()) & set(users.ravel())


# Books.


@pytest.mark.parametrize(
  ("items", "users", "complaint"),
  [
    ([[1, 2], [3, 4], [1, 2]], [[0]], r"items 0 and 2 have the same code \[1, 2\]"),
    ([[1, -1], [0, 0], [1, -1]], [[0]], r"items 0 and 2 have the same code"),
    ([[1, -1, 2], [3, 4, 5]], [[0]], "a code of the items has a hole"),
    ([[1]], [[0, 1, 2], [0, -1, 2]], "a code of the users has a hole"),
    ([[1], [-1]], [[0]], "item 1 has an empty code"),
    ([[1]], [[0], [2], [-1]], "user 2 has an empty code"),
  ],
)
def test_a_wrong_book_is_refused(items, users, complaint):
  with pytest.raises(UserError, match=complaint):
    codes.code_book(np.array(items), np.array(users), {})


def test_users_may_share_a_code():
  book = codes.code_book(np.array([[1, 2]]), np.array([[7], [7]]), {})
  assert book.vocab_size == 8


def test_the_digest_sees_shape_and_order():
  tables = [
    ([[1, 2], [3, 4]], [[0]]),
    ([[3, 4], [1, 2]], [[0]]),
    ([[1], [2], [3], [4]], [[0]]),
    ([[1, 2, -1], [3, 4, -1]], [[0]]),
    ([[1, 2], [3, 4]], [[5]]),
  ]
  books = [codes.code_book(np.array(i), np.array(u), {}) for i, u in tables]
  assert len({book.sha256 for book in books}) == len(books)
  same = codes.code_book(np.array(tables[0][0], np.int64), np.array([[0]]), {"a": 1})
  assert same.sha256 == books[0].sha256


@pytest.fixture
def book():
  rng = np.random.default_rng(0)
  items_IL = rng.permutation(60).reshape(20, 3)
  items_IL[::2, 2] = -1
  return codes.code_book(items_IL, np.arange(6).reshape(3, 2), {"kind": "x", "n": [1]})


def test_a_saved_book_comes_back(book, tmp_path):
  folder = tmp_path / "deep" / "folder"
  assert codes.load(folder) is None
  codes.save(book, folder)
  again = codes.load(folder)
  np.testing.assert_array_equal(again.items_IL, book.items_IL)
  np.testing.assert_array_equal(again.users_UL, book.users_UL)
  assert (again.vocab_size, again.manifest) == (book.vocab_size, book.manifest)
  assert again.sha256 == book.sha256
  # The manifest on disk says what a person may compare.
  manifest = json.loads((folder / "manifest.json").read_text())
  assert manifest["sha256"] == book.sha256


@pytest.mark.parametrize("name", ["codes.npz", "manifest.json"])
def test_a_damaged_book_is_none(book, tmp_path, name):
  codes.save(book, tmp_path)
  path = tmp_path / name
  whole = path.read_bytes()
  for length in range(0, len(whole), 7):
    path.write_bytes(whole[:length])
    assert codes.load(tmp_path) is None, length
  path.unlink()
  assert codes.load(tmp_path) is None
  path.write_bytes(whole)
  assert codes.load(tmp_path).sha256 == book.sha256


def test_an_altered_table_is_none_or_whole(book, tmp_path):
  codes.save(book, tmp_path)
  path = tmp_path / "codes.npz"
  whole = bytearray(path.read_bytes())
  refused = 0
  for place in range(len(whole)):
    altered = whole.copy()
    altered[place] ^= 0x21
    path.write_bytes(altered)
    loaded = codes.load(tmp_path)
    refused += loaded is None
    assert loaded is None or loaded.sha256 == book.sha256
  assert refused > len(whole) // 2


def test_a_book_of_other_arrays_with_their_digest_is_none(book, tmp_path):
  changes = [
    {"items_IL": book.items_IL.astype(np.int64)},
    {"items_IL": book.items_IL[:, 0]},
    {"items_IL": book.items_IL[:0]},
    {"items_IL": np.where(np.arange(3) == 0, -1, book.items_IL).astype(np.int32)},
    {"users_UL": book.users_UL.astype(str)},
    {"users_UL": book.users_UL[:, :0]},
    {"vocab_size": 2**40},
    {"vocab_size": "many"},
  ]
  for change in changes:
    other = dataclasses.replace(book, **change)
    kept = (
      other if "vocab_size" in change else dataclasses.replace(other, vocab_size=60)
    )
    codes.save(kept, tmp_path)
    assert codes.load(tmp_path) is None, change
  codes.save(book, tmp_path)
  assert codes.load(tmp_path) is not None


def test_tables_of_another_book_are_none(book, tmp_path):
  codes.save(book, tmp_path)
  np.savez_compressed(
    tmp_path / "codes.npz", items=book.items_IL[::-1], users=book.users_UL
  )
  assert codes.load(tmp_path) is None


# Books by configuration.


def ids_config(kind="sci", **options):
  defaults = {"branching": 4, "leaf_size": 10, "levels": 2, "base": 5}
  defaults |= {"tokens": "level", "graph": "bipartite"}
  defaults |= {"quantiser": "product", "gci_levels": 2, "centres": 6, "devices": 1}
  defaults["gcn"] = schema.Gcn(dim=8, layers=1, epochs=2)
  return schema.Ids(**{"kind": kind} | defaults | options)


@pytest.fixture(scope="module")
def small_log():
  return make_shop(SMALL_SHOP)[0]


@pytest.fixture
def train(small_log):
  return splits.leave_one_out(small_log).train


def raw_rows(log):
  return {
    user: log.item_ids[log.row(u)].tolist()
    for u, user in enumerate(log.user_ids.tolist())
  }


def exchange(rows, places, seed=0):
  """The items on these places of the rows, dealt anew among the users."""
  dealt = [row[place] for row in rows.values() for place in places]
  dealt = iter(np.random.default_rng(seed).permutation(dealt).tolist())
  exchanged = {user: list(row) for user, row in rows.items()}
  for row in exchanged.values():
    for place in places:
      row[place] = next(dealt)
  return exchanged


@pytest.mark.parametrize("kind", build.KINDS)
def test_held_out_items_reach_no_code(small_log, tmp_path, kind):
  rows = raw_rows(small_log)
  books = []
  for version, places in enumerate(([], [-1], [-1, -2], [0])):
    log = interactions.from_sequences(exchange(rows, places).items())
    split = splits.leave_one_out(log)
    cache = tmp_path / str(version)  # none is read back
    books.append(build.code_book(ids_config(kind), split.train, 0, cache))
    # Nothing that was sold left the catalogue; nothing else is in it.
    assert set(log.item_ids) == {item for row in rows.values() for item in row}
    assert (raw_rows(log) == rows) == (not places)
  original, test_exchanged, both_exchanged, train_exchanged = books
  for book in (test_exchanged, both_exchanged):
    assert book.sha256 == original.sha256
    assert book.items_IL.tobytes() == original.items_IL.tobytes()
    assert book.users_UL.tobytes() == original.users_UL.tobytes()
    assert book.manifest == original.manifest
  # The same exchange among training items is seen by those kinds that look.
  assert (train_exchanged.sha256 != original.sha256) == (kind in ("sci", "gci", "sid"))


@pytest.mark.parametrize("kind", build.KINDS)
def test_a_book_says_how_it_was_made(train, tmp_path, kind):
  book = build.code_book(ids_config(kind), train, 0, tmp_path)
  check(book.items_IL, book.users_UL, train)
  assert book.manifest["kind"] == kind
  assert book.manifest["interactions"] == len(train.item_E)


@pytest.fixture
def builds(monkeypatch):
  """Counts what is built; a book that is read is not."""
  calls = []
  random_ids = plain.random_ids

  def counted(*args):
    calls.append(args)
    return random_ids(*args)

  monkeypatch.setattr(plain, "random_ids", counted)
  return calls


def same_book(a, b):
  return (a.sha256, a.manifest, a.vocab_size) == (b.sha256, b.manifest, b.vocab_size)


def test_an_equal_book_is_read_and_not_built(train, tmp_path, builds):
  first = build.code_book(ids_config("rid"), train, 0, tmp_path)
  again = build.code_book(ids_config("rid"), train, 0, tmp_path)
  assert len(builds) == 1
  assert same_book(first, again)
  # Options of another kind are none of its own.
  build.code_book(ids_config("rid", branching=7), train, 0, tmp_path)
  assert len(builds) == 1


def test_another_option_is_another_folder(train, tmp_path, builds):
  shorter = interactions.keep_rows(train, np.arange(train.num_users) > 0)
  turned = dataclasses.replace(train, item_E=train.item_E[::-1])
  asked = [
    (ids_config("rid"), train, 0),
    (ids_config("rid", base=6), train, 0),
    (ids_config("rid"), train, 1),
    (ids_config("rid"), shorter, 0),
    (ids_config("rid"), turned, 0),
  ]
  for number, (config, log, seed) in enumerate(asked, start=1):
    build.code_book(config, log, seed, tmp_path)
    assert len(builds) == len(list(tmp_path.iterdir())) == number
  build.code_book(ids_config("sid"), train, 0, tmp_path)
  assert len(list(tmp_path.iterdir())) == len(asked) + 1


def test_a_damaged_book_is_built_anew(train, tmp_path, builds):
  first = build.code_book(ids_config("rid"), train, 0, tmp_path)
  (path,) = tmp_path.glob("*/codes.npz")
  whole = path.read_bytes()
  path.write_bytes(whole[: len(whole) // 2])
  assert same_book(build.code_book(ids_config("rid"), train, 0, tmp_path), first)
  assert len(builds) == 2
  assert same_book(build.code_book(ids_config("rid"), train, 0, tmp_path), first)
  assert len(builds) == 2


def test_cold_items_are_placed_where_the_config_wants_it(train, tmp_path, builds):
  cold_I = np.bincount(train.item_E, minlength=train.num_items) == 0
  assert cold_I.any()
  attributes = item_attributes(train)
  apart = build.code_book(ids_config("rid"), train, 3, tmp_path)
  config = ids_config("rid", cold="apart")
  assert same_book(build.book_of_run(config, train, None, 3, tmp_path), apart)
  config = ids_config("rid", cold="attributes")
  placed = build.book_of_run(config, train, attributes, 3, tmp_path)
  assert same_book(placed, grow.place_cold(apart, cold_I, attributes, seed=3))
  assert placed.sha256 != apart.sha256
  assert placed.manifest == apart.manifest | {"cold_placed": [cold_I.sum()] * 2}
  # What is kept is the book of training alone.
  assert len(builds) == 1
  with pytest.raises(UserError, match=r"needs item_attributes\.json"):
    build.book_of_run(config, train, None, 3, tmp_path)


def test_cold_items_of_one_token_stand_beside_nothing(train, tmp_path):
  config = ids_config("iid", cold="attributes")
  with pytest.raises(UserError, match=r"choose another config\.ids\.kind"):
    build.book_of_run(config, train, item_attributes(train), 0, tmp_path)


def test_a_cache_that_cannot_be_written_is_done_without(train, tmp_path, builds):
  (tmp_path / "file").write_text("no folder")
  cache = tmp_path / "file" / "cache"
  first = build.code_book(ids_config("rid"), train, 0, cache)
  assert same_book(build.code_book(ids_config("rid"), train, 0, cache), first)
  assert len(builds) == 2
  assert same_book(build.code_book(ids_config("rid"), train, 0, tmp_path / "c"), first)


@pytest.mark.parametrize("kind", build.KINDS)
def test_an_empty_catalogue_is_one_line(tmp_path, kind):
  with pytest.raises(UserError, match="the catalogue is empty"):
    build.code_book(ids_config(kind), make_log([], 0), 0, tmp_path)
