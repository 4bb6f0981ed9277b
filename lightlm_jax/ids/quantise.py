"""GCI: graph collaborative indexing, an id is a vector's place in a few codebooks.

LightLM (arXiv 2310.17488), section on GCI: the vectors of a GCN (`gcn`) are z-scored,
cut into L pieces, and K-Means of each piece gives one of an id's L tokens: product
quantisation (Jégou et al. 2011). `residual` is the other classic, hierarchical where
the first is not: K-Means of the whole vectors, then of what its centres leave over
(Chen et al. 2010; the semantic ids of TIGER, arXiv 2305.05065, are of this kind).
Users and items are quantised together, by one codebook a level.

Letters: U users, I items, N = U + I vectors, users first; D width, L levels, K
centres.
"""

import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.errors import UserError
from lightlm_jax.ids import gcn
from lightlm_jax.ids.codes import with_last_token

_MOST_ITERATIONS = 100


def gci_ids(
  train: Interactions,
  options: gcn.Options,
  *,
  quantiser: str,
  levels: int,
  centres: int,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """Item codes [I, L + 1] and user codes [U, L + 1], int32, padded with -1.

  One column fewer where nothing needed a last token. See `codes`.

  Args:
    train: training interactions.
    options: of the vectors.
    quantiser: "product" or "residual".
    levels: tokens of a code, but for the last token (L).
    centres: different tokens at each level (K).
    seed: of everything that is drawn.

  Raises:
    UserError: vectors cannot be cut into so many levels.
  """
  node_ND = np.concatenate(gcn.embeddings(train, options, seed=seed))
  label_NL = QUANTISERS[quantiser](node_ND, levels, centres, seed)
  return codes(label_NL, train.num_users, centres, seed)


def product(z_ND: np.ndarray, levels: int, centres: int, seed: int) -> np.ndarray:
  """Product quantisation: K-Means of each of L pieces of the z-scored vectors.

  Args:
    z_ND: float.
    levels: L, at most D.
    centres: K; a piece with fewer different values has a label for each of them.
    seed: of K-Means.

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
  return np.stack([_cluster(piece, centres, seed)[0] for piece in pieces], axis=1)


def residual(z_ND: np.ndarray, levels: int, centres: int, seed: int) -> np.ndarray:
  """Residual quantisation: K-Means, then K-Means of what its centres leave over.

  Args and result as of `product`; any number of levels. The first label is the
  coarsest, and every further one tells less.
  """
  rest_ND, labels = standardised(z_ND), []
  for _ in range(levels):
    label_N, centre_KD = _cluster(rest_ND, centres, seed)
    rest_ND = rest_ND - centre_KD[label_N]
    labels.append(label_N)
  return np.stack(labels, axis=1)


QUANTISERS = {"product": product, "residual": residual}


def codes(
  label_NL: np.ndarray, num_users: int, centres: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Labels → item codes and user codes, int32, padded with -1.

  Level l writes with tokens l * K to l * K + K - 1, the same for users and items.
  Items whose labels are all equal get a last token, numbered in seeded random order
  within each such leaf, users likewise with a range of their own. All others have
  exactly L tokens, so that no code begins another.
  """
  rng = np.random.default_rng(seed)
  token_NL = label_NL + centres * np.arange(label_NL.shape[1])[None]
  first_item_token = centres * label_NL.shape[1]
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
  value_ND: np.ndarray, centres: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """Labels [N] int64 below K and the members' mean of each label, [≤ K, D]."""
  # The limit reaches the libraries loaded by then: scikit-learn brings one, so it is
  # loaded before. Clusters may not depend on how many threads the machine has.
  from sklearn.cluster import KMeans  # noqa: PLC0415, slow to import
  import threadpoolctl  # noqa: PLC0415, only building needs it

  distinct, label_N = np.unique(value_ND, axis=0, return_inverse=True)
  if len(distinct) <= centres:
    return label_N.reshape(-1), distinct
  means = KMeans(centres, n_init=1, max_iter=_MOST_ITERATIONS, random_state=seed)
  with threadpoolctl.threadpool_limits(1):
    label_N = means.fit(value_ND).labels_
  # A cluster may be left empty where values differ by less than K-Means can tell.
  label_N = np.unique(label_N, return_inverse=True)[1].reshape(-1)
  size_K = np.bincount(label_N)
  centre_KD = np.stack([np.bincount(label_N, column) for column in value_ND.T], axis=1)
  return label_N, centre_KD / size_K[:, None]
