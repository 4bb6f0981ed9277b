"""Logs, files, splits and data sets against plain Python."""

import collections
import dataclasses
import json

from hypothesis import given, settings
from hypothesis import strategies as st
import ml_collections
import numpy as np
import pytest

from lightlm_jax.data import datasets, formats, interactions, splits
from lightlm_jax.data.batch import history_width, request_batch
from lightlm_jax.errors import UserError
from lightlm_jax.evaluation import audit

# Numbers that look alike, and letters of one, two and four bytes.
RAW = st.sampled_from("7 07 007 70 a A ä 𝄞 u-1".split()) | st.text("01x", min_size=1)
LOGS = st.dictionaries(RAW, st.lists(RAW, min_size=1, max_size=6), min_size=1)


def raw_rows(log):
  """The log as it was given: raw user → raw items."""
  return {
    str(user): log.item_ids[log.row(u)].tolist() for u, user in enumerate(log.user_ids)
  }


def same(a, b):
  return all(
    x is y if x is None or y is None else x.dtype == y.dtype and np.array_equal(x, y)
    for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
  )


def timed_rows(log):
  """Raw user → (seconds, raw item), oldest first."""
  items, times = log.item_ids[log.item_E].tolist(), log.time_E.tolist()
  return {
    str(user): list(zip(times, items))[log.offset_U1[u] : log.offset_U1[u + 1]]
    for u, user in enumerate(log.user_ids)
  }


def random_rows(num_users=50, num_items=40, longest=7, seed=0):
  rng = np.random.default_rng(seed)
  return {
    f"u{u}": [f"i{i}" for i in rng.integers(num_items, size=rng.integers(1, longest))]
    for u in range(num_users)
  }


# The one form.


@given(LOGS)
def test_a_log_gives_back_its_rows(rows):
  log = interactions.from_sequences(rows.items())
  assert raw_rows(log) == rows
  bought = {item for items in rows.values() for item in items}
  assert sorted(log.item_ids.tolist()) == sorted(bought)
  assert (log.num_users, log.num_items) == (len(rows), len(bought))
  assert log.item_E.dtype == np.int32
  assert log.length_U.tolist() == [len(rows[user]) for user in log.user_ids.tolist()]
  assert [log.user_ids[user] for user in log.user_E] == [
    user for user, items in raw_rows(log).items() for _ in items
  ]


@given(LOGS, st.randoms(use_true_random=False), st.integers(-(2**63), 2**63 - 1))
def test_numbers_do_not_depend_on_the_order_of_the_rows(rows, random, seed):
  shuffled = list(rows.items())
  random.shuffle(shuffled)
  log = interactions.from_sequences(rows.items(), seed=seed)
  assert same(log, interactions.from_sequences(shuffled, seed=seed))


def test_another_seed_is_another_numbering():
  rows = random_rows()
  log, again, other = (
    interactions.from_sequences(rows.items(), seed=seed) for seed in (0, 0, 1)
  )
  assert same(log, again)
  assert raw_rows(other) == rows
  for a, b in ((log.item_ids, other.item_ids), (log.user_ids, other.user_ids)):
    assert set(a) == set(b)
    assert (a == b).mean() < 0.2


def test_the_default_numbering_stays():
  """Codes, ties and order follow from it: another one makes old runs incomparable."""
  log = interactions.from_sequences([("u", list("abcdefgh"))])
  assert "".join(log.item_ids) == "hfabgecd"


def test_numbers_tell_nothing_of_raw_numbers_or_first_appearance():
  raw_I = np.random.default_rng(0).permutation(2_000)
  log = interactions.from_sequences((f"{i}", [f"{i}"]) for i in raw_I)
  first_I = np.argsort(raw_I)
  for ids in (log.item_ids.astype(int), log.user_ids.astype(int)):
    for number_I in (ids, first_I[ids]):
      correlation = np.corrcoef(number_I, np.arange(2_000))[0, 1]
      assert abs(correlation) < 4 / np.sqrt(2_000)


