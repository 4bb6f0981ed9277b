"""The report's charts: what is drawn has the places and sizes of its numbers."""

import itertools
import re

import numpy as np
import pytest

from lightlm_jax.evaluation import exposure
from lightlm_jax.ids import codes
from lightlm_jax.reporting import charts, id_tree, lists


def texts(svg):
  """The texts of a chart in drawing order."""
  return re.findall(r"<text [^>]*>([^<]*)</text>", svg)


def paths(svg, colour):
  """The points of every path that has the colour of a series."""
  return [
    np.array(re.findall(r"([\d.]+) ([\d.]+)", found), float)
    for found, style in re.findall(r'<path d="([^"]*)" style="([^"]*)"', svg)
    if f"var(--{colour})" in style
  ]


def test_lines_keep_order_and_leave_out_what_is_no_number():
  series = [
    charts.Line("a", [0, 1, 2, 3], [1, np.nan, 3, 2], 1),
    charts.Line("b", np.linspace(0, 3, 5000), np.full(5000, 2.5), 10),
  ]
  svg = charts.lines(series, x="<x>", y="y", label='"a" & b')
  (a,), (b,) = paths(svg, "s1"), paths(svg, "s2")
  assert len(a) == 3
  assert a[0][1] > a[2][1] > a[1][1]  # 1 below 2 below 3: y grows downwards
  # The line ends where it should; it was thinned, and drawn as straight.
  assert b[0][0] == pytest.approx(a[0][0], abs=0.1)
  assert b[-1][0] == pytest.approx(a[-1][0], abs=0.1)
  assert len(charts._thin(series[1].x, series[1].y)[0]) == charts.MOST_POINTS
  assert (b >= 0).all()
  assert (b[:, 0] <= charts.WIDTH).all()
  assert "&lt;x&gt;" in svg
  assert 'aria-label="&#34;a&#34; &amp; b"' in svg
  # The tenth series has the second's colour and another dash.
  assert re.search(r"stroke-dasharray: [^;]+; [^\"]*stroke: var\(--s2\)", svg)


def test_bars_are_as_long_as_their_values():
  bars = [charts.Bar("a", 0.2, 1), charts.Bar("b", 0.1, 2), charts.Bar("c", None, 3)]
  svg = charts.bars([charts.Bars("t", "n", bars)], x="x", label="l")
  a, b, c = (np.ptp(paths(svg, colour)[0][:, 0]) for colour in ("s1", "s2", "s3"))
  assert a == pytest.approx(2 * b, abs=0.2)
  assert c < 2
  assert [
    text for text in texts(svg) if text in ("t", "n", "0.2000", "0.1000", "–")
  ] == [*("t", "n", "0.2000", "0.1000", "–")]


def test_means_stand_on_one_axis():
  rows = [
    charts.Mean("a", 0.2, (0.1, 0.3), 1),
    charts.Mean("b" * 80, 0.3, (0.2, 0.4), 2),
    charts.Mean("c", 0.4, None, 3),
  ]
  svg = charts.means(rows, x="x", label="l")
  marks = [
    re.findall(rf'<use xlink:href="[^"]*" x="([\d.]+)"[^>]*fill: var\(--s{n}\)', svg)
    for n in (1, 2, 3)
  ]
  (low, high, a), (two_low, _, b), (c,) = (map(float, found) for found in marks)
  assert b - a == pytest.approx(c - b, abs=0.2)
  assert (high, two_low) == (pytest.approx(b, abs=0.2), pytest.approx(a, abs=0.2))
  assert low < a
  assert "b" * 40 not in svg
  assert "0.2000 [0.1000, 0.3000]" in svg


def test_the_tree_by_hand():
  items = [(0, 2), (0, 3), (0, 4), (1, 2), (1, 5), (6,)]
  first, second = id_tree.partition(codes.stack_codes(items), smallest=0)
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
  first, second = id_tree.partition(codes.stack_codes(items), smallest=0.3)
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
  *_, third = id_tree.partition(codes.stack_codes(items), smallest=0)
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
  drawn = id_tree.partition(book)
  assert len(drawn) == id_tree.LEVELS
  above = None
  for level, cells in enumerate(drawn, start=1):
    assert len(cells) <= level * (1 + 1 / id_tree.SMALLEST)
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
