"""The reference implementation's road to ids, its faults included: to be caught."""

import dataclasses

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from lightlm_jax.data import splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.evaluation.leaks import Ids
from lightlm_jax.ids import graph
from lightlm_jax.ids.codes import stack_codes


def leaking_log(log: Interactions) -> Interactions:
  """What the reference takes for training: every item's users but the last two.

  Held-out items are in, except where the user happens to be among the last.
  """
  order_E = np.lexsort((log.user_E, log.item_E))
  item_E = log.item_E[order_E]
  from_end_E = np.searchsorted(item_E, item_E, side="right") - np.arange(len(item_E))
  kept_E = np.sort(order_E[from_end_E > 2])
  length_U = np.bincount(log.user_E[kept_E], minlength=log.num_users)
  return dataclasses.replace(
    log, offset_U1=np.cumsum([0, *length_U]), item_E=log.item_E[kept_E]
  )


def reference_ids(
  log: Interactions, seed: int, *, branching: int, leaf_size: int
) -> Ids:
  """SCI of users on the leaking graph, of items on the training interactions."""
  leaking = leaking_log(log)
  train = splits.leave_one_out(log).train
  options = {"branching": branching, "leaf_size": leaf_size, "seed": seed}
  path_IL = cluster_paths(graph.items_together(train), **options)
  path_UL = cluster_paths(graph.users_together(leaking), **options)
  return Ids(path_IL, path_UL, leaking.user_E, leaking.item_E)


def cluster_paths(
  adjacency: scipy.sparse.csr_array, *, branching: int, leaf_size: int, seed: int
) -> np.ndarray:
  """[N, L] cluster numbers, padded with -1, by the reference's spectral clustering.

  The eigenvectors of a random walk, of the edges inside a cluster alone, cut by a
  pivoted QR (Damle, Minden & Ying 2019), as scikit-learn's `cluster_qr` does.
  """
  paths = [()] * adjacency.shape[0]
  waiting = [np.arange(adjacency.shape[0])]
  while waiting:
    nodes = waiting.pop()
    inside = adjacency[nodes][:, nodes].tocsr()
    label_N = _by_pivots(_eigenvectors(inside, min(branching, len(nodes) - 1), seed))
    for label in np.unique(label_N):
      members = nodes[label_N == label]
      for node in members:
        paths[node] += (label,)
      if leaf_size < len(members) < len(nodes):
        waiting.append(members)
  return stack_codes([np.array(path) for path in paths])


def _eigenvectors(adjacency, number, seed) -> np.ndarray:
  N = adjacency.shape[0]
  root_N = np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
  scale = scipy.sparse.diags_array(1 / root_N)
  laplacian = scale @ adjacency @ scale
  if N <= 400:
    range_2 = (N - number, N - 1)
    vector_NK = scipy.linalg.eigh(laplacian.toarray(), subset_by_index=range_2)[1]
  else:
    start_N = np.random.default_rng(seed).standard_normal(N)
    vector_NK = scipy.sparse.linalg.eigsh(
      laplacian, k=number, which="LA", v0=start_N, tol=1e-4
    )[1]
  return vector_NK / root_N[:, None]


def _by_pivots(vector_NK: np.ndarray) -> np.ndarray:
  pivots_K = scipy.linalg.qr(vector_NK.T, mode="r", pivoting=True)[1]
  pivots_K = pivots_K[: vector_NK.shape[1]]
  left, _, right = np.linalg.svd(vector_NK[pivots_K].T)
  return np.abs(vector_NK @ (left @ right)).argmax(axis=1)
