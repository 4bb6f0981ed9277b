"""How recommendations are spread, against definitions written another way."""

import itertools
import math
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from lightlm_jax.evaluation import exposure

counts = st.lists(st.integers(0, 50), min_size=1, max_size=30).map(np.array)


@hypothesis.given(counts)
def test_gini_is_half_the_mean_difference_over_the_mean(count_I):
  differences = np.abs(count_I[:, None] - count_I[None, :]).mean()
  expected = differences / (2 * count_I.mean()) if count_I.sum() else 0.0
  assert exposure.gini(count_I) == pytest.approx(expected, abs=1e-12)


def test_gini_of_one_item_for_all_and_of_all_alike():
  assert exposure.gini(np.array([0, 0, 0, 9])) == pytest.approx(3 / 4)
  assert exposure.gini(np.array([5, 5, 5, 5])) == 0


@hypothesis.given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms())
def test_head_share_is_the_mean_over_all_ways_to_break_its_ties(bought, random):
  bought_I = np.array(bought)
  shown_I = np.array([random.randrange(5) for _ in bought])
  size = max(1, round(exposure.HEAD * len(bought)))
  # By symmetry, every item at the border is in the head equally often.
  border = np.sort(bought_I)[-size]
  level = np.flatnonzero(bought_I == border)
  shares = []
  for turn in range(len(level)):
    order = [*np.flatnonzero(bought_I > border), *np.roll(level, turn)][:size]
    shares.append(shown_I[order].sum() / max(shown_I.sum(), 1))
  expected = np.mean(shares)
  assert exposure.head_share(shown_I, bought_I) == pytest.approx(expected)


def test_the_first_ten_places_count_and_empty_ones_are_told():
  items_NK = np.full((2, 20), -1)
  items_NK[0, :10] = range(10)
  items_NK[1, :5] = 0
  items_NK[1, 10:] = 15  # beyond the first ten
  found = exposure.summarise(items_NK, np.arange(20))
  shown_I = [6] + [1] * 9 + [0] * 10
  assert found == {
    "gini@10": exposure.gini(np.array(shown_I)),
    "head_share@10": 0.0,
    "coverage@10": 0.5,
    "invalid@10": 0.25,
    "popularity@10": 3.0,
    "novelty@10": exposure.novelty(np.array(shown_I), np.arange(20)),
  }
  code_IL = np.stack([np.arange(20) // 10, np.arange(20)], axis=1)
  more = exposure.summarise(items_NK, np.arange(20), code_IL)
  diversity = more.pop("diversity@10")
  assert more == found
  # Ten items that share their first level of two; five times one item.
  assert diversity == pytest.approx((0.5 + 0.0) / 2)


lists = st.lists(
  st.lists(st.integers(-1, 7), min_size=12, max_size=12), min_size=1, max_size=6
).map(np.array)


@hypothesis.given(lists, st.lists(st.integers(0, 5), min_size=8, max_size=8))
def test_popularity_and_novelty_are_means_over_what_is_shown(items_NK, bought):
  bought_I = np.array(bought)
  shown = [item for row in items_NK for item in row[:10] if item >= 0]
  found = exposure.summarise(items_NK, bought_I)
  if not shown:
    assert found["popularity@10"] == found["novelty@10"] == 0
    return
  popularity = sum(bought[item] for item in shown) / len(shown)
  assert found["popularity@10"] == pytest.approx(popularity)
  # An item that nobody bought tells as much as one that was bought once.
  total = max(sum(bought), 1)
  told = [-math.log2(max(bought[item], 1) / total) for item in shown]
  assert found["novelty@10"] == pytest.approx(sum(told) / len(shown), abs=1e-12)


def test_novelty_in_bits():
  bought_I = np.array([4, 2, 1, 1, 0])
  for item, bits in enumerate([1, 2, 3, 3, 3]):
    assert exposure.novelty(np.eye(5, dtype=int)[item], bought_I) == bits


def distance(one, other):
  """Of codes as tuples."""
  common = 0
  while common < min(len(one), len(other)) and one[common] == other[common]:
    common += 1
  return 1 - common / max(len(one), len(other))


CODES = [(0, 0, 0), (0, 0, 1), (0, 1), (1,), (2, 0, 0), (2, 1, 0), (2, 1, 1), (3, 0)]


@hypothesis.given(lists)
def test_diversity_is_the_mean_distance_of_pairs(items_NK):
  code_IL = np.array([(*code, -1, -1)[:3] for code in CODES], np.int32)
  means = []
  for row in items_NK:
    codes = [CODES[item] for item in row[:10] if item >= 0]
    pairs = [distance(a, b) for a, b in itertools.combinations(codes, 2)]
    if pairs:
      means.append(sum(pairs) / len(pairs))
  expected = sum(means) / len(means) if means else 0.0
  found = exposure.intra_list_diversity(items_NK, code_IL)
  assert found == pytest.approx(expected, abs=1e-12)


def test_diversity_by_hand():
  code_IL = np.array([(*code, -1, -1)[:3] for code in CODES], np.int32)
  for row, expected in (
    ([0, 1], 1 / 3),
    ([0, 2], 2 / 3),
    ([0, 3], 1.0),
    ([4, 4], 0.0),
    ([-1, 5, -1, 6], 1 / 3),
    ([7], 0.0),
  ):
    found = exposure.intra_list_diversity(np.array([row]), code_IL)
    assert found == pytest.approx(expected), row
  # A list of one item has no pair, and does not pull the others down.
  found = exposure.intra_list_diversity(np.array([[0, 3], [7, -1]]), code_IL)
  assert found == 1.0


def test_diversity_of_a_real_size_takes_no_time():
  rng = np.random.default_rng(0)
  code_IL = rng.integers(64, size=(12_000, 5))
  items_NK = rng.integers(12_000, size=(20_000, 20))
  began = time.process_time()
  assert 0.98 < exposure.intra_list_diversity(items_NK, code_IL) < 1
  assert time.process_time() - began < 10  # a tenth of a second on a free machine
