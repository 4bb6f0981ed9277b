"""The one form of a log: it gives back what was given, and its numbers tell nothing."""

import dataclasses

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
from raw_logs import LOGS, random_rows, raw_rows, same, timed_rows

from lightlm_jax.data import interactions
from lightlm_jax.evaluation import leaks as audit


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