def test_ids_are_texts():
  log = interactions.from_sequences([("7", ["007", "7", "07"]), ("007", ["7"])])
  assert log.num_items == 3
  assert raw_rows(log) == {"7": ["007", "7", "07"], "007": ["7"]}


@given(LOGS, st.data())
def test_keep_rows_drops_users_and_no_item(rows, data):
  log = interactions.from_sequences(rows.items())
  keep_U = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows))), bool)
  kept = interactions.keep_rows(log, keep_U[: len(rows)])
  wanted = {user: keep for user, keep in zip(log.user_ids.tolist(), keep_U)}
  assert raw_rows(kept) == {user: rows[user] for user in rows if wanted[user]}
  np.testing.assert_array_equal(kept.item_ids, log.item_ids)


@given(LOGS, st.data())
def test_times_go_where_their_items_go(rows, data):
  timed = {
    user: [(data.draw(st.integers(0, 9)), item) for item in items]
    for user, items in rows.items()
  }
  times = [[time for time, _ in row] for row in timed.values()]
  log = interactions.from_sequences(rows.items(), times=times)
  assert log.time_E.dtype == np.int64
  assert timed_rows(log) == timed
  assert same(
    dataclasses.replace(log, time_E=None), interactions.from_sequences(rows.items())
  )

  keep_U = np.array([data.draw(st.booleans()) for _ in rows])
  kept = timed_rows(interactions.keep_rows(log, keep_U))
  assert kept == {user: timed[user] for user in log.user_ids[keep_U].tolist()}

  length_U = np.array([data.draw(st.integers(0, n)) for n in log.length_U])
  first = interactions.first_of_rows(log, length_U)
  assert timed_rows(first) == {
    user: timed[user][:length]
    for user, length in zip(log.user_ids.tolist(), length_U.tolist())
  }

  other, new_U, _ = audit.renumber(log, seed=1)
  assert (other.user_ids[new_U] == log.user_ids).all()
  assert timed_rows(other) == timed


# Files.


@pytest.fixture
def write(tmp_path):
  def write(content):
    path = tmp_path / "sequences.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path

  return write


@pytest.mark.parametrize(
  "content",
  [
    "u1 a b a\nu2 c\n",
    "u1 a b a\nu2 c",
    "u1 a b a\r\nu2 c\r\n",
    "u1 a b a\ru2 c",
    "\n  u1\ta  b a \n\n \nu2 c\n\n",
    b"\xef\xbb\xbfu1 a b a\nu2 c\n",
    "u2 c\nu1 a\x0cb a\n",
  ],
  ids="plain no-end dos mac blank mark form-feed".split(),
)
def test_read_sequences(write, content):
  log = formats.read_sequences(write(content))
  assert raw_rows(log) == {"u1": ["a", "b", "a"], "u2": ["c"]}
  assert same(log, interactions.from_sequences([("u2", ["c"]), ("u1", list("aba"))]))


@pytest.mark.parametrize(
  ("content", "complaint"),
  [
    ("", "is empty"),
    ("\n \n", "is empty"),
    ("u1 a\n\nu2\nu3 b", "line 3: user 'u2' has no items"),
    ("u1 a\r\nu2\r\n", "line 2: user 'u2' has no items"),
    ("u1 a\nu2 b\n\nu1 c", "line 4: user 'u1' already stands in line 1"),
    ("u1 a\nu2 b\0", "line 2: a NUL byte"),
    ("u1 a\0 b", "line 1: a NUL byte"),
    (b"u1 \xe4pfel", "byte 3 is not UTF-8"),
    ("u1 a\n".encode("utf-16"), "byte 0 is not UTF-8"),
  ],
)
def test_read_sequences_complains(write, content, complaint):
  path = write(content)
  with pytest.raises(UserError, match=complaint) as error:
    formats.read_sequences(path)
  assert str(error.value).startswith(str(path))
  assert "\n" not in str(error.value)


