"""The graphs that SCI clusters, against counts by hand."""

import itertools

import numpy as np
from small_logs import make_log

from lightlm_jax.ids import graph as graph_lib


def test_bipartite_counts_purchases():
  rows = [[2, 0, 2], [], [1]]
  dense = graph_lib.bipartite(make_log(rows, num_items=4)).toarray()
  wanted = np.zeros((7, 7))
  for user, row in enumerate(rows):
    for item in row:
      wanted[user, 3 + item] += 1
      wanted[3 + item, user] += 1
  np.testing.assert_array_equal(dense, wanted)


def test_co_occurrence_counts_users_with_both_and_items_of_both():
  rows = [[2, 0, 2], [], [1, 0], [0, 2]]
  log = make_log(rows, num_items=4)
  items_II = graph_lib.items_together(log).toarray()
  users_UU = graph_lib.users_together(log).toarray()
  for a, row_a in enumerate(rows):
    for b, row_b in enumerate(rows):
      both = len(set(row_a) & set(row_b)) if a != b else 0
      assert users_UU[a, b] == both
  for a in range(4):
    for b in range(4):
      both = sum({a, b} <= set(row) for row in rows) if a != b else 0
      assert items_II[a, b] == both
  whole = graph_lib.bipartite(log).toarray()
  whole[:4, :4] += users_UU
  whole[4:, 4:] += items_II
  np.testing.assert_array_equal(graph_lib.all_together(log).toarray(), whole)
  assert log.item_E.tolist() == [2, 0, 2, 1, 0, 0, 2], "the log itself was changed"


def test_neighbours_in_a_history_weigh_one_by_their_distance():
  rows = [[2, 0, 2, 1, 3], [], [1, 0], [0, 2]]
  wanted_II = np.zeros((4, 4))
  for row in rows:
    for (i, a), (j, b) in itertools.permutations(enumerate(row), 2):
      if a != b and abs(i - j) <= graph_lib.WINDOW:
        wanted_II[a, b] += 1 / abs(i - j)
  found_II = graph_lib.items_in_sequence(make_log(rows, num_items=4)).toarray()
  np.testing.assert_allclose(found_II, wanted_II)
