"""Neighbours in attributes against every cosine, one by one."""

import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from lightlm_jax.ids import grow


def by_brute_force(attributes, new, known, k):
  """The same from plain Python: all pairs, all sorted."""
  have = [set(row) for row in attributes]

  def weight(a):
    return math.log((1 + len(known)) / (1 + sum(a in have[item] for item in known)))

  def norm(item):
    return math.sqrt(sum(weight(a) ** 2 for a in have[item]))

  def cosine(one, other):
    shared = sum(weight(a) ** 2 for a in have[one] & have[other])
    return round(shared / (norm(one) * norm(other)), 9) if shared else 0.0

  return [
    [
      item
      for _, item in sorted(
        (-cosine(one, item), item) for item in known if cosine(one, item) > 0
      )
    ][:k]
    for one in new
  ]


def found(attributes, new, known, k):
  rows = [np.array(sorted(row), np.int64) for row in attributes]
  nearest = grow.by_attributes(rows, np.array(new, int), np.array(known, int), k)
  return [items.tolist() for items in nearest]


CATALOGUE = st.lists(st.sets(st.integers(0, 8), max_size=5), min_size=1, max_size=14)


@given(CATALOGUE, st.data(), st.integers(1, 6))
def test_neighbours_equal_brute_force(attributes, data, k):
  item = st.integers(0, len(attributes) - 1)
  known = sorted(data.draw(st.sets(item)))
  new = data.draw(st.lists(item, unique=True, max_size=6))
  wanted = by_brute_force(attributes, new, known, k)
  assert found(attributes, new, known, k) == wanted
  # The lower index goes first, in whatever order the known ones are given.
  assert found(attributes, new, known[::-1], k) == wanted


@pytest.mark.parametrize("pairs", [1, 100, 10_000])
def test_chunks_change_nothing(monkeypatch, pairs):
  rng = np.random.default_rng(0)
  attributes = [rng.choice(60, rng.integers(6), replace=False) for _ in range(200)]
  new, known = range(0, 200, 3), [item for item in range(200) if item % 3]
  wanted = found(attributes, new, known, 5)
  assert wanted == by_brute_force(attributes, new, known, 5)
  monkeypatch.setattr(grow, "PAIRS_AT_ONCE", pairs)
  assert found(attributes, new, known, 5) == wanted


def test_the_order_of_a_sum_breaks_no_tie():
  # Twenty items with a brand (0) and twelve attributes of their own; the n-th of these
  # is as common for each item, but their numbers, and so the sums, are in any order.
  rng = np.random.default_rng(0)
  own = [1 + 12 * item + rng.permutation(12) for item in range(20)]
  fill = [{row[n]} for row in own for n in range(12) for _ in range(n)]
  attributes = [*({0, *row} for row in own), *fill, {0}]
  new, known = len(attributes) - 1, range(len(attributes) - 1)
  assert found(attributes, [new], known, 20) == [list(range(20))]


def test_what_is_rare_says_more_and_what_all_have_nothing():
  brand, category, rare = 0, 1, 2
  known = [{brand, category}, {brand}, {brand, category}, {brand, rare}]
  new = [{brand, category, rare}, {brand}, {rare}, set(), {7}]
  attributes = [*known, *new]
  # Those of the category have it to themselves, half of the known ones have it.
  assert found(attributes, range(4, 9), range(4), 9) == [[3, 0, 2], [], [3], [], []]
  assert found(attributes, [4], range(4), 2) == [[3, 0]]


def test_new_items_do_not_weigh():
  attributes = [{0}, {1}, {0, 1}, *[{0}] * 50]
  assert found(attributes, [2], [0, 1], 2) == [[0, 1]]
  # Were they counted, 0 would be common and say little.
  assert found(attributes, [2, *range(3, 53)], [0, 1], 2)[0] == [0, 1]
