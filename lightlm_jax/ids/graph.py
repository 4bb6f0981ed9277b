"""Graphs of who bought what, from training interactions only."""

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
