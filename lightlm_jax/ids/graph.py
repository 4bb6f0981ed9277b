"""Graphs of who bought what, from training interactions only, or of what it is."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

from lightlm_jax.data.interactions import Interactions


def bipartite(train: Interactions) -> scipy.sparse.csr_array:
  """[U + I, U + I] symmetric adjacency: users first, then items.

  The weight of an edge is how often the user bought the item.
  """
  U, I = train.num_users, train.num_items
  node_E = U + train.item_E.astype(np.int64)
  weight_E = np.ones(len(node_E))
  forward = scipy.sparse.coo_array((weight_E, (train.user_E, node_E)), (U + I, U + I))
  return (forward + forward.T).tocsr()


def items_together(train: Interactions) -> scipy.sparse.csr_array:
  """[I, I] symmetric adjacency: how many users have both items."""
  bought_UI = distinct_purchases(train)
  return _without_loops(bought_UI.T @ bought_UI)


def users_together(train: Interactions) -> scipy.sparse.csr_array:
  """[U, U] symmetric adjacency: how many items both users have."""
  bought_UI = distinct_purchases(train)
  return _without_loops(bought_UI @ bought_UI.T)


def all_together(train: Interactions) -> scipy.sparse.csr_array:
  """[U + I, U + I]: `bipartite` with the two co-occurrence graphs in its blocks.

  The paper's co-indexing. Pairs of users and pairs of items are many more than
  purchases, and drown them: users and items end up in clusters apart.
  """
  blocks = [[users_together(train), None], [None, items_together(train)]]
  return (bipartite(train) + scipy.sparse.block_array(blocks)).tocsr()


def by_attributes(
  train: Interactions, attributes: Sequence[np.ndarray]
) -> scipy.sparse.csr_array:
  """[U + I + A, U + I + A] symmetric: users and items, each with its attributes.

  No purchase joins two items here: an attribute does. It weighs log((1 + I) / (1 + i))
  where i items have it, so that what all have joins nothing; a user has what her items
  have, as often as she bought it.

  Args:
    train: U users, I items.
    attributes: int, of each item, each once, numbered from 0.
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
  adjacency = scipy.sparse.block_array(blocks).tocsr()
  adjacency.eliminate_zeros()
  return adjacency


def distinct_purchases(train: Interactions) -> scipy.sparse.csr_array:
  """[U, I]: 1 where the user bought the item, however often."""
  bought_UI = scipy.sparse.csr_array(
    (np.ones(len(train.item_E)), train.item_E, train.offset_U1),
    shape=(train.num_users, train.num_items),
    copy=True,  # or summing duplicates would sort and shorten the log itself
  )
  bought_UI.sum_duplicates()
  bought_UI.data[:] = 1
  return bought_UI


def _without_loops(adjacency: scipy.sparse.csr_array) -> scipy.sparse.csr_array:
  adjacency.setdiag(0)
  adjacency.eliminate_zeros()
  return adjacency
