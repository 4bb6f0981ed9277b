"""Withheld items: out of training and histories, asked for at test all the same."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from raw_logs import TIMED_ROWS, question, random_timed_rows, raw_rows, timed_log

from lightlm_jax import config as config_lib
from lightlm_jax.data import interactions, splits
from lightlm_jax.runtime.errors import UserError


@pytest.mark.parametrize("kind", splits.SPLITS)
@given(TIMED_ROWS, st.sampled_from([1e-9, 0.1, 0.25, 0.5, 0.9]))
def test_withhold(kind, rows, share):
  log = timed_log(rows)
  try:
    before = splits.SPLITS[kind](log)
  except UserError:
    return  # by time, in a log that has no such windows
  number = max(1, round(share * log.num_items))
  rng = np.random.default_rng(splits.WITHHELD_SEED)
  gone = set(log.item_ids[rng.choice(log.num_items, number, replace=False)].tolist())

  def left(items):
    return [item for item in items if item not in gone]

  train = {user: left(items) for user, items in raw_rows(before.train).items()}
  validation, test = (
    requests
    and {u: (left(row), target) for u, (row, target) in question(requests, log).items()}
    for requests in (before.validation, before.test)
  )
  if validation:
    validation = {u: (row, t) for u, (row, t) in validation.items() if t not in gone}
  if not any(train.values()) or (before.validation and not validation):
    complaint = r"leaves (nothing to train|no validation request)"
    with pytest.raises(UserError, match=complaint):
      splits.withhold(before, share)
    return
  split = splits.withhold(before, share)
  assert set(log.item_ids[split.withheld_I].tolist()) == gone
  assert raw_rows(split.train) == train
  # The catalogue stays whole, and times stay with their interactions.
  assert split.train.item_ids is log.item_ids
  keep_E = ~split.withheld_I[before.train.item_E]
  np.testing.assert_array_equal(split.train.time_E, before.train.time_E[keep_E])
  if before.test is None:
    assert split.validation is split.test is None
  else:
    assert question(split.validation, log) == (validation or {})
    assert question(split.test, log) == (test or {})


def test_withhold_by_hand():
  rows = {"one": "cabgd", "two": "ccceg", "three": "abcgf", "four": "abgda"}
  log = interactions.from_sequences((user, list(row)) for user, row in rows.items())
  # An eighth of 7 items is one; another one would make old runs incomparable.
  split = splits.withhold(splits.leave_one_out(log), 1 / 8)
  assert log.item_ids[split.withheld_I].tolist() == ["c"]
  assert raw_rows(split.train) == {
    "one": ["a", "b"],
    "two": [],
    "three": ["a", "b"],
    "four": ["a", "b", "g"],
  }
  assert question(split.validation, log) == {
    "one": (["a", "b"], "g"),
    "two": ([], "e"),
    "three": (["a", "b"], "g"),
    "four": (["a", "b", "g"], "d"),
  }
  assert question(split.test, log) == {
    "one": (["a", "b", "g"], "d"),
    "two": (["e"], "g"),
    "three": (["a", "b", "g"], "f"),
    "four": (["a", "b", "g", "d"], "a"),
  }


@given(TIMED_ROWS)
def test_no_share_is_the_split_itself(rows):
  split = splits.everything(timed_log(rows))
  assert splits.withhold(split, 0.0) is split


def test_the_digest_names_the_share():
  log = timed_log(random_timed_rows())
  shares = (0.1, 0.11, 0.2)
  for kind, make in splits.SPLITS.items():
    before = make(log)
    withheld = [splits.withhold(before, share) for share in shares]
    assert len({before.sha256, *(split.sha256 for split in withheld)}) == 4
    for split, share in zip(withheld, shares):
      assert split.sha256 == splits.withhold(make(log), share).sha256
      assert split.kind == kind
      assert split.parameters == before.parameters | {"withheld": share}
    # 30 items: 3 of them at .1 and at .11, the same ones.
    np.testing.assert_array_equal(withheld[0].withheld_I, withheld[1].withheld_I)


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan"), float("inf")])
def test_a_share_that_is_none_is_one_line(share):
  with pytest.raises(UserError, match=rf"withheld is {share}; it must be"):
    config_lib.check(config_lib.load("demo:tiny", overrides={"split.withheld": share}))


# The draw takes "b" of "ab" and "c" of "abc".
@pytest.mark.parametrize(
  ("rows", "what"),
  [
    ({"u": "bbba", "v": "bbbb"}, "nothing to train on"),
    ({"u": "ac", "v": "aacb"}, "no validation request"),
  ],
)
def test_withheld_items_that_leave_nothing_are_one_line(rows, what):
  log = interactions.from_sequences((user, list(row)) for user, row in rows.items())
  split = splits.leave_one_out(log)
  complaint = f"withholds 1 of {log.num_items} items and leaves {what}; lower it"
  with pytest.raises(UserError, match=complaint):
    splits.withhold(split, 0.01)
