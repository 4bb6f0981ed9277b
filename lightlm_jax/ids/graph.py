"""Graphs of users, items and attributes, from training interactions only."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from lightlm_jax.data.interactions import Interactions

WINDOW = 3  # places between items that count as neighbours in time


def bipartite(train: Interactions) -> scipy.sparse.csr_array:
  """Returns the [U + I, U + I] symmetric adjacency, users first, then items.

  The weight of an edge is the number of interactions of the user with the item.
  """
  U, I = train.num_users, train.num_items
  node_E = U + train.item_E.astype(np.int64)
  weight_E = np.ones(len(node_E))
  forward = scipy.sparse.coo_array((weight_E, (train.user_E, node_E)), (U + I, U + I))
  return (forward + forward.T).tocsr()


def items_together(train: Interactions) -> scipy.sparse.csr_array:
  """Returns the symmetric graph of items, [I, I]: how many users two items share."""
  bought_UI = distinct_purchases(train)
  return _without_loops(bought_UI.T @ bought_UI)


def items_in_sequence(train: Interactions) -> scipy.sparse.csr_array:
  """Returns the symmetric graph of items that follow one another in histories, [I, I].

  Two items d ≤ WINDOW places apart in a user's history add 1 / d to their edge weight.
  """
  I = train.num_items
  pairs_II = scipy.sparse.csr_array((I, I))
  for apart in range(1, WINDOW + 1):
    same = train.user_E[apart:] == train.user_E[:-apart]
    pair = train.item_E[:-apart][same], train.item_E[apart:][same]
    weight = np.full(len(pair[0]), 1 / apart)
    pairs_II += scipy.sparse.coo_array((weight, pair), (I, I)).tocsr()
  return _without_loops((pairs_II + pairs_II.T).tocsr())


def users_together(train: Interactions) -> scipy.sparse.csr_array:
  """Returns the symmetric graph of users, [U, U]: how many items two users share."""
  bought_UI = distinct_purchases(train)
  return _without_loops(bought_UI @ bought_UI.T)


def all_together(train: Interactions) -> scipy.sparse.csr_array:
  """Returns `bipartite` plus `users_together` and `items_together`, [U + I, U + I].

  This is the co-indexing of Hua et al. (see spectral.py). Pairs of users or of items
  far outnumber interactions, so that users and items end up in separate clusters.
  """
  blocks = [[users_together(train), None], [None, items_together(train)]]
  return (bipartite(train) + scipy.sparse.block_array(blocks)).tocsr()


def by_attributes(
  train: Interactions, attributes: Sequence[np.ndarray]
) -> scipy.sparse.csr_array:
  """Returns the symmetric adjacency of users, items and A attributes, in this order.

  Each edge joins an attribute to an item or a user. If m of the I items have an
  attribute, its edge to each of them weighs w = log((1 + I) / (1 + m)), 0 if m = I. Its
  edge to a user weighs w times the number of the user's interactions with these items.
  `attributes[i]` holds the distinct attributes of item i, ints from 0.
  """
  U, I = train.num_users, train.num_items
  item_E = np.repeat(np.arange(I), [len(row) for row in attributes])
  attribute_E = np.concatenate([np.empty(0, np.int64), *attributes])
  A = 1 + int(attribute_E.max(initial=-1))
  weight_A = np.log((1 + I) / (1 + np.bincount(attribute_E, minlength=A)))
  shape_IA = (I, A)
  has_IA = scipy.sparse.coo_array(
    (weight_A[attribute_E], (item_E, attribute_E)), shape_IA
  )
  bought_UI = bipartite(train)[:U, U:]
  has_NA = scipy.sparse.vstack([bought_UI @ has_IA, has_IA])
  blocks = [[scipy.sparse.coo_array((U + I, U + I)), has_NA], [has_NA.T, None]]
  adjacency = scipy.sparse.csr_array(scipy.sparse.block_array(blocks))
  adjacency.eliminate_zeros()
  return adjacency


def distinct_purchases(train: Interactions) -> scipy.sparse.csr_array:
  """Returns [U, I]: 1 where the user interacted with the item at least once."""
  bought_UI = scipy.sparse.csr_array(
    (np.ones(len(train.item_E)), train.item_E, train.offset_U1),
    shape=(train.num_users, train.num_items),
    copy=True,  # otherwise sum_duplicates would modify the log in place
  )
  bought_UI.sum_duplicates()
  bought_UI.data[:] = 1
  return bought_UI


def shape(matrix) -> tuple[int, int]:
  """Returns a sparse matrix's shape, typed, because SciPy declares no type for it."""
  return matrix.shape


def _without_loops(adjacency: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  adjacency.setdiag(0)
  adjacency.eliminate_zeros()
  return adjacency
