"""GCI: graph collaborative indexing, an id is a vector's place in a few codebooks.

LightLM (arXiv 2310.17488), section on GCI: the vectors of a GCN (`gcn`) are z-scored,
cut into L pieces, and K-Means of each piece gives one of an id's L tokens: product
quantisation (Jégou et al. 2011). `residual` is the other classic, hierarchical where
the first is not: K-Means of the whole vectors, then of what its centres leave over
(Chen et al. 2010; the semantic ids of TIGER, arXiv 2305.05065, are of this kind).
Users and items are quantised together, by one codebook a level.

Nodes without a training edge have no place among the vectors. Their first token is one
that no other node has, the cold branch, and the digits of a number drawn for each
follow it.

Letters: U users, I items, N = U + I vectors, users first; D width, L levels, K
centres.
"""

from jax.sharding import Mesh
import numpy as np

from lightlm_jax.config.data_groups import Gcn
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import gcn_training, lloyd
from lightlm_jax.ids.codes import with_last_token
from lightlm_jax.runtime.errors import UserError

_MOST_ITERATIONS = 100
# Of more, scikit-learn's K-Means and a GCN on one CPU take many hours.
MOST_ON_ONE_CPU = 1_000_000
# On a mesh, K-Means begins with centres chosen among so many points for each.
_SAMPLE = 256


