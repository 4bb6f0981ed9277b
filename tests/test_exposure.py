"""How recommendations are spread, against definitions written another way."""

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
  }
