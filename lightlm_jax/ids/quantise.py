"""GCI: graph collaborative indexing. An id is a vector's centres in several codebooks.

LightLM (arXiv 2310.17488), section on GCI: the vectors of a GCN (`gcn`) are z-scored
and cut into L pieces, and K-Means on each piece gives one of an id's L tokens: product
quantisation (Jégou et al. 2011). `residual` is the hierarchical alternative: K-Means on
the whole vectors, then on the residuals (Chen et al. 2010; as in the semantic ids of
TIGER, arXiv 2305.05065). Users and items share one codebook per level.

Nodes without a training edge have no vector to quantise. They share a first token that
no other node has, the cold branch, followed by the digits of a random number.

Letters: U users, I items, N = U + I vectors, users first; D width, L levels, K centres.
"""

from jax.sharding import Mesh
import numpy as np

from lightlm_jax.config.data_groups import Ids
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import gcn_training, lloyd
from lightlm_jax.ids.codes import with_last_tokens
from lightlm_jax.runtime.errors import UserError

_MOST_ITERATIONS = 100
# Beyond this, scikit-learn's K-Means and a GCN take many hours on one CPU.
MOST_ON_ONE_CPU = 1_000_000
# On a mesh, the initial centres are chosen among this many points per centre.
_SAMPLE = 256


