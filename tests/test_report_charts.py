"""The report's charts: what is drawn has the places and sizes of its numbers."""

import itertools
import re

import numpy as np
import pytest

from lightlm_jax.evaluation import exposure
from lightlm_jax.ids import codes
from lightlm_jax.reporting import charts, lists, tree


def test_ticks_are_round_and_within():
  rng = np.random.default_rng(0)
  for _ in range(300):
    low = rng.normal() * 10.0 ** rng.integers(-4, 6)
    high = low + abs(rng.normal()) * 10.0 ** rng.integers(-4, 6)
    for most in (3, 4, 5):
      found = charts.ticks(low, high, most)
      assert 2 <= len(found) <= most
      slack = 1e-9 * max(abs(low), abs(high))
      assert all(low - slack <= tick <= high + slack for tick in found)
      steps = np.diff(found)
      assert (steps > 0).all()
      np.testing.assert_allclose(steps, steps[0], rtol=1e-3)
  assert charts.ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1]
  assert charts.numbers([0, 0.05, 0.1]) == ["0.00", "0.05", "0.10"]
  assert charts.numbers([0, 5000]) == ["0", "5,000"]


def points(svg):
  """The points of each line of a chart."""
  return [
    np.array([pair.split(",") for pair in found.split()], float)
    for found in re.findall(r'points="([^"]*)"', svg)
  ]


def test_lines_keep_order_and_leave_out_what_is_no_number():
  series = [
    charts.Line("a", [0, 1, 2, 3], [1, np.nan, 3, 2], 1),
    charts.Line("b", np.linspace(0, 3, 5000), np.full(5000, 2), 10),
  ]
  svg = charts.lines(series, x="<x>", y="y", label='"a" & b')
  a, b = points(svg)
  assert len(a) == 3
  assert a[0][1] > a[2][1] > a[1][1]  # 1 below 2 below 3: y grows downwards
  assert len(b) == charts.MOST_POINTS
  assert b[0][0] == pytest.approx(a[0][0], abs=0.1)
  assert b[-1][0] == pytest.approx(a[-1][0], abs=0.1)
  assert (b[:, 1] == a[2][1]).all()
  assert (b >= 0).all()
  assert (b[:, 0] <= charts.WIDTH).all()
  assert "&lt;x&gt;" in svg
  assert 'aria-label="&#34;a&#34; &amp; b"' in svg
  # The tenth series has the second's colour and another dash.
  assert "stroke:var(--s2);stroke-dasharray" in svg


def test_bars_are_as_long_as_their_values():
  bars = [charts.Bar("a", 0.2, 1), charts.Bar("b", 0.1, 2), charts.Bar("c", None, 3)]
  svg = charts.bars([charts.Bars("t", "n", bars)], x="x", label="l")
  a, b, c = map(float, re.findall(r'width="([\d.]+)"', svg))
  assert a == pytest.approx(2 * b, abs=0.2)
  assert c == 1
  assert ">0.2000<" in svg
  assert ">–<" in svg


def test_means_stand_on_one_axis():
  rows = [
    charts.Mean("a", 0.2, (0.1, 0.3), 1),
    charts.Mean("b" * 80, 0.3, (0.2, 0.4), 2),
    charts.Mean("c", 0.4, None, 3),
  ]
  svg = charts.means(rows, x="x", label="l")
  a, b, c = map(float, re.findall(r'cx="([\d.]+)"', svg))
  assert b - a == pytest.approx(c - b, abs=0.2)
  (a_low, a_high), (b_low, _) = (
    tuple(map(float, found)) for found in re.findall(r'd="M([\d.]+) \d+H([\d.]+)M', svg)
  )
  assert (a_high, b_low) == (pytest.approx(b, abs=0.2), pytest.approx(a, abs=0.2))
  assert a_low < a
  assert "b" * 40 not in svg


def test_the_tree_by_hand():
  items = [(0, 2), (0, 3), (0, 4), (1, 2), (1, 5), (6,)]
  first, second = tree.partition(codes.stack_codes(items), smallest=0)
  assert [(cell.title, cell.start, cell.width) for cell in first] == [
    ("0: 3 items", 0, pytest.approx(1 / 2)),
    ("1: 2 items", pytest.approx(1 / 2), pytest.approx(1 / 3)),
    ("6: 1 item", pytest.approx(5 / 6), pytest.approx(1 / 6)),
  ]
  assert [cell.title for cell in second] == [
    "0·2: 1 item",
    "0·3: 1 item",
    "0·4: 1 item",
    "1·2: 1 item",
    "1·5: 1 item",
  ]
  first, second = tree.partition(codes.stack_codes(items), smallest=0.3)
  assert [cell.title for cell in first] == [
    "0: 3 items",
    "1: 2 items",
    "1 cluster of 1 item",
  ]
  assert [cell.title for cell in second] == [
    "3 clusters of 1 item",
    "2 clusters of 1 item",
  ]


def test_what_comes_after_an_id_that_ended_stays_under_its_parent():
  items = [(0, 0, 1), (0, 0, 2), (0, 1), (1, 0, 1), (1, 0, 2)]
  *_, third = tree.partition(codes.stack_codes(items), smallest=0)
  assert {cell.title: round(cell.start, 9) for cell in third} == {
    "0·0·1: 1 item": 0,
    "0·0·2: 1 item": 0.2,
    "1·0·1: 1 item": 0.6,
    "1·0·2: 1 item": 0.8,
  }


def test_the_tree_has_few_rectangles_that_lie_in_their_parents():
  rng = np.random.default_rng(0)
  I = 20_000
  tokens = np.minimum(rng.zipf(1.3, (I, 3)), 400)
  book = np.unique(np.column_stack([tokens, np.arange(I)]), axis=0).astype(np.int32)
  drawn = tree.partition(book)
  assert len(drawn) == tree.LEVELS
  above = None
  for level, cells in enumerate(drawn, start=1):
    assert len(cells) <= level * (1 + 1 / tree.SMALLEST)
    assert sum(cell.width for cell in cells) == pytest.approx(1)
    ordered = sorted(cells, key=lambda cell: cell.start)
    for one, other in itertools.pairwise(ordered):
      assert one.start + one.width <= other.start + 1e-9
    for cell in cells if above else ():
      before = [parent for parent in above if parent.start <= cell.start + 1e-9]
      parent = max(before, key=lambda parent: parent.start)
      assert cell.start + cell.width <= parent.start + parent.width + 1e-9
    above = cells


def test_concentration_is_the_head_share_and_knows_no_numbers():
  rng = np.random.default_rng(0)
  bought_I = rng.integers(0, 6, 100)  # many level items at every border
  shown_I = rng.integers(0, 9, 100)
  x_P, y_P = lists.concentration(shown_I, bought_I)
  assert (x_P[0], y_P[0], x_P[-1]) == (0, 0, 1)
  assert y_P[-1] == pytest.approx(1)
  share = np.interp(exposure.HEAD, x_P, y_P)
  assert share == pytest.approx(exposure.head_share(shown_I, bought_I))
  order = rng.permutation(100)
  again = lists.concentration(shown_I[order], bought_I[order])
  np.testing.assert_allclose(again, (x_P, y_P))
  assert lists.concentration(np.zeros(100), bought_I)[1].max() == 0
