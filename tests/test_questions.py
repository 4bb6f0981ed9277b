"""Raw ids become requests: nobody is lost or asked twice, what is left out is named."""

import json
import re
import types

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from lightlm_jax.data import interactions
from lightlm_jax.inference import queries as queries_lib
from lightlm_jax.runtime.errors import UserError

ROWS = {"anna": ["x", "y"], "bo": ["z"], "cy": ["y", "y", "x", "w"]}
LOG = interactions.from_sequences(ROWS.items())
INDEX = queries_lib.id_index(LOG)
ids = st.sampled_from(["anna", "bo", "cy", "dan", "eve", "7"])
items = st.sampled_from(["w", "x", "y", "z", "?", "!"])


def histories(queries):
  """What is asked, by raw ids."""
  requests = queries.requests
  assert len(requests) == len(queries.names)
  return {
    name: LOG.item_ids[requests.row(n)].tolist()
    for n, name in enumerate(queries.names.tolist())
  }


def test_everyone_is_asked_once_by_the_whole_log():
  everyone = queries_lib.everyone(LOG)
  assert histories(everyone) == ROWS
  assert everyone.names.tolist() == sorted(ROWS)
  users = LOG.user_ids[everyone.requests.user_N].tolist()
  assert users == sorted(ROWS)
  assert (everyone.requests.target_N == -1).all()


@given(st.lists(ids))
def test_users_are_those_of_the_log_in_the_order_given(names):
  found = queries_lib.of_users(INDEX, names)
  once = list(dict.fromkeys(names))
  assert found.names.tolist() == [name for name in once if name in ROWS]
  assert list(found.unknown) == [name for name in once if name not in ROWS]
  assert histories(found) == {name: ROWS[name] for name in once if name in ROWS}


@given(st.dictionaries(ids, st.none() | st.lists(items, max_size=5)))
def test_histories_are_cleaned_and_every_loss_is_counted(rows):
  found = queries_lib.of_histories(INDEX, rows.items())
  catalogue = set(LOG.item_ids.tolist())
  wanted, unknown, empty, dropped = {}, [], [], 0
  for name, row in rows.items():
    if row is None and name in ROWS:
      wanted[name] = ROWS[name]
      continue
    kept = [item for item in row or [] if item in catalogue]
    dropped += len(row or []) - len(kept)
    if kept:
      wanted[name] = kept
    else:
      (empty if row else unknown).append(name)
  assert histories(found) == wanted
  assert (list(found.unknown), list(found.empty)) == (unknown, empty)
  assert found.dropped == dropped
  assert list(found.dropped_of) == [
    name
    for name, row in rows.items()
    if (row is not None or name not in ROWS) and set(row or ()) - catalogue
  ]
  users = [INDEX.users.get(name, -1) for name in wanted]
  assert found.requests.user_N.tolist() == users


def test_what_is_left_out_is_named_and_nothing_left_is_an_error():
  names = ["bo", *(f"u{n}" for n in range(7))]
  (line,) = queries_lib.check(queries_lib.of_users(INDEX, names))
  assert line.startswith("7 users are not in the log")
  assert "'u0', 'u1', 'u2', 'u3', 'u4' and 2 more" in line
  lines = queries_lib.check(
    queries_lib.of_histories(INDEX, [("a", ["x", "?"]), ("b", ["?"])])
  )
  assert ["('b')" in line for line in lines] == [True, False]
  assert lines[1].endswith("2 dropped, of 'a', 'b'")
  with pytest.raises(UserError, match=r"1 user is not in the log.*'eve'.*--history"):
    queries_lib.check(queries_lib.of_users(INDEX, ["eve"]))
  assert queries_lib.check(queries_lib.everyone(LOG)) == []


@given(st.none() | st.lists(items, max_size=6), st.none() | st.lists(items, max_size=6))
def test_lists_open_what_is_allowed_and_not_denied(allow, deny):
  catalogue = LOG.item_ids.tolist()
  wanted = {
    item
    for item in catalogue
    if (allow is None or item in allow) and item not in (deny or [])
  }
  if not wanted:
    with pytest.raises(UserError, match="leave none of the 4 items"):
      queries_lib.allowed_items(INDEX, allow, deny)
    return
  open_I, lost = queries_lib.allowed_items(INDEX, allow, deny)
  strange = [set(ids or ()) - set(catalogue) for ids in (allow, deny)]
  assert len(lost) == sum(map(len, strange))
  assert set(lost) == set().union(*strange)
  if allow is None and deny is None:
    assert open_I is None
  else:
    assert set(LOG.item_ids[open_I].tolist()) == wanted


def test_ids_come_from_the_command_line_or_a_file(tmp_path):
  path = tmp_path / "ids.txt"
  path.write_text("a, b\n\n  c\n", encoding="utf-8-sig")
  assert queries_lib.read_ids("users", str(path)) == ["a, b", "c"]
  assert queries_lib.read_ids("users", "a, b,,c") == ["a", "b", "c"]
  with pytest.raises(UserError, match="has no ids"):
    queries_lib.read_ids("users", ",")
  long = ",".join(f"user{n}" for n in range(2_000))
  assert len(queries_lib.read_ids("users", long)) == 2_000