def test_read_sequences_without_a_file(tmp_path):
  with pytest.raises(UserError, match=r"nothing\.txt does not exist"):
    formats.read_sequences(tmp_path / "nothing.txt")
  with pytest.raises(UserError, match="cannot read"):
    formats.read_sequences(tmp_path)


def test_item_titles_follow_the_catalogue(tmp_path):
  path, item_ids = tmp_path / "items.tsv", np.array(["7", "007", "b", "c"])
  assert formats.read_item_titles(path, item_ids) is None
  path.write_bytes(
    "item_id\ttext\nb\tä bear\n007\tx\tseven\nz\tother\n7\t7 up".encode()
  )
  assert formats.read_item_titles(path, item_ids) == ["7 up", "seven", "ä bear", ""]
  path.write_bytes(b"item_id\ttext\nb\t\xe4 bear\n")
  with pytest.raises(UserError, match=r"items\.tsv: byte 15 is not UTF-8"):
    formats.read_item_titles(path, item_ids)


HEADER = "user-id\titem-id\trating\ttimestamp\n"
RATED = "u2\tc\t1\t30\nu1\ta\t3\t20\nu1\tb\t2.5\t10\nu1\tA\t5\t20\n"


@pytest.mark.parametrize(
  "content",
  [
    RATED,
    HEADER + RATED,
    "a\tb\tc\td\n" + RATED,
    RATED.rstrip(),
    RATED.replace("\n", "\r\n"),
    "\ufeff" + HEADER + RATED,
    "\n" + RATED + " \n",
    # Lines of different times may stand in any order; of equal times, the first goes
    # before.
    "u1\tb\t1\t10\nu1\ta\t3\t020\nu1\tA\t1e0\t 20\nu2\tc\t1\t30",
  ],
  ids="plain header other-header no-end dos mark blank order".split(),
)
def test_read_ratings(write, content):
  log = formats.read_ratings(write(content))
  assert timed_rows(log) == {"u1": [(10, "b"), (20, "a"), (20, "A")], "u2": [(30, "c")]}
  rows = [("u1", ["b", "a", "A"]), ("u2", ["c"])]
  assert same(log, interactions.from_sequences(rows, times=[[10, 20, 20], [30]]))


def test_equal_times_stand_as_the_lines_do(write):
  """Not as the items' names do, and however many of them there are."""
  lines = [f"u\t{item}\t1\t5" for item in np.random.default_rng(0).permutation(500)]
  log = formats.read_ratings(write("\n".join(lines)))
  assert raw_rows(log)["u"] == [line.split("\t")[1] for line in lines]


@pytest.mark.parametrize(
  ("content", "complaint"),
  [
    ("", "is empty"),
    (HEADER, "is empty"),
    ("u\ta\t3\t5\nu a 3 5\n", "line 2: 'u a 3 5' is not"),
    ("u\ta\t3\n", "line 1: .* four fields"),
    (HEADER + "u\ta\t3\t5\t7\n", "line 2: .* four fields"),
    ("u\t\t3\t5\n", "line 1: .* four fields"),
    ("u\ta\0\t3\t5\n", "line 1: .* four fields"),
    (HEADER + RATED + HEADER, "line 6: rating 'rating' and time 'timestamp'"),
    ("u\ta\t3\tx\n", "line 1: rating '3' and time 'x'"),
    ("u\ta\tx\t3\n", "line 1: rating 'x' and time '3'"),
    ("u\ta\tnan\t3\n", "line 1: rating 'nan'"),
    ("u\ta\t3\t5.5\n", "time '5.5' must be"),
    ("u\ta\t3\t-5\n", "time '-5' must be"),
    ("u\ta\t3\t881250949000\n", "time '881250949000' must be .*whole seconds"),
    (f"u\ta\t3\t{'9' * 5000}\n", "whole seconds"),
    ("u\ta\t3\t٣\n", "whole seconds"),
    (b"u\t\xe4\t3\t5\n", "byte 2 is not UTF-8"),
  ],
)
def test_read_ratings_complains(write, content, complaint):
  path = write(content)
  with pytest.raises(UserError, match=complaint) as error:
    formats.read_ratings(path)
  assert str(error.value).startswith(str(path))
  assert "\n" not in str(error.value)


