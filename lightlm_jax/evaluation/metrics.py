"""Ranking metrics in float64 on the host, from the integer ranks a device returned.

Every request has one target. Its rank is 1 + the number of items strictly above it;
0 is a miss. Where other items are scored exactly level with the target, each metric is
its expected value over a random order of the tie, so that a constant scorer gets what
guessing gets and never what the order of the item numbers happens to give.
"""

import numpy as np


def hit_rate(
  rank_N: np.ndarray, ties_N: np.ndarray | None = None, *, k: int
) -> np.ndarray:
  """HR@k of each request: 1 if the target is among the first k.

  Args:
    rank_N: integers, 1 + the number of items strictly above the target; 0 = miss.
    ties_N: integers, the number of other items level with the target; None = none.
    k: length of the list.

  Returns:
    [N] float64.
  """
  return _expected_gain(np.ones(k), rank_N, ties_N)


def ndcg(rank_N: np.ndarray, ties_N: np.ndarray | None = None, *, k: int) -> np.ndarray:
  """NDCG@k of each request, one relevant item: 1 / log2(rank + 1) within the first k.

  Järvelin & Kekäläinen 2002; over ties the average that McSherry & Najork 2008 and
  `sklearn.metrics.ndcg_score` take. Arguments and result as in `hit_rate`.
  """
  return _expected_gain(1 / np.log2(np.arange(2, k + 2)), rank_N, ties_N)


def reciprocal_rank(
  rank_N: np.ndarray, ties_N: np.ndarray | None = None, *, k: int
) -> np.ndarray:
  """MRR@k before the mean: 1 / rank within the first k. As `hit_rate` otherwise."""
  return _expected_gain(1 / np.arange(1, k + 1), rank_N, ties_N)


def summarise(rank_N: np.ndarray, ties_N: np.ndarray | None = None) -> dict[str, float]:
  """The metrics of a report, each the mean over all N requests, misses counted as 0.

  Args:
    rank_N: see `hit_rate`; N > 0.
    ties_N: see `hit_rate`.

  Returns:
    hr@5, hr@10, hr@20, ndcg@5, ndcg@10, ndcg@20, mrr@10.
  """
  summary = {f"hr@{k}": hit_rate(rank_N, ties_N, k=k) for k in (5, 10, 20)}
  summary |= {f"ndcg@{k}": ndcg(rank_N, ties_N, k=k) for k in (5, 10, 20)}
  summary["mrr@10"] = reciprocal_rank(rank_N, ties_N, k=10)
  return {name: float(value_N.mean()) for name, value_N in summary.items()}


def _expected_gain(
  gain_K: np.ndarray, rank_N: np.ndarray, ties_N: np.ndarray | None
) -> np.ndarray:
  """Mean gain over the places rank, …, rank + ties; 0 beyond K and for a miss."""
  rank_N = np.asarray(rank_N, dtype=np.int64)
  ties_N = np.zeros_like(rank_N) if ties_N is None else np.asarray(ties_N, np.int64)
  k = len(gain_K)
  total_K1 = np.concatenate([[0.0], np.cumsum(gain_K)])
  above_N = np.clip(rank_N - 1, 0, k)
  below_N = np.clip(rank_N + ties_N, 0, k)
  expected_N = (total_K1[below_N] - total_K1[above_N]) / (ties_N + 1)
  # Where nothing is level, the difference of two sums would only add rounding.
  single_N = np.append(gain_K, 0.0)[above_N]
  return np.where(rank_N > 0, np.where(ties_N > 0, expected_N, single_N), 0.0)
