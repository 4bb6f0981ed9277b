"""SCI: spectral collaborative indexing. An id is a path through nested clusters.

Hua et al., "How to Index Item IDs for Recommendation Foundation Models" (SIGIR-AP
2023), section 4.4, as LightLM (arXiv 2310.17488) uses it, with users and items
clustered together. Clusters come from spectral clustering (Ng, Jordan & Weiss 2001;
von Luxburg 2007) by eigenvectors of D^-1/2 A D^-1/2, with the adjacency A and the
degrees D. As in a diffusion map (Coifman & Lafon 2006), each eigenvector is weighted by
its eigenvalue to the power of `WALK`, so that two nodes are near if random walks of
so many steps from them have similar distributions. Rows are then scaled to length one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple
import warnings

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.csgraph
import scipy.sparse.linalg
import scipy.spatial

from lightlm_jax.config.data_groups import Ids
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import graph as graph_lib
from lightlm_jax.ids import plain
from lightlm_jax.ids.codes import stack_codes, with_last_token, with_last_tokens
from lightlm_jax.runtime.errors import UserError

TOKENS = ("level", "node")
# CO_INDEXED: users and items on one graph, whose edges are interactions, with
# "all_together" also co-occurrences of two users or two items. "attributes": one graph
# in which shared attributes connect items. "separate": items clustered by shared users,
# users by shared items, without common tokens. "items", "users": only these are
# clustered, the others get random numbers. "sequence": items, by neighbours in time.
CO_INDEXED = {"bipartite": graph_lib.bipartite, "all_together": graph_lib.all_together}
OF_ITEMS = {
  "separate": graph_lib.items_together,
  "items": graph_lib.items_together,
  "sequence": graph_lib.items_in_sequence,
}
GRAPHS = (*CO_INDEXED, "attributes", *OF_ITEMS, "users")
# Steps of the random walk, and eigenvectors per cluster. On Toys and Beauty more steps
# bring users closer to their items, at the price of fewer and larger clusters. If they
# would need more than MOST_VECTORS, only a short walk tells clusters apart.
WALK, SHORT_WALK, VECTORS, MOST_VECTORS = 5, 2, 2, 256
# Beyond this, the eigenvectors alone take hours and tens of gigabytes.
MOST_NODES = 1_000_000
# Below this many nodes a dense eigensolver is faster than Lanczos.
_DENSE_NODES = 400
# Beyond this, pairs of nodes two steps apart are not stored explicitly: an item that
# all users have would connect every pair of users.
_MOST_PAIRS = 20_000_000
# Balanced clusters: how often centres are moved to their members and these assigned.
_BALANCE_ROUNDS = 8


class Walks(NamedTuple):
  """A symmetric graph of N nodes with the weights `step_NN + onward_NA @ out_NA.T`.

  The product adds walks of two steps through A further nodes; A = 0 if it adds none.
  """

  step_NN: scipy.sparse.csr_array
  onward_NA: scipy.sparse.csr_array
  out_NA: scipy.sparse.csr_array

  def __matmul__(self, x_N: np.ndarray) -> np.ndarray:
    return self.step_NN @ x_N + self.onward_NA @ (self.out_NA.T @ x_N)

  def multiplied(self) -> scipy.sparse.csr_array:
    """Returns all weights as one matrix, [N, N]."""
    return (self.step_NN + self.onward_NA @ self.out_NA.T).tocsr()

  def of(self, members: np.ndarray) -> "Walks":
    """Returns the subgraph of `members`; walks still use all of the A nodes."""
    step_NN = self.step_NN[members][:, members]
    return Walks(step_NN, self.onward_NA[members], self.out_NA[members])

  def scaled(self, scale_N: np.ndarray) -> "Walks":
    """Returns the graph with weight (i, j) times scale_N[i] · scale_N[j], float32."""
    scale = scipy.sparse.diags_array(scale_N)
    parts = (scale @ self.step_NN @ scale, scale @ self.onward_NA, scale @ self.out_NA)
    return Walks(*(scipy.sparse.csr_array(part, dtype=np.float32) for part in parts))

  def components(self) -> np.ndarray:
    """Returns each node's connected component, numbered from 0, [N] int."""
    joined = self.step_NN
    if graph_lib.shape(self.out_NA)[1]:
      joined = scipy.sparse.block_array([[joined, self.out_NA], [self.out_NA.T, None]])
    _, label_X = scipy.sparse.csgraph.connected_components(joined, directed=False)
    label_N = label_X[: graph_lib.shape(self.step_NN)[0]]
    return np.unique(label_N, return_inverse=True)[1]


