"""The shuffle test against counting by hand, and on logs whose answer is planted."""

import collections
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
from small_logs import make_log

from lightlm_jax.data import sequential

ROWS = st.lists(st.lists(st.integers(0, 3), max_size=30), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_rules_are_those_counted_by_hand(rows):
  support, followed = collections.Counter(), collections.Counter()
  for row in rows:
    for pair in itertools.pairwise(row):
      support[pair] += 1
      followed[pair[0]] += 1
  rules = [
    pair
    for pair, count in support.items()
    if count >= 5 and count >= 0.1 * followed[pair[0]]
  ]
  assert sequential.shuffle_test(make_log(rows, 4)).rules == len(rules)


def random_walks(step, num_items, users=2_000, length=12):
  """Rows in which a step leads on from item to item."""
  rng = np.random.default_rng(0)
  rows = [[int(rng.integers(num_items))] for _ in range(users)]
  for row in rows:
    while len(row) < length:
      row.append(int(step(row[-1], rng)))
  return make_log(rows, num_items)


def test_a_circle_is_all_order_and_draws_are_none():
  circle = sequential.shuffle_test(
    random_walks(lambda item, rng: (item + 1) % 2_000, 2_000)
  )
  draws = sequential.shuffle_test(
    # Few enough items that the company of each comes up by chance.
    random_walks(lambda item, rng: rng.integers(6), 6)
  )
  assert circle.rules > 1_800
  assert circle.lost > 0.9
  assert draws.rules > sequential.FEWEST
  assert abs(draws.lost) < 0.1
  assert "% are made by the order" in str(circle)


def test_a_log_without_rules_gets_no_verdict():
  few = sequential.shuffle_test(make_log([[0, 1], [2]], 3))
  assert (few.rules, few.lost) == (0, None)
  assert str(few).endswith("too few to say whether the log is sequential")


def test_one_seed_shuffles_alike():
  log = random_walks(lambda item, rng: rng.integers(6), 6)
  assert sequential.shuffle_test(log, 3) == sequential.shuffle_test(log, 3)