def test_read_ratings_without_a_file(tmp_path):
  with pytest.raises(UserError, match=r"u\.data does not exist"):
    formats.read_ratings(tmp_path / "u.data")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_film_titles_follow_the_catalogue(tmp_path, encoding):
  path, item_ids = tmp_path / "u.item", np.array(["2", "543", "9"])
  assert formats.read_film_titles(path, item_ids) is None
  text = "movie id | movie title | date\n543|Misérables, Les (1995)|1995|x\n7|Z|\n2|A"
  path.write_bytes(text.encode(encoding))
  titles = formats.read_film_titles(path, item_ids)
  assert titles == ["A", "Misérables, Les (1995)", ""]


ATTRIBUTE = st.integers(-3, 12) | st.sampled_from(["3", "é", "", "a b", "\ud800"])


@given(st.dictionaries(RAW, st.lists(ATTRIBUTE)), st.lists(RAW, unique=True))
def test_attributes_follow_the_catalogue(tmp_path_factory, listed, items):
  path = tmp_path_factory.mktemp("data") / "item_attributes.json"
  path.write_text(json.dumps(listed))
  rows = formats.read_item_attributes(path, np.array(items, np.str_))
  wanted = [{str(a) for a in listed.get(item, ())} for item in items]
  # One number for each name, and each name that the catalogue has is numbered.
  names = set().union(*wanted)
  assert {a for row in rows for a in row.tolist()} == set(range(len(names)))
  for name in names:
    shared = set.intersection(
      *(set(r.tolist()) for r, w in zip(rows, wanted) if name in w)
    )
    assert any(
      [a in row for row in rows] == [name in row for row in wanted] for a in shared
    )
  for row, names in zip(rows, wanted):
    assert row.dtype == np.int64
    assert len(row) == len(names)
    assert sorted(set(row.tolist())) == row.tolist()


def test_attributes_by_hand(tmp_path):
  path, item_ids = tmp_path / "item_attributes.json", np.array(["2", "x", "9"])
  assert formats.read_item_attributes(path, item_ids) is None
  path.write_text('\ufeff{"9": [7, "ä", 7], "2": ["7"], "none": [1, 2]}', "utf-8")
  two, x, nine = formats.read_item_attributes(path, item_ids)
  assert (two.tolist(), x.tolist(), nine.tolist()) == ([0], [], [0, 1])


@pytest.mark.parametrize(
  ("content", "complaint"),
  [
    ("", "is not JSON"),
    ('{"a": [1]', "is not JSON .*line 1"),
    ("[" * 100_000, "is not JSON"),
    ('["a"]', "holds no JSON object"),
    ("null", "holds no JSON object"),
    ('{"a": [1], "b": 2}', "item 'b': 2 is no list of whole numbers or texts"),
    ('{"a": "x"}', "item 'a': \"x\" is no list"),
    ('{"a": [1.5]}', "is no list"),
    ('{"a": [true]}', "is no list"),
    ('{"a\\n": [[1]]}', r"item 'a\\n': \[\[1\]\] is no list"),
    (b'{"\xe4": []}', "byte 2 is not UTF-8"),
  ],
)
def test_read_item_attributes_complains(write, content, complaint):
  path = write(content)
  with pytest.raises(UserError, match=complaint) as error:
    formats.read_item_attributes(path, np.array(["a"]))
  assert str(error.value).startswith(str(path))
  assert "\n" not in str(error.value)


# Splits.