def spectral_ids(
  train: Interactions,
  config: Ids,
  *,
  seed: int,
  attributes: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns item codes [I, L] and user codes [U, L'], int32, padded with -1.

  A code is the path of cluster tokens and, if a leaf holds more than one item (or
  user), a last token numbered in seeded random order. Users and items share cluster
  tokens if they are clustered together, see `GRAPHS`. Each level has its own range of
  tokens, and so have the last tokens of items and of users. If `config.tokens` is
  "level", numbering restarts below every cluster: a small vocabulary whose tokens have
  a meaning only after their prefix. If it is "node", every cluster has its own token,
  and all last tokens of items differ.

  Components of at most `config.leaf_size` (the paper's M) nodes, such as a node without
  edges, come last on the first level. They are packed into additional clusters: one for
  every M nodes, but at most `config.branching` (the paper's N). All clusters on level
  `config.levels`, the last, are leaves, however large.

  Raises:
    UserError: more than a million users or items, or `attributes` is None but needed.
  """
  graph = config.graph
  if max(train.num_users, train.num_items) > MOST_NODES:
    raise UserError(
      f"sci ids of {train.num_users:,} users and {train.num_items:,} items are out of "
      f"reach, they end at {MOST_NODES:,}; choose --config.ids.kind=gci"
    )
  if graph == "attributes" and attributes is None:
    raise UserError(
      "config.ids.graph is 'attributes', which needs item_attributes.json (raw item id "
      "→ list of attributes) beside the log; put it there, or set it to 'bipartite'"
    )
  # One thread: clusters must not depend on the machine's number of threads. The limit
  # applies to loaded libraries only, so scikit-learn is imported first.
  import sklearn.cluster  # noqa: F401, PLC0415, slow to import
  import threadpoolctl  # noqa: PLC0415, only building needs it

  def paths(adjacency: scipy.sparse.csr_array, items: slice) -> np.ndarray:
    number_N = np.arange(graph_lib.shape(adjacency)[0])
    path_N = cluster_paths(
      adjacency,
      branching=config.branching,
      leaf_size=config.leaf_size,
      levels=config.levels,
      seed=seed,
      balanced_N=np.isin(number_N, number_N[items]) if config.balanced else None,
    )
    path_NL = stack_codes([np.array(path) for path in path_N])
    if apart:
      return _name_clusters(path_NL)
    numbers = 1 + path_NL.max()  # a level; each has a range of tokens of its own
    return np.where(path_NL >= 0, path_NL + np.arange(len(path_NL[0])) * numbers, -1)

  rng, apart = np.random.default_rng(seed), config.tokens == "node"
  with threadpoolctl.threadpool_limits(1):
    if graph in (*CO_INDEXED, "attributes"):
      if graph == "attributes":
        adjacency = graph_lib.by_attributes(train, attributes or ())
      else:
        adjacency = CO_INDEXED[graph](train)
      ends = train.num_users, train.num_users + train.num_items
      path_UL, path_IL, *_ = np.split(paths(adjacency, slice(*ends)), ends)
    elif graph == "users":
      path_UL = paths(graph_lib.users_together(train), slice(0))
      users = with_last_token(path_UL, 1 + path_UL.max(), rng, apart=False)
      return plain.apart(plain.random_numbers(train.num_items, config.base, rng), users)
    else:
      path_IL = paths(OF_ITEMS[graph](train), slice(None))
      if graph != "separate":
        items = with_last_token(path_IL, 1 + path_IL.max(), rng, apart=apart)
        users = plain.random_numbers(train.num_users, config.base, rng)
        return plain.apart(items, users)
      path_UL = paths(graph_lib.users_together(train), slice(0))
      path_IL, path_UL = plain.apart(path_IL, path_UL)
  first_token = 1 + max(path_UL.max(), path_IL.max())
  return with_last_tokens(path_UL, path_IL, first_token, rng, apart=apart)


def several_books(
  train: Interactions,
  config: Ids,
  *,
  seed: int,
  attributes: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns item codes [I, G + 1] of G = `config.books` books, and user codes.

  A code has the item's cluster in each book, and a last token that is the item's own.
  The books differ in the seed of their K-Means.
  """
  tokens, first = [], 0
  seeds = [(seed + 1_000 * book) % 2**32 for book in range(config.books)]
  books = [spectral_ids(train, config, seed=x, attributes=attributes) for x in seeds]
  for items_IL, _ in books:
    tokens.append(first + np.unique(items_IL[:, 0], return_inverse=True)[1])
    first = 1 + tokens[-1].max()
  tokens.append(first + np.random.default_rng(seed).permutation(train.num_items))
  return plain.apart(np.stack(tokens, axis=1).astype(np.int32), books[0][1])


def cluster_paths(
  adjacency: scipy.sparse.csr_array,
  *,
  branching: int,
  leaf_size: int,
  levels: int,
  seed: int,
  balanced_N: np.ndarray | None = None,
) -> list[tuple[int, ...]]:
  """Returns each node's path of cluster numbers, from nested spectral clustering.

  `adjacency` is symmetric and may be disconnected. A cluster is a leaf if it has at
  most `leaf_size` nodes, is on the last of `levels`, or cannot be split. The parts
  of a split cluster have equally many nodes where `balanced_N` is true, if given.
  """
  degree_A = np.maximum(adjacency.sum(axis=0), 1)
  N, _ = graph_lib.shape(adjacency)
  paths: list[tuple[int, ...]] = [()] * N
  waiting = [np.arange(N)]
  while waiting:
    nodes = waiting.pop()
    inside = _one_step(adjacency)
    if len(nodes) < len(paths):
      inside = _within(adjacency[nodes], nodes, degree_A)
    balanced = None if balanced_N is None else balanced_N[nodes]
    label_N = _split(inside, branching, leaf_size, seed, balanced)
    level = len(paths[nodes[0]]) + 1
    if label_N.max() == 0 and level > 1:
      continue
    for number in range(label_N.max() + 1):
      members = nodes[label_N == number]
      for node in members:
        paths[node] += (number,)
      if leaf_size < len(members) < len(nodes) and level < levels:
        waiting.append(members)
  return paths


def _one_step(adjacency: scipy.sparse.csr_array) -> Walks:
  """Returns a graph as `Walks` without intermediate nodes."""
  nowhere_NA = scipy.sparse.csr_array((graph_lib.shape(adjacency)[0], 0))
  return Walks(adjacency, nowhere_NA, nowhere_NA)


def _within(
  out_NA: scipy.sparse.csr_array, nodes_N: np.ndarray, degree_A: np.ndarray
) -> Walks:
  """Returns the graph of one cluster's nodes, with walks of one and of two steps.

  `out_NA` has the rows of the adjacency for `nodes_N`; `degree_A` are all degrees. Deep
  in the tree most edges leave the cluster; walks of two steps, whose middle may be any
  user or item, keep it connected.
  """
  onward_NA = out_NA.copy()
  onward_NA.data /= degree_A[out_NA.indices]
  walks = Walks(out_NA[:, nodes_N].tocsr(), onward_NA, out_NA)
  pairs = (np.bincount(out_NA.indices).astype(np.float64) ** 2).sum()
  return walks if pairs > _MOST_PAIRS else _one_step(walks.multiplied())


def _split(
  graph: Walks, branching: int, leaf_size: int, seed: int, balanced_N=None
) -> np.ndarray:
  """Returns each node's cluster number, [N] int64, from 0 without gaps.

  Components that fit into a leaf are packed together; the others are split, in
  proportion to size, into `branching` clusters in all. (Otherwise every small component
  would take one of the leading eigenvectors, and the large ones would not split.)
  """
  component_N = graph.components()
  size_C = np.bincount(component_N)
  large_C = np.flatnonzero(size_C > leaf_size)
  label_N = np.full(len(component_N), -1)
  clusters = 0
  for component in large_C:
    share = round(branching * size_C[component] / size_C[large_C].sum())
    members = np.flatnonzero(component_N == component)
    equal_N = None if balanced_N is None else balanced_N[members]
    part_N = _spectral_clusters(graph.of(members), max(1, share), seed, equal_N)
    label_N[members] = clusters + part_N
    clusters += part_N.max() + 1

  small_C = np.flatnonzero(size_C <= leaf_size)
  small_C = small_C[np.argsort(-size_C[small_C], kind="stable")]
  total = size_C[small_C].sum()
  groups = min(branching, -(-total // leaf_size))
  start_C = np.zeros(len(size_C), dtype=np.int64)
  start_C[small_C] = np.cumsum(size_C[small_C]) - size_C[small_C]
  small_N = label_N < 0
  label_N[small_N] = clusters + start_C[component_N[small_N]] * groups // max(total, 1)
  return np.unique(label_N, return_inverse=True)[1]


def largest_eigenvectors(
  matrix_NN: np.ndarray, K: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the K largest eigenvalues, ascending, and their eigenvectors, [N, K].

  The matrix is symmetric.
  """
  N = len(matrix_NN)
  try:
    return scipy.linalg.eigh(matrix_NN, subset_by_index=(N - K, N - 1))
  except scipy.linalg.LinAlgError:
    # LAPACK's default solver fails on some repeated eigenvalues; this one is slower.
    value_N, vector_NN = scipy.linalg.eigh(matrix_NN, driver="evd")
    return value_N[-K:], vector_NN[:, -K:]


def _spectral_clusters(graph: Walks, clusters, seed, balanced_N) -> np.ndarray:
  """Returns cluster numbers [N] of a connected graph, by spectral clustering.

  If `balanced_N` is given, clusters have equally many nodes where it is true.
  """
  import sklearn.cluster  # noqa: PLC0415, slow to import

  N, _ = graph_lib.shape(graph.step_NN)
  clusters = min(clusters, N - 1)
  if clusters < 2:
    return np.zeros(N, dtype=np.int64)
  vectors = min(VECTORS * clusters, MOST_VECTORS, N - 1)
  # Single precision is 2.5 times faster, and finer than the solver's tolerance.
  laplacian = graph.scaled(1 / np.sqrt(graph @ np.ones(N)))
  if N <= _DENSE_NODES:
    value_K, vector_NK = largest_eigenvectors(laplacian.multiplied().toarray(), vectors)
  else:
    # A fixed random start has a component along every eigenvector, and makes the result
    # repeatable.
    start_N = np.random.default_rng(seed).standard_normal(N, np.float32)
    linalg: Any = scipy.sparse.linalg  # scipy declares no types
    operator = linalg.LinearOperator((N, N), laplacian.__matmul__, dtype=np.float32)
    value_K, vector_NK = linalg.eigsh(
      operator, vectors, which="LA", v0=start_N, tol=1e-4
    )
  # With few nodes, some eigenvalues may be negative.
  walk = WALK if VECTORS * clusters <= MOST_VECTORS else SHORT_WALK
  row_NK = vector_NK * np.maximum(value_K, 0)[None, :] ** walk
  row_NK /= np.maximum(np.linalg.norm(row_NK, axis=1, keepdims=True), 1e-12)
  # The sign of an eigenvector is arbitrary; the clusters must not depend on it.
  row_NK *= np.sign(row_NK[np.abs(row_NK).argmax(axis=0), np.arange(vectors)])
  with warnings.catch_warnings():
    # Nodes with the same neighbours coincide: there may be fewer points than clusters.
    warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
    means = sklearn.cluster.KMeans(clusters, n_init=1, random_state=seed)  # pyright: ignore[reportArgumentType]
    label_N = np.asarray(means.fit(row_NK).labels_)
  if balanced_N is not None and balanced_N.any():
    centre_CK = means.cluster_centers_
    label_N[balanced_N] = equal_clusters(row_NK[balanced_N], centre_CK)
  return np.unique(label_N, return_inverse=True)[1]


def equal_clusters(value_NK: np.ndarray, centre_CK: np.ndarray) -> np.ndarray:
  """Returns the cluster of each point, [N] int; none has more than ⌈N / C⌉ points.

  Starts from the centres `centre_CK`. A round assigns points by deferred acceptance
  (Gale & Shapley 1962): a point applies to the nearest centre that has not refused it;
  a centre refuses all but its ⌈N / C⌉ nearest. Each then moves to its points' mean.
  """
  (N, _), C = value_NK.shape, len(centre_CK)
  point_N, label_N = np.arange(N), np.zeros(N, np.int64)
  for _ in range(_BALANCE_ROUNDS):
    far_NC = scipy.spatial.distance.cdist(value_NK, centre_CK)
    choice_NC, refused_N = np.argsort(far_NC, axis=1, kind="stable"), np.zeros(N, int)
    while True:
      label_N = choice_NC[point_N, refused_N]
      order_N = np.lexsort((far_NC[point_N, label_N], label_N))
      first_C = np.searchsorted(label_N[order_N], np.arange(C))
      beyond_N = point_N - first_C[label_N[order_N]] >= -(-N // C)
      if not beyond_N.any():
        break
      refused_N[order_N[beyond_N]] += 1
    held_C = np.bincount(label_N, minlength=C)
    total_CK = np.zeros_like(centre_CK)
    np.add.at(total_CK, label_N, value_NK)
    mean_CK = total_CK / np.maximum(held_C, 1)[:, None]
    centre_CK = np.where(held_C[:, None] > 0, mean_CK, centre_CK)
  return label_N


def _name_clusters(path_NL: np.ndarray) -> np.ndarray:
  """Turns paths of cluster numbers into tokens; every cluster has its own token."""
  named_NL = np.full_like(path_NL, -1)
  first = 0
  for level in range(path_NL.shape[1]):
    deep = path_NL[:, level] >= 0
    prefixes = path_NL[deep, : level + 1]
    cluster = np.unique(prefixes, axis=0, return_inverse=True)[1].reshape(-1)
    named_NL[deep, level] = first + cluster
    first += cluster.max() + 1
  return named_NL