STRANGE = ["Zk1/xQ==", "cat/12", "a+1==", "-dash", "--users", "@at", "~", "~root/x"]
STRANGE += ["/", "..", "a//b", "gs://b/x", "s3://b/y", "http://x/?a=1&b=2", "no://x"]


@pytest.mark.parametrize("raw", STRANGE)
def test_an_id_may_look_like_a_path_or_a_flag(raw):
  assert queries_lib.read_ids("deny", raw) == [raw]
  assert queries_lib.read_ids("deny", f"{raw}, b") == [raw, "b"]


def test_a_file_of_that_name_is_read_and_a_folder_is_not(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "cat" / "7").mkdir(parents=True)
  (tmp_path / "cat" / "12").write_text("Smith, John\n@at\n")
  assert queries_lib.read_ids("users", "cat/12") == ["Smith, John", "@at"]
  assert queries_lib.read_ids("users", "cat/7") == ["cat/7"]
  assert queries_lib.read_ids("users", "cat/12,cat/7") == ["cat/12", "cat/7"]


def test_ids_of_lists_that_nobody_knows_are_named():
  queries, system = queries_lib.everyone(LOG), types.SimpleNamespace(max_history=None)
  _, lost = queries_lib.allowed_items(INDEX, None, ["x", "no/such.txt"])
  (line,) = queries_lib.notes(queries, lost, system)
  assert line.endswith("1 ignored ('no/such.txt')")
  with pytest.raises(UserError, match=r"not in the catalogue: 'no/such\.txt'"):
    queries_lib.allowed_items(INDEX, ["no/such.txt"], None)


def test_histories_are_read_line_by_line(tmp_path):
  path = tmp_path / "h.jsonl"
  path.write_text('{"user": 7, "history": ["x", 3]}\n\n{"user": "é"}\n', "utf-8")
  assert list(queries_lib.read_histories(path)) == [("7", ["x", "3"]), ("é", None)]
  with pytest.raises(UserError, match="does not exist"):
    list(queries_lib.read_histories(tmp_path / "none"))


@pytest.mark.parametrize(
  "line",
  [
    "nonsense",
    "[1]",
    "3",
    '{"history": ["x"]}',
    '{"user": null}',
    '{"user": true}',
    '{"user": 1.5}',
    '{"user": "a", "history": 3}',
    '{"user": "a", "history": [["x"]]}',
    '{"user": "a", "history": [null]}',
    '{"user": "a", "history": "x"}',
    '{"user": "a", "history": {"x": 1}}',
    '{"user": "\\ud800"}',
    "[" * 100_000,
  ],
)
def test_a_line_of_another_form_is_named(tmp_path, line):
  path = tmp_path / "h.jsonl"
  path.write_text('{"user": "first"}\n' + line + "\n")
  with pytest.raises(UserError, match=re.escape(f"{path}, line 2: ")) as error:
    list(queries_lib.read_histories(path))
  assert len(str(error.value)) < 300


def test_a_user_twice_and_bytes_that_are_no_text_are_named(tmp_path):
  path = tmp_path / "h.jsonl"
  path.write_text('{"user": "a"}\n{"user": "a"}\n')
  with pytest.raises(UserError, match=r"line 2: user 'a' already stands in line 1"):
    list(queries_lib.read_histories(path))
  path.write_bytes(b'{"user": "\xff"}\n')
  with pytest.raises(UserError, match="is not UTF-8"):
    list(queries_lib.read_histories(path))


def test_who_got_nothing_is_named():
  names = np.array([f"u{n}" for n in range(8)])
  items_NK = np.full((8, 3), -1)
  items_NK[0] = 1, 2, -1
  (line,) = queries_lib.left_without(names, items_NK)
  assert line.startswith("7 users are left without any item")
  assert "'u1', 'u2', 'u3', 'u4', 'u5' and 2 more" in line
  assert queries_lib.left_without(names[:1], items_NK[:1]) == []


def test_a_digest_knows_users_and_their_histories():
  one = queries_lib.of_histories(INDEX, [("a", ["x", "y"]), ("b", ["z"])])
  others = [
    [("a", ["y", "x"]), ("b", ["z"])],
    [("a", ["x"]), ("b", ["y", "z"])],
    [("a", ["x", "y"]), ("c", ["z"])],
    [("b", ["z"]), ("a", ["x", "y"])],
  ]
  digests = {queries_lib.digest(queries_lib.of_histories(INDEX, o)) for o in others}
  assert len(digests | {queries_lib.digest(one)}) == 5
  again = json.loads(json.dumps([("a", ["x", "y"]), ("b", ["z"])]))
  same = queries_lib.of_histories(INDEX, again)
  assert queries_lib.digest(same) == queries_lib.digest(one)
  taken = queries_lib.take(one, np.array([1]))
  assert histories(taken) == {"b": ["z"]}