def question(requests, log):
  """Raw user → (raw history, raw target)."""
  return {
    str(log.user_ids[user]): (
      log.item_ids[requests.row(n)].tolist(),
      str(log.item_ids[requests.target_N[n]]),
    )
    for n, user in enumerate(requests.user_N)
  }


@given(LOGS)
def test_leave_one_out(rows):
  log = interactions.from_sequences(rows.items())
  split = splits.leave_one_out(log)
  asked = {user: items for user, items in rows.items() if len(items) >= 3}
  assert raw_rows(split.train) == {
    user: items[:-2] if user in asked else items for user, items in rows.items()
  }
  np.testing.assert_array_equal(split.train.item_ids, log.item_ids)
  np.testing.assert_array_equal(split.train.user_ids, log.user_ids)
  assert len(split.validation) == len(split.test) == len(asked)
  assert question(split.validation, log) == {
    user: (items[:-2], items[-2]) for user, items in asked.items()
  }
  assert question(split.test, log) == {
    user: (items[:-1], items[-1]) for user, items in asked.items()
  }


def test_leave_one_out_by_hand():
  rows = {"one": ["a"], "two": ["a", "b"], "three": ["a", "b", "c"]}
  log = interactions.from_sequences(rows.items())
  split = splits.leave_one_out(log)
  assert raw_rows(split.train) == {"one": ["a"], "two": ["a", "b"], "three": ["a"]}
  assert split.train.num_items == 3
  assert question(split.validation, log) == {"three": (["a"], "b")}
  assert question(split.test, log) == {"three": (["a", "b"], "c")}


def test_nobody_to_ask():
  log = interactions.from_sequences([("one", ["a"]), ("two", ["a", "b"])])
  split = splits.leave_one_out(log)
  assert same(split.train, log)
  assert len(split.validation) == len(split.test) == 0


def test_everything_is_trained_on():
  log = interactions.from_sequences(random_rows().items())
  split = splits.everything(log)
  assert same(split.train, log)
  assert split.validation is None
  assert split.test is None
  assert splits.SPLITS[split.kind] is splits.everything


@given(LOGS, st.data())
def test_take(rows, data):
  test = splits.leave_one_out(interactions.from_sequences(rows.items())).test
  places = st.integers(0, len(test) - 1) if len(test) else st.nothing()
  index = np.array(data.draw(st.lists(places)), int)
  taken = test.take(index)
  assert len(taken) == len(index)
  for n, place in enumerate(index):
    assert taken.user_N[n] == test.user_N[place]
    assert taken.target_N[n] == test.target_N[place]
    assert taken.row(n).tolist() == test.row(place).tolist()
  assert taken.length_N.sum() == len(taken.item_E)


def test_the_digest_names_data_and_kind():
  rows = random_rows()
  last = list(rows)[-1]
  others = [
    rows | {last: [*rows[last], "i1"]},
    rows | {last: [*rows[last][:-1], "new"]},
    {user: items for user, items in rows.items() if user != last} | {"v": rows[last]},
    rows | {"more": ["i1"]},
    {user: items[::-1] for user, items in rows.items()},
  ]
  digests = [
    split(interactions.from_sequences(data.items())).sha256
    for data in [rows, *others]
    for kind, split in splits.SPLITS.items()
    if kind != "temporal"  # wants times; tests/test_splits.py
  ]
  assert len(set(digests)) == len(digests)


def test_the_digest_names_users_items_and_boundaries():
  digests = set()
  for users, first in ((["u"], 3), (["v"], 3), (["u", "v"], 1), (["u", "v"], 2)):
    for items in ("abc", "abd"):
      users = interactions.from_sequences((user, "a") for user in users).user_ids
      parts = [list(items[:first]), list(items[first:])]
      # The same items in the same order, whichever user the numbering puts first.
      log = interactions.from_sequences(zip(users.tolist(), parts))
      assert "".join(log.item_ids[log.item_E]) == items
      digests.add(splits.everything(log).sha256)
  assert len(digests) == 8


