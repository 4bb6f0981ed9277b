"""Readers of files against plain Python, and what they complain of."""

import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from raw_logs import HEADER, RATED, RAW, raw_rows, same, timed_rows

from lightlm_jax.data import formats, interactions
from lightlm_jax.runtime.errors import UserError


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
    ("u1 a\nu2 b\n\nu1 c", "line 4: user 'u1' is already in line 1"),
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


def test_read_sequences_without_a_file(tmp_path):
  with pytest.raises(UserError, match=r"nothing\.txt does not exist"):
    formats.read_sequences(tmp_path / "nothing.txt")
  with pytest.raises(UserError, match="cannot read"):
    formats.read_sequences(tmp_path)


def test_item_titles_follow_the_catalogue(tmp_path):
  path, item_ids = tmp_path / "items.tsv", np.array(["7", "007", "b", "c"])
  assert formats.read_items(path, item_ids) == (None, None)
  path.write_bytes(
    "item_id\ttext\nb\tä bear\n007\tx\tseven\nz\tother\n7\t7 up".encode()
  )
  titles, _ = formats.read_items(path, item_ids)
  assert titles == ["7 up", "seven", "ä bear", ""]
  path.write_bytes(b"item_id\ttext\nb\t\xe4 bear\n")
  with pytest.raises(UserError, match=r"items\.tsv: byte 15 is not UTF-8"):
    formats.read_items(path, item_ids)


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
  if not listed.keys() & set(items):
    with pytest.raises(UserError, match=f"names none of the log's {len(items)} items"):
      formats.read_item_attributes(path, np.array(items, np.str_))
    return
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
