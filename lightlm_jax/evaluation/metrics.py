"""Computes ranking metrics in float64 on the host, from integer ranks of targets.

A target's rank is 1 + the number of items scored strictly above it; 0 is a miss. Each
metric takes the rank of one target per request, rank_N, or of several, rank_NT, padded
with -1 to the largest number of targets T.

If other items tie with a single target, each metric is its expected value over a random
order of the tie, so that a constant scorer gets the metrics of random guessing. Ranks
of several targets come from lists, which have no ties.
"""

import numpy as np

Ties = np.ndarray | None


def hit_rate(rank_N: np.ndarray, ties_N: Ties = None, *, k: int) -> np.ndarray:
  """Returns HR@k of each request, [N] float64: 1 if a target is among the first k.

  Args:
    rank_N: integers, [N], or [N, T] for T targets a request: 1 + the number of items
      strictly above the target; 0 = miss, -1 = the request has no further target.
    ties_N: integers, [N], the number of other items with the target's score; the result
      is then the expected value over random orders of the tied items. None = no ties.
    k: length of the list.

  Raises:
    ValueError: ties with several targets, two targets at one rank, or no target.
  """
  gain_NT, _ = _gains(np.ones(k), rank_N, ties_N)
  return gain_NT.max(axis=1)


def recall(rank_N: np.ndarray, ties_N: Ties = None, *, k: int) -> np.ndarray:
  """Returns Recall@k of each request: the share of its targets among the first k.

  It is a share of all targets, even of more than k targets. Arguments as in `hit_rate`.
  """
  gain_NT, targets_N = _gains(np.ones(k), rank_N, ties_N)
  return gain_NT.sum(axis=1) / targets_N


def ndcg(rank_N: np.ndarray, ties_N: Ties = None, *, k: int) -> np.ndarray:
  """Returns NDCG@k of each request: the DCG of its targets over the ideal DCG.

  DCG is the sum of 1 / log2(rank + 1) over the targets of rank ≤ k; ideally these have
  the ranks 1, 2, …, so that the ideal DCG is 1 for one target (Järvelin & Kekäläinen
  2002). Ties are averaged as by McSherry & Najork 2008 and scikit-learn's `ndcg_score`.
  Arguments as in `hit_rate`.
  """
  gain_K = 1 / np.log2(np.arange(2, k + 2))
  gain_NT, targets_N = _gains(gain_K, rank_N, ties_N)
  ideal_N = np.cumsum(gain_K)[np.minimum(targets_N, k) - 1]
  return gain_NT.sum(axis=1) / ideal_N


def reciprocal_rank(rank_N: np.ndarray, ties_N: Ties = None, *, k: int) -> np.ndarray:
  """Returns 1 / rank of each request's best target, 0 beyond k; see `hit_rate`."""
  gain_NT, _ = _gains(1 / np.arange(1, k + 1), rank_N, ties_N)
  return gain_NT.max(axis=1)


def summarise(rank_N: np.ndarray, ties_N: Ties = None) -> dict[str, float]:
  """Returns the mean of each metric over N > 0 requests; a miss counts as 0.

  Keys: hr@5, hr@10, hr@20, ndcg@5, ndcg@10, ndcg@20, mrr@10; for ranks [N, T] also
  recall@5, recall@10, recall@20. Arguments as in `hit_rate`.
  """
  summary = {f"hr@{k}": hit_rate(rank_N, ties_N, k=k) for k in (5, 10, 20)}
  summary |= {f"ndcg@{k}": ndcg(rank_N, ties_N, k=k) for k in (5, 10, 20)}
  summary["mrr@10"] = reciprocal_rank(rank_N, ties_N, k=10)
  if np.ndim(rank_N) == 2:
    summary |= {f"recall@{k}": recall(rank_N, k=k) for k in (5, 10, 20)}
  return {name: float(value_N.mean()) for name, value_N in summary.items()}


def _gains(
  gain_K: np.ndarray, rank_N: np.ndarray, ties_N: Ties
) -> tuple[np.ndarray, np.ndarray]:
  """Returns each target's gain, [N, T], and each request's number of targets, [N].

  gain_K holds the gains of ranks 1 … K; gains beyond K and of misses are 0. The gain of
  a target with ties is averaged over the ranks of the tied items.
  """
  rank_NT = np.asarray(rank_N, dtype=np.int64)
  if rank_NT.ndim == 1:
    rank_NT = rank_NT[:, None]
    ties_N = None if ties_N is None else np.asarray(ties_N, np.int64)[:, None]
  elif ties_N is not None:
    raise ValueError(f"ties_N is for one target a request, ranks are {rank_NT.shape}")
  targets_N = (rank_NT >= 0).sum(axis=1)
  if (targets_N == 0).any():
    raise ValueError(f"request {np.argmin(targets_N)} has no target: its ranks are -1")
  # Two targets at one rank could raise NDCG above 1.
  sorted_NT = np.sort(rank_NT, axis=1)
  shared_NT = (sorted_NT[:, 1:] == sorted_NT[:, :-1]) & (sorted_NT[:, 1:] > 0)
  if shared_NT.any():
    n = np.argmax(shared_NT.any(axis=1))
    raise ValueError(f"request {n} has two targets at one rank: {rank_NT[n].tolist()}")
  k = len(gain_K)
  gain_NT = np.concatenate([[0.0], gain_K, [0.0]])[np.clip(rank_NT, 0, k + 1)]
  if ties_N is not None:
    # The mean gain over the ranks rank_N, …, rank_N + ties_N.
    total_K1 = np.concatenate([[0.0], np.cumsum(gain_K)])
    above_NT = np.clip(rank_NT - 1, 0, k)
    below_NT = np.clip(rank_NT + ties_N, 0, k)
    expected_NT = (total_K1[below_NT] - total_K1[above_NT]) / (ties_N + 1)
    # Without ties, the difference of two sums would only add rounding errors.
    gain_NT = np.where((rank_NT > 0) & (ties_N > 0), expected_NT, gain_NT)
  return gain_NT, targets_N