def test_the_digest_does_not_see_the_order_of_lines(write):
  rows = random_rows()
  lines = [f"{user} {' '.join(items)}\n" for user, items in rows.items()]
  digests = set()
  for content in ("".join(lines), "".join(lines[::-1])):
    log = formats.read_sequences(write(content))
    digests.add(splits.leave_one_out(log).sha256)
  assert len(digests) == 1


# Batches of requests.


@pytest.mark.parametrize(
  ("longest", "most", "width"),
  [(0, None, 5), (5, None, 5), (6, None, 10), (41, None, 80), (41, 20, 20), (3, 2, 2)],
)
def test_history_width(longest, most, width):
  assert history_width(longest, most) == width


@settings(max_examples=30)
@given(st.integers(1, 8), st.integers(0, 2**32 - 1))
def test_request_batch_is_right_aligned_and_filled_up(width, seed):
  log = interactions.from_sequences(random_rows(seed=seed).items())
  test = splits.leave_one_out(log).test
  rng = np.random.default_rng(seed)
  index = rng.integers(len(test), size=rng.integers(0, 7))
  batch = request_batch(test, index, batch_size=6, width=width)
  for b in range(6):
    if b >= len(index):
      row, user, target, weight = [], -1, -1, 0.0
    else:
      row, weight = test.row(index[b])[-width:].tolist(), 1.0
      user, target = test.user_N[index[b]], test.target_N[index[b]]
    assert batch.history_BH[b].tolist() == [-1] * (width - len(row)) + row
    assert batch.segment_BH[b].tolist() == [0] * (width - len(row)) + [1] * len(row)
    assert (batch.user_B[b], batch.target_B[b]) == (user, target)
    assert batch.weight_B[b] == weight
  assert {array.dtype.name for array in batch} == {"int32", "float32"}


# Data sets by configuration.


def data_config(name="toys", folder="", min_len=1, **shop):
  data = {"name": name, "dir": str(folder), "min_len": min_len, "shop": shop}
  return ml_collections.ConfigDict({"data": data})


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "toys").mkdir()
  (tmp_path / "toys" / "sequences.txt").write_text("u1 a b c\nu2 b\nu3 c a\n")
  return tmp_path


@pytest.mark.parametrize("environment", [None, ""])
def test_no_data_folder_was_named(monkeypatch, environment):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  if environment is not None:
    monkeypatch.setenv("LIGHTLM_DATA_DIR", environment)
  with pytest.raises(UserError) as error:
    datasets.load(data_config())
  message = str(error.value)
  for word in ("toys/sequences.txt", "LIGHTLM_DATA_DIR", "data.dir", "configs/demo.py"):
    assert word in message
  assert "\n" not in message


def test_the_folder_lacks_the_data_set(monkeypatch, folder):
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(folder))
  missing = str(folder / "beauty" / "sequences.txt")
  with pytest.raises(UserError, match="does not exist") as error:
    datasets.load(data_config("beauty"))
  assert missing in str(error.value)
  assert "configs/demo.py" in str(error.value)


def test_the_config_goes_before_the_environment(monkeypatch, folder, tmp_path):
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(tmp_path / "elsewhere"))
  dataset = datasets.load(data_config(folder=folder))
  assert raw_rows(dataset.log) == {"u1": list("abc"), "u2": ["b"], "u3": ["c", "a"]}
  assert dataset.titles is None
  assert dataset.tastes is dataset.attributes is None
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(folder))
  assert same(datasets.load(data_config()).log, dataset.log)


def test_titles_come_with_the_log(folder):
  (folder / "toys" / "items.tsv").write_text("id\ttext\na\tant\nb\tbear\nc\tcat\n")
  log, titles, *_ = datasets.load(data_config(folder=folder))
  assert dict(zip(log.item_ids.tolist(), titles)) == {
    "a": "ant",
    "b": "bear",
    "c": "cat",
  }


