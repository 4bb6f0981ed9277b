"""Leave-one-out and training on everything, by raw ids; digests of splits."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from raw_logs import LOGS, question, random_rows, raw_rows, same

from lightlm_jax.data import formats, interactions, splits


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


def test_the_digest_does_not_see_the_order_of_lines(tmp_path):
  rows = random_rows()
  lines = [f"{user} {' '.join(items)}\n" for user, items in rows.items()]
  digests = set()
  for content in ("".join(lines), "".join(lines[::-1])):
    (tmp_path / "sequences.txt").write_text(content)
    log = formats.read_sequences(tmp_path / "sequences.txt")
    digests.add(splits.leave_one_out(log).sha256)
  assert len(digests) == 1