def gci_ids(
  train: Interactions, config: Ids, *, seed: int, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Returns item codes [I, L + 1] and user codes [U, L + 1], int32, padded with -1.

  L is `config.gci_levels`. See `codes` for the tokens, and `with_cold` for nodes
  without a training edge. A table in which no code needs a last token has L columns.
  Devices of a mesh (None = one CPU) share the work. K-Means starts from other centres
  on a mesh than on one CPU, so that codes differ.

  Raises:
    UserError: `config.gcn.dim` is below L with the quantiser "product", or the log is
      too large for one CPU.
  """
  if mesh is None and max(train.num_users, train.num_items) > MOST_ON_ONE_CPU:
    raise UserError(
      f"gci ids of {train.num_users:,} users and {train.num_items:,} items would take "
      "one CPU many hours; share the work by --config.ids.devices=-1 (all devices)"
    )
  levels, centres = config.gci_levels, config.centres
  vectors = gcn_training.embeddings(train, config.gcn, seed=seed, mesh=mesh)
  warm_U = train.length_U > 0
  warm_I = np.bincount(train.item_E, minlength=train.num_items) > 0
  warm_N = np.concatenate([warm_U, warm_I])
  label_WL = np.zeros((0, levels), np.int64)
  if warm_N.any():
    warm_WD = np.concatenate(vectors)[warm_N]
    label_WL = QUANTISERS[config.quantiser](warm_WD, levels, centres, seed, mesh)
  parts = zip(np.split(label_WL, [warm_U.sum()]), (warm_U, warm_I))
  labels = [with_cold(part_WL, warm_M, centres, seed) for part_WL, warm_M in parts]
  return codes(np.concatenate(labels), train.num_users, centres, seed)


def with_cold(
  label_WL: np.ndarray, warm_M: np.ndarray, centres: int, seed: int
) -> np.ndarray:
  """Returns the labels of M nodes, [M, L] int64; `label_WL` has those of warm nodes.

  `warm_M` is bool, true for nodes with a training edge; K is `centres`. A cold node
  gets K as its first label, then the base-K digits of a random number: two cold nodes
  share all labels only if there are more than K**(L - 1) of them.
  """
  label_ML = np.empty((len(warm_M), label_WL.shape[1]), np.int64)
  label_ML[warm_M] = label_WL
  label_ML[~warm_M, 0] = centres
  number_C = np.random.default_rng(seed).permutation(np.count_nonzero(~warm_M))
  for level in range(1, label_ML.shape[1]):
    number_C, label_ML[~warm_M, level] = np.divmod(number_C, centres)
  return label_ML


def product(
  z_ND: np.ndarray, levels: int, centres: int, seed: int, mesh: Mesh | None = None
) -> np.ndarray:
  """Returns labels by product quantisation: K-Means on L pieces of z-scored vectors.

  L is `levels`, K `centres`. Labels are [N, L] int64 below K and do not depend on the
  number of threads. If a piece has at most K distinct values, each value has a label
  of its own. Devices of the mesh share K-Means; None = scikit-learn on the CPU. Raises
  a UserError if L exceeds D, the width of the vectors.
  """
  if levels > z_ND.shape[1]:
    raise UserError(
      f"vectors of {z_ND.shape[1]} numbers cannot be cut into {levels} levels; give "
      "fewer levels or wider vectors"
    )
  pieces = np.array_split(standardised(z_ND), levels, axis=1)
  labels = [_cluster(piece, centres, seed, mesh)[0] for piece in pieces]
  return np.stack(labels, axis=1)


def residual(
  z_ND: np.ndarray, levels: int, centres: int, seed: int, mesh: Mesh | None = None
) -> np.ndarray:
  """Returns labels by residual quantisation: K-Means on vectors, then on residuals.

  Arguments and result as in `product`, with any `levels`; the first label is coarsest.
  """
  rest_ND, labels = standardised(z_ND), []
  for _ in range(levels):
    label_N, centre_KD = _cluster(rest_ND, centres, seed, mesh)
    rest_ND = rest_ND - centre_KD[label_N]
    labels.append(label_N)
  return np.stack(labels, axis=1)


QUANTISERS = {"product": product, "residual": residual}


def codes(
  label_NL: np.ndarray, num_users: int, centres: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns item codes and user codes from labels, int32, padded with -1.

  K is `centres`. The first level has the tokens 0 to K; token K is the cold branch.
  Each further level has the next K tokens. Users and items share these. Items with
  equal labels get a last token, numbered in seeded random order; so do users, with
  other tokens. All other codes have exactly L tokens: no code is a prefix of another.
  """
  rng = np.random.default_rng(seed)
  levels = label_NL.shape[1]
  first_L = centres * np.arange(levels) + (np.arange(levels) > 0)
  token_NL = label_NL + first_L[None, :]
  token_UL, token_IL = np.split(token_NL, [num_users])
  return with_last_tokens(token_UL, token_IL, 1 + centres * levels, rng, apart=False)


def standardised(value_ND: np.ndarray) -> np.ndarray:
  """Returns the columns z-scored, in float64; a constant column becomes 0."""
  centred_ND = value_ND.astype(np.float64) - value_ND.mean(axis=0, dtype=np.float64)
  deviation_D = centred_ND.std(axis=0)
  return centred_ND / np.where(deviation_D > 0, deviation_D, 1)[None]


def _cluster(
  value_ND: np.ndarray, centres: int, seed: int, mesh: Mesh | None
) -> tuple[np.ndarray, np.ndarray]:
  """Runs K-Means; returns labels, [N] int64, and K ≤ `centres` means, [K, D]."""
  # One thread: clusters must not depend on the machine's number of threads. The limit
  # applies to loaded libraries only, so scikit-learn is imported first.
  import sklearn.cluster  # noqa: PLC0415, slow to import
  import threadpoolctl  # noqa: PLC0415, only building needs it

  # Checking the first rows avoids sorting a million of them.
  if len(np.unique(value_ND[: 10 * centres], axis=0)) <= centres:
    distinct, label_N = np.unique(value_ND, axis=0, return_inverse=True)
    if len(distinct) <= centres:
      return label_N.reshape(-1), distinct
  with threadpoolctl.threadpool_limits(1):
    if mesh is None:
      means = sklearn.cluster.KMeans(
        centres,
        n_init=1,  # pyright: ignore[reportArgumentType], a default of "auto"
        max_iter=_MOST_ITERATIONS,
        random_state=seed,
      )
      label_N = np.asarray(means.fit(value_ND).labels_)
    else:
      order_N = np.random.default_rng(seed).permutation(len(value_ND))
      start_KD, _ = sklearn.cluster.kmeans_plusplus(
        value_ND[order_N[: _SAMPLE * centres]], centres, random_state=seed
      )
      label_N = lloyd.assign(value_ND, start_KD, mesh, iterations=_MOST_ITERATIONS)
  # Clusters can be empty if values differ by less than the tolerance of K-Means.
  label_N = np.unique(label_N, return_inverse=True)[1].reshape(-1)
  size_K = np.bincount(label_N)
  centre_KD = np.stack([np.bincount(label_N, column) for column in value_ND.T], axis=1)
  return label_N, centre_KD / size_K[:, None]