def test_attributes_come_with_the_log(folder):
  (folder / "toys" / "item_attributes.json").write_text('{"c": [5], "a": ["x", 5]}')
  dataset = datasets.load(data_config(folder=folder, min_len=2))
  rows = dict(zip(dataset.log.item_ids.tolist(), map(set, dataset.attributes)))
  assert rows["c"] < rows["a"] == {0, 1}
  assert rows["b"] == set()


def test_min_len(folder):
  kept = datasets.load(data_config(folder=folder, min_len=2)).log
  assert raw_rows(kept) == {"u1": list("abc"), "u3": ["c", "a"]}
  assert datasets.load(data_config(folder=folder, min_len=3)).log.num_users == 1
  with pytest.raises(UserError, match=r"no user of toys has 4 .*min_len"):
    datasets.load(data_config(folder=folder, min_len=4))


def test_the_demo_needs_no_data(monkeypatch):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  shop = dict(num_users=50, num_items=80, num_categories=5, num_shelves=15)
  log, titles, tastes, attributes = datasets.load(data_config("demo", **shop))
  assert (log.num_users, log.num_items, len(titles)) == (50, 80, 80)
  assert tastes.taste_CI.shape[1] == len(attributes) == 80
  mean = len(log.item_E) / 50
  assert datasets.describe(log).startswith("50 users, 80 items, ")
  assert datasets.describe(log).endswith(f"{mean:.2f} a user")


def test_ratings_are_read_where_there_are_no_sequences(folder):
  shop = folder / "shop"
  shop.mkdir()
  (shop / "u.data").write_text(HEADER + RATED)
  (shop / "u.item").write_bytes("a|ä|\nc|See|".encode("latin-1"))
  log, titles, tastes, attributes = datasets.load(
    data_config("shop", folder=folder, min_len=2)
  )
  assert timed_rows(log) == {"u1": [(10, "b"), (20, "a"), (20, "A")]}
  assert sorted(zip(log.item_ids.tolist(), titles)) == [
    ("A", ""),
    ("a", "ä"),
    ("b", ""),
    ("c", "See"),
  ]
  assert tastes is attributes is None
  (shop / "sequences.txt").write_text("u1 a b\n")
  log = datasets.load(data_config("shop", folder=folder)).log
  assert log.time_E is None
  assert raw_rows(log) == {"u1": ["a", "b"]}


def test_movielens_100k_is_the_published_log(data_dir):
  log, titles, *_ = datasets.load(data_config("ml-100k", folder=data_dir))
  assert (log.num_users, log.num_items, len(log.item_E)) == (943, 1_682, 100_000)
  assert log.length_U.min() == 20
  assert all(titles)
  assert "Misérables, Les (1995)" in titles
  rows = collections.defaultdict(list)
  for line in (data_dir / "ml-100k" / "u.data").read_text().splitlines()[1:]:
    user, item, _, time = line.split()
    rows[user].append((int(time), item))
  # Python's sort is stable: equal times stay as the lines have them.
  assert timed_rows(log) == {
    user: sorted(row, key=lambda rated: rated[0]) for user, row in rows.items()
  }


def test_toys_is_the_published_log(data_dir):
  log, titles, _, attributes = datasets.load(data_config(folder=data_dir))
  assert (log.num_users, log.num_items, len(log.item_E)) == (19_412, 11_924, 167_597)
  assert attributes is None or min(map(len, attributes)) >= 1
  assert log.length_U.min() == 5
  assert np.bincount(log.item_E).min() >= 5
  assert titles is None or sum(map(bool, titles)) > 11_000

  rows = collections.OrderedDict()
  for line in (data_dir / "toys" / "sequences.txt").read_text().splitlines():
    user, *items = line.split()
    rows[user] = items
  assert raw_rows(log) == rows
  test = splits.leave_one_out(log).test
  wanted = {user: (items[:-1], items[-1]) for user, items in rows.items()}
  assert question(test, log) == wanted
