"""A share of the users to learn from: nested, and nobody is asked anything else."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from raw_logs import TIMED_ROWS, question, random_rows, raw_rows, same, timed_log

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, interactions, splits
from lightlm_jax.ids import build as ids_build
from lightlm_jax.runtime.errors import UserError

SHARES = (0.1, 0.25, 0.5, 0.9)
USERS_OF_A_HALF = ["u1", "u3", "u4", "u5", "u6"]


def learned(split):
  """The raw users whose rows are learned from, and the rows."""
  return {user: row for user, row in raw_rows(split.train).items() if row}


@pytest.fixture(scope="module")
def log():
  return interactions.from_sequences(random_rows(num_users=2_000).items())


def test_the_whole_is_what_it_was(log):
  split = splits.leave_one_out(log)
  assert splits.learn_from(split, 1.0) is split
  config = config_lib.load("demo:tiny")
  demo = datasets.load(config).log
  assert splits.of_run(config, demo).sha256 == splits.make(config.split, demo).sha256


def test_shares_are_nested_and_about_as_large_as_they_say(log):
  split = splits.leave_one_out(log)
  whole = learned(split)
  smaller = {}
  for share in SHARES:
    larger = learned(splits.learn_from(split, share))
    assert smaller.items() <= larger.items() <= whole.items()
    # Six standard deviations of so many coins.
    slack = 6 * np.sqrt(share * (1 - share) * len(whole))
    assert abs(len(larger) - share * len(whole)) < slack
    smaller = larger


@given(TIMED_ROWS, st.sampled_from(sorted(splits.SPLITS)), st.sampled_from(SHARES))
def test_what_is_held_out_stays(rows, kind, share):
  log = timed_log(rows)
  try:
    before = splits.SPLITS[kind](log)
    split = splits.learn_from(before, share)
  except UserError:
    return  # no such windows, or nobody left to learn from
  assert learned(split).items() <= learned(before).items()
  np.testing.assert_array_equal(split.train.user_ids, log.user_ids)
  assert split.train.item_ids is log.item_ids
  for old, new in ((before.validation, split.validation), (before.test, split.test)):
    assert new is old  # every question, with the whole history
  assert split.sha256 != before.sha256
  assert split.parameters["share"] == share


def test_who_is_in_does_not_depend_on_the_others(log):
  rows = raw_rows(log)
  some = {user: row for n, (user, row) in enumerate(rows.items()) if n % 3 == 0}
  alone = interactions.from_sequences(some.items())
  together = splits.learn_from(splits.leave_one_out(log), 0.5)
  apart = splits.learn_from(splits.leave_one_out(alone), 0.5)
  assert learned(apart).keys() == learned(together).keys() & some.keys()


def test_of_a_few_users_by_hand():
  # Another hash would make old runs incomparable.
  log = interactions.from_sequences([(f"u{n}", list("abcd")) for n in range(8)])
  split = splits.learn_from(splits.leave_one_out(log), 0.5)
  assert sorted(learned(split)) == USERS_OF_A_HALF
  assert set(question(split.test, log)) == {f"u{n}" for n in range(8)}


def test_ids_see_the_share_alone():
  whole = config_lib.load("demo:tiny")
  half = config_lib.load("demo:tiny", overrides={"data.share": 0.5})
  log = datasets.load(whole).log
  train = splits.of_run(half, log).train
  kept = interactions.keep_rows(splits.of_run(whole, log).train, train.length_U > 0)
  # The same interactions, and those of the others nowhere.
  assert same(interactions.keep_rows(train, train.length_U > 0), kept)
  digests = {
    ids_build.digest(splits.of_run(config, log).train) for config in (whole, half)
  }
  assert len(digests) == 2


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5, float("nan")])
def test_no_such_share(share):
  with pytest.raises(UserError, match=r"data\.share is .*above 0 and at most 1"):
    config_lib.check(config_lib.load("demo:tiny", overrides={"data.share": share}))


def test_nobody_left(log):
  with pytest.raises(UserError, match="leaves none of 2,000 users"):
    splits.learn_from(splits.leave_one_out(log), 1e-9)