def gci_ids(
  train: Interactions,
  options: Gcn,
  *,
  quantiser: str,
  levels: int,
  centres: int,
  seed: int,
  mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Item codes [I, L + 1] and user codes [U, L + 1], int32, padded with -1.

  One column fewer where nothing needed a last token. See `codes` and `with_cold`.

  Args:
    train: training interactions.
    options: of the vectors.
    quantiser: "product" or "residual".
    levels: tokens of a code, but for the last token (L).
    centres: different tokens at each level (K).
    seed: of everything that is drawn.
    mesh: devices to share the vectors' training and K-Means, which begins with other
      centres there: another book than one CPU's (None).

  Raises:
    UserError: vectors cannot be cut into so many levels, or there are so many users or
      items that one CPU would take hours.
  """
  if mesh is None and max(train.num_users, train.num_items) > MOST_ON_ONE_CPU:
    raise UserError(
      f"gci ids of {train.num_users:,} users and {train.num_items:,} items would take "
      "one CPU many hours; share the work by --config.ids.devices=-1 (all devices)"
    )
  node_ND = np.concatenate(
    gcn_training.embeddings(train, options, seed=seed, mesh=mesh)
  )
  warm_U = train.length_U > 0
  warm_I = np.bincount(train.item_E, minlength=train.num_items) > 0
  warm_N = np.concatenate([warm_U, warm_I])
  label_WL = np.zeros((0, levels), np.int64)
  if warm_N.any():
    label_WL = QUANTISERS[quantiser](node_ND[warm_N], levels, centres, seed, mesh)
  label_NL = np.concatenate(
    [
      with_cold(part_WL, warm_M, centres, seed)
      for part_WL, warm_M in zip(np.split(label_WL, [warm_U.sum()]), (warm_U, warm_I))
    ]
  )
  return codes(label_NL, train.num_users, centres, seed)


def with_cold(
  label_WL: np.ndarray, warm_M: np.ndarray, centres: int, seed: int
) -> np.ndarray:
  """[M, L] int64: labels of all nodes, from those of the ones that have an edge.

  The first label of the others is K; the digits of a number in base K follow, drawn
  for each, of which two are equal only where L - 1 digits do not suffice.
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
  """Product quantisation: K-Means of each of L pieces of the z-scored vectors.

  Args:
    z_ND: float.
    levels: L, at most D.
    centres: K; a piece with fewer different values has a label for each of them.
    seed: of K-Means.
    mesh: whose devices share K-Means; None for scikit-learn's.

  Returns:
    [N, L] int64 labels below K. They do not depend on the number of threads.

  Raises:
    UserError: there are more levels than columns.
  """
  if levels > z_ND.shape[1]:
    raise UserError(
      f"vectors of {z_ND.shape[1]} numbers cannot be cut into {levels} levels; ask "
      "for fewer levels or for wider vectors"
    )
  pieces = np.array_split(standardised(z_ND), levels, axis=1)
  labels = [_cluster(piece, centres, seed, mesh)[0] for piece in pieces]
  return np.stack(labels, axis=1)


def residual(
  z_ND: np.ndarray, levels: int, centres: int, seed: int, mesh: Mesh | None = None
) -> np.ndarray:
  """Residual quantisation: K-Means, then K-Means of what its centres leave over.

  Args and result as of `product`; any number of levels. The first label is the
  coarsest, and every further one tells less.
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
  """Labels → item codes and user codes, int32, padded with -1.

  The first level writes with the tokens from 0 to K, where K is the cold branch, and
  each further one with the next K, the same for users and items. Items whose labels
  are all equal get a last token, numbered in seeded random order within each such
  leaf, users likewise with a range of their own. All others have exactly L tokens, so
  that no code begins another.
  """
  rng = np.random.default_rng(seed)
  levels = label_NL.shape[1]
  first_L = centres * np.arange(levels) + (np.arange(levels) > 0)
  token_NL = label_NL + first_L[None, :]
  first_item_token = 1 + centres * levels
  items = with_last_token(token_NL[num_users:], first_item_token, rng, apart=False)
  first_user_token = max(first_item_token, 1 + items.max(initial=0))
  users = with_last_token(token_NL[:num_users], first_user_token, rng, apart=False)
  return items, users


def standardised(value_ND: np.ndarray) -> np.ndarray:
  """float64: every column with mean 0 and standard deviation 1; 0 if constant."""
  centred_ND = value_ND.astype(np.float64) - value_ND.mean(axis=0, dtype=np.float64)
  deviation_D = centred_ND.std(axis=0)
  return centred_ND / np.where(deviation_D > 0, deviation_D, 1)[None]


def _cluster(
  value_ND: np.ndarray, centres: int, seed: int, mesh: Mesh | None
) -> tuple[np.ndarray, np.ndarray]:
  """Labels [N] int64 below K and the members' mean of each label, [≤ K, D]."""
  # The limit reaches the libraries loaded by then: scikit-learn brings one, so it is
  # loaded before. Clusters may not depend on how many threads the machine has.
  import sklearn.cluster  # noqa: PLC0415, slow to import
  import threadpoolctl  # noqa: PLC0415, only building needs it

  # Sorting a million rows takes longer than seeing that a few differ.
  if len(np.unique(value_ND[: 10 * centres], axis=0)) <= centres:
    distinct, label_N = np.unique(value_ND, axis=0, return_inverse=True)
    if len(distinct) <= centres:
      return label_N.reshape(-1), distinct
  with threadpoolctl.threadpool_limits(1):
    if mesh is None:
      means = sklearn.cluster.KMeans(
        centres, n_init=1, max_iter=_MOST_ITERATIONS, random_state=seed
      )
      label_N = means.fit(value_ND).labels_
    else:
      order_N = np.random.default_rng(seed).permutation(len(value_ND))
      start_KD, _ = sklearn.cluster.kmeans_plusplus(
        value_ND[order_N[: _SAMPLE * centres]], centres, random_state=seed
      )
      label_N = lloyd.assign(value_ND, start_KD, mesh, iterations=_MOST_ITERATIONS)
  # A cluster may be left empty where values differ by less than K-Means can tell.
  label_N = np.unique(label_N, return_inverse=True)[1].reshape(-1)
  size_K = np.bincount(label_N)
  centre_KD = np.stack([np.bincount(label_N, column) for column in value_ND.T], axis=1)
  return label_N, centre_KD / size_K[:, None]
