"""Computes confidence intervals over users or seeds, and tests pairs of systems.

Shape letters: N users, D users with unequal values of two systems, V distinct values,
R resamples, M tests, S seeds. Results are float64, on the host, and fixed by the seed.
"""

import statistics

import numpy as np
import scipy.special

CHUNK = 2**22  # most random numbers in memory at a time


def interval(
  value_N: np.ndarray, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
  """Returns the percentile bootstrap interval of the mean over users.

  Efron 1979; Efron & Tibshirani 1993, chapter 13. The interval accounts for the choice
  of users, not for the training seed (see `over_seeds`). For the difference of two
  systems, pass a_N - b_N. With only a few dozen users the interval is too narrow.

  Args:
    value_N: [N] the metric of each user; N > 0.
    seed, resamples: seed and number of the samples of N users drawn with replacement.
    level: nominal coverage of the interval.

  Raises:
    ValueError: value_N is empty, not [N], or not finite.
  """
  value_N = _finite(value_N, "value_N")
  if not len(value_N):
    raise ValueError("value_N is empty: there is no mean")
  value_V, users_V = np.unique(value_N, return_counts=True)
  # Metrics take few values (NDCG@10 of one target: 11), and a mean needs only how often
  # each is drawn. Those counts are multinomial, so drawing them is drawing the users.
  N, rng, means = len(value_N), np.random.default_rng(seed), []
  for rows in _chunks(resamples, len(value_V)):
    share_RV = rng.multinomial(N, users_V / N, size=rows) / N
    means.append(share_RV @ value_V)
  outside = (1 - level) / 2
  low, high = np.quantile(np.concatenate(means), [outside, 1 - outside]).tolist()
  return low, high


def paired_p(
  a_N: np.ndarray, b_N: np.ndarray, *, seed: int = 0, resamples: int = 10_000
) -> float:
  """Returns the two-sided p of a paired randomisation test for equal means.

  Under the null hypothesis a user's two values can be swapped, so every difference has
  a random sign. Fisher 1935; for retrieval Smucker, Allan & Carterette 2007. The
  observed signs count as one more resample, so that p is at least 1 / (resamples + 1)
  (Phipson & Smyth 2010). If no user's values differ, p is 1.0.

  Args:
    a_N, b_N: [N] the metric of each user under the two systems.
    seed, resamples: seed and number of the resamples, each with random signs.

  Raises:
    ValueError: the shapes differ or are not [N], or a value is not finite.
  """
  a_N, b_N = _finite(a_N, "a_N"), _finite(b_N, "b_N")
  if a_N.shape != b_N.shape:
    raise ValueError(f"a_N has {len(a_N)} users, b_N {len(b_N)}: they must be the same")
  # Users with equal values add 0 with either sign.
  difference_D = (a_N - b_N)[a_N != b_N]
  D, size_D = len(difference_D), np.abs(difference_D)
  total = size_D.sum()
  # Sums that are equal in exact arithmetic differ by rounding; count them as equal.
  observed = abs(difference_D.sum()) - 1e-12 * total
  rng = np.random.default_rng(seed)
  extreme = 0
  for rows in _chunks(resamples, D):
    bytes_RB = rng.integers(0, 256, size=(rows, -(-D // 8)), dtype=np.uint8)
    positive_RD = np.unpackbits(bytes_RB, axis=1, count=D)
    sum_R = 2 * (positive_RD @ size_D) - total
    extreme += np.count_nonzero(np.abs(sum_R) >= observed)
  return float((extreme + 1) / (resamples + 1))


def holm(p_M: np.ndarray) -> np.ndarray:
  """Returns the p-values of M tests, [M] in 0 … 1, adjusted for multiple testing.

  Holm 1979, step-down: if all tests with an adjusted p of at most α are rejected, the
  chance of any false rejection is at most α, however the tests depend on each other.

  Raises:
    ValueError: p_M is not [M], or not within 0 … 1.
  """
  p_M = _finite(p_M, "p_M")
  if ((p_M < 0) | (p_M > 1)).any():
    raise ValueError(f"p_M has values outside 0 … 1: {p_M.tolist()}")
  order_M = np.argsort(p_M, kind="stable")
  adjusted_M = np.empty_like(p_M)
  left_M = np.arange(len(p_M), 0, -1)
  adjusted_M[order_M] = np.minimum(np.maximum.accumulate(left_M * p_M[order_M]), 1)
  return adjusted_M


def over_seeds(value_S: np.ndarray, *, level: float = 0.95) -> dict[str, float | None]:
  """Returns {mean, std, seeds, low, high} of a metric over S > 0 training seeds.

  std divides by S - 1; low and high are the Student-t interval of the mean at `level`.
  With one seed std, low and high are None.

  Raises:
    ValueError: value_S is empty, not [S], or not finite.
  """
  values = _finite(value_S, "value_S").tolist()
  if not values:
    raise ValueError("value_S is empty: there is no mean")
  # `statistics` sums exactly, so that equal seeds have a std of exactly 0.
  S, mean = len(values), statistics.mean(values)
  if S == 1:
    return {"mean": mean, "std": None, "seeds": 1, "low": None, "high": None}
  std = statistics.stdev(values)
  half = float(scipy.special.stdtrit(S - 1, (1 + level) / 2)) * std / S**0.5
  return {"mean": mean, "std": std, "seeds": S, "low": mean - half, "high": mean + half}


def _finite(values: np.ndarray, name: str) -> np.ndarray:
  """Returns `values` as float64; raises a ValueError if they are not [N] and finite."""
  values = np.asarray(values, dtype=np.float64)
  if values.ndim != 1:
    raise ValueError(f"{name} has shape {values.shape}, not one value each")
  if not np.isfinite(values).all():
    raise ValueError(f"{name}[{np.argmin(np.isfinite(values))}] is not finite")
  return values


def _chunks(resamples: int, width: int) -> list[int]:
  """Returns the row counts of chunks of [resamples, width] that fit into memory."""
  rows = max(1, CHUNK // max(width, 1))
  return [min(rows, resamples - done) for done in range(0, resamples, rows)]
