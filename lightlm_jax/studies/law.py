"""Fits power laws, L = a·N^-α + b·D^-β + c, of the loss L in size N and data D.

The method is approach 3 of Hoffmann et al. 2022 (arXiv 2203.15556): a Huber loss on
log L, minimised by L-BFGS from several starts. The Huber threshold here is 1 %, about
the deviation of a small model's seeds; the paper's 0.1 % suits hundreds of large runs.

Letters: R runs, P points (a point's runs differ only in their seed), T power-law terms
(of N, and of D if given), S bootstrap resamples. `theta` is (log a, log b, α, β, log c)
for N, D and L each divided by its typical value, so that units do not matter.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np
import scipy.optimize

DELTA = 0.01  # Huber threshold, as a relative error of L
EXPONENTS = (0.01, 3.0)  # bounds of α and β
_WEIGHTS = (-20.0, 20.0)  # bounds of log a and log b
_FLOORS = (-15.0, 5.0)  # bounds of log c
_NO_EFFECT = 1e-4  # the exponent of a term that changes the loss less is meaningless


class Law(NamedTuple):
  """Loss a·N^-alpha + b·D^-beta + c of size N and data D; b = beta = 0 without D."""

  a: float
  alpha: float
  b: float
  beta: float
  c: float

  def __call__(self, size, data=1.0):
    """Returns the predicted loss; `size` (N) and `data` (D) are broadcast."""
    return (
      self.a * np.asarray(size, np.float64) ** -self.alpha
      + self.b * np.asarray(data, np.float64) ** -self.beta
      + self.c
    )


class Fit(NamedTuple):
  """A law fitted to all runs, laws fitted to resamples, and coefficient intervals."""

  law: Law  # the fit to all runs
  intervals: dict[str, tuple[float, float]]  # (low, high) of each field of the law
  resampled_S: tuple[Law, ...]
  error: float  # typical relative error of a run: the median of |log L - log law|
  runs: int
  points: int
  remarks: tuple[str, ...]  # caveats, as clauses without capital and full stop

  def band(self, size, data=1.0):
    """Returns (low, high), the loss's 95 % bootstrap band at `size` (N), `data` (D)."""
    expected = np.stack([law(size, data) for law in self.resampled_S])
    return tuple(np.quantile(expected, [0.025, 0.975], axis=0))


class Unidentified(NamedTuple):
  """Returned in place of a `Fit` if runs do not identify a law; `reason` says why."""

  reason: str


def fit(
  loss_R: np.ndarray,
  size_R: np.ndarray,
  data_R: np.ndarray | None = None,
  *,
  point_R: np.ndarray | None = None,
  names: Sequence[str] = ("N", "D"),
  resamples: int = 300,
  level: float = 0.95,
) -> Fit | Unidentified:
  """Fits L = a·N^-α + b·D^-β + c, or L = a·N^-α + c without `data_R`.

  Intervals are percentiles of a cluster bootstrap. Runs of equal `point_R` are drawn
  together: they have the same shape, and so share that shape's deviation from the law.

  Args:
    loss_R: [R] losses, positive.
    size_R: [R] N, positive: parameters, or another quantity that reduces the loss.
    data_R: [R] D, positive; None = fit the law of N alone.
    point_R: [R] number of each run's point; None = runs of equal N and D are one point.
    names: words for N and D in the `reason` or `remarks` of the result.
    resamples: S, the number of bootstrap resamples.
    level: coverage of the intervals.

  Raises:
    ValueError: a value is not positive or not finite, or the lengths differ.
  """
  given = (loss_R, size_R) if data_R is None else (loss_R, size_R, data_R)
  loss_R, *columns = (np.asarray(values_R, np.float64) for values_R in given)
  for values_R in (loss_R, *columns):
    if values_R.ndim != 1 or not ((values_R > 0) & (values_R < np.inf)).all():
      raise ValueError("a power law needs one positive number for each run")
  if len({len(loss_R), *map(len, columns)}) > 1:
    raise ValueError("loss, size and data have different numbers of runs")
  names = names[: len(columns)]
  key_RK = np.column_stack([*columns, *([] if point_R is None else [point_R])])
  point_R = np.unique(key_RK, axis=0, return_inverse=True)[1].reshape(-1)
  if reason := _too_few(columns, names, spare=1):
    return Unidentified(reason)
  unit_T = [np.exp(np.log(values_R).mean()) for values_R in columns]
  unit = float(np.median(loss_R))
  x_TR = np.stack([np.log(values / one) for values, one in zip(columns, unit_T)])
  y_R = np.log(loss_R / unit)
  theta = _solve(x_TR, y_R, np.ones_like(y_R), _starts(len(columns)))
  law = _law(theta, unit_T, unit)
  if reason := _at_bound(law, columns, names, loss_R):
    return Unidentified(reason)
  resampled_S = tuple(
    _law(_solve(x_TR, y_R, weight_R, [theta]), unit_T, unit)
    for weight_R in itertools.islice(_resample(point_R, columns, resamples), resamples)
  )
  tails = [(1 - level) / 2, (1 + level) / 2]
  ends = np.quantile(np.array(resampled_S), tails, axis=0).T
  intervals = dict(zip(Law._fields, map(tuple, ends.tolist())))
  P, remarks = int(point_R.max()) + 1, []
  if P < 2 * len(theta):
    remarks.append(f"with only {P} points the intervals are too narrow")
  for exponent, name in zip(("alpha", "beta"), names):
    low, high = intervals[exponent]
    at_ends = low <= EXPONENTS[0] * 1.01, high >= EXPONENTS[1] * 0.99
    if all(at_ends):
      return Unidentified(
        f"the bootstrap interval of the exponent of {name} spans its whole range, "
        f"{EXPONENTS[0]} to {EXPONENTS[1]:g}"
      )
    if any(at_ends):
      remarks.append(f"the interval of the exponent of {name} is open on one side")
  if intervals["c"][0] < 0.01 * unit:
    remarks.append("c is not significantly above 0: no floor is visible yet")
  error = float(np.median(np.abs(y_R - _expected(theta, x_TR)[0])))
  return Fit(law, intervals, resampled_S, error, len(loss_R), P, tuple(remarks))


def _too_few(
  columns: Sequence[np.ndarray], names: Sequence[str], *, spare: int = 0
) -> str | None:
  """Returns a reason if points are too few to identify the law, else None.

  Each of `columns` (N, or N and D) needs three different values: it has to determine a
  factor, an exponent and an offset. `spare` points are required beyond the number of
  parameters; if it is 0, the law may fit exactly, and its error is then unknown.
  """
  unknowns = 2 * len(columns) + 1
  for name, values_R in zip(names, columns):
    different = len(np.unique(values_R))
    if different == 1:
      return f"{name} has only one value"
    if different < 3:
      return f"{name} has {different} different values; an exponent needs 3"
  different = len(np.unique(np.column_stack(columns), axis=0))
  if different < unknowns + spare:
    return (
      f"the law has {unknowns} parameters, and {different} different points are too "
      "few to fit them"
    )
  return None


def _starts(T: int) -> list[np.ndarray]:
  """Returns starting parameters, each [2 T + 1], of slow and steep laws of T terms."""
  exponents = itertools.product((0.1, 0.4, 1.2), repeat=T)
  return [
    np.array([*[np.log((1 - floor) / T)] * T, *exponent_T, np.log(floor)])
    for exponent_T in exponents
    for floor in (0.2, 0.5, 0.9)
  ]


def _solve(x_TR, y_R, weight_R, starts) -> np.ndarray:
  """Returns the parameters, [2 T + 1], with the lowest Huber loss over all starts.

  x_TR is log N (and log D) of each run, y_R its log L, weight_R how often it counts.
  """
  T = len(x_TR)
  # Runs of weight 0 would only cost time.
  drawn_R = weight_R > 0
  options = {
    "args": (x_TR[:, drawn_R], y_R[drawn_R], weight_R[drawn_R] / weight_R.sum()),
    "bounds": [_WEIGHTS] * T + [EXPONENTS] * T + [_FLOORS],
    "options": {"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
  }
  minimise = scipy.optimize.minimize
  found = (minimise(_huber, s, jac=True, method="L-BFGS-B", **options) for s in starts)
  return min(found, key=lambda result: result.fun).x


def _huber(theta, x_TR, y_R, weight_R) -> tuple[float, np.ndarray]:
  """Returns Huber loss / DELTA² and its gradient, [2 T + 1], at parameters `theta`."""
  T = len(x_TR)
  expected_R, share_TR = _expected(theta, x_TR)
  error_R = (expected_R - y_R) / DELTA
  size_R = np.abs(error_R)
  value_R = np.where(size_R <= 1, error_R**2 / 2, size_R - 0.5)
  slope_R = weight_R * np.clip(error_R, -1, 1) / DELTA
  of_term_TR = share_TR * slope_R
  factor_T = of_term_TR[:T].sum(axis=1)
  exponent_T = -(of_term_TR[:T] * x_TR).sum(axis=1)
  gradient = np.concatenate([factor_T, exponent_T, [of_term_TR[T].sum()]])
  return float(weight_R @ value_R), gradient


def _expected(theta, x_TR) -> tuple[np.ndarray, np.ndarray]:
  """Returns predicted log L, [R], and each term's share of L, c last, [T + 1, R]."""
  T = len(x_TR)
  floor_R = np.full(x_TR.shape[1], theta[-1])
  log_TR = np.vstack([theta[:T, None] - theta[T:-1, None] * x_TR, floor_R])
  expected_R = np.logaddexp.reduce(log_TR)
  return expected_R, np.exp(log_TR - expected_R)


def _law(theta, unit_T, unit: float) -> Law:
  """Returns the law of `theta`, fitted to N (and D) / unit_T and to L / unit."""
  T = len(unit_T)
  factor_T = unit * np.exp(theta[:T]) * np.asarray(unit_T) ** theta[T:-1]
  # At its lower bound, c is 3e-7 of the typical loss and counts as 0.
  c = unit * np.exp(theta[-1]) if theta[-1] > _FLOORS[0] + 1e-6 else 0.0
  factors, exponents = [*factor_T.tolist(), 0.0], [*theta[T:-1].tolist(), 0.0]
  return Law(factors[0], exponents[0], factors[1], exponents[1], float(c))


def _at_bound(law: Law, columns, names, loss_R) -> str | None:
  """Returns why a term has no effect or an exponent is at a bound; None if neither."""
  terms = ((law.a, law.alpha), (law.b, law.beta))
  for name, values_R, (factor, exponent) in zip(names, columns, terms):
    fall = factor * (values_R.min() ** -exponent - values_R.max() ** -exponent)
    if not fall > _NO_EFFECT * np.median(loss_R):
      return f"the loss does not fall with {name}"
    if not EXPONENTS[0] + 1e-4 < exponent < EXPONENTS[1] - 1e-4:
      return f"the exponent of {name} runs to its bound of {exponent:g}"
  return None


def _resample(point_R, columns, resamples: int):
  """Yields [R] counts of each run in each resample of points; skips small resamples."""
  rng = np.random.default_rng(0)
  P = int(point_R.max()) + 1
  for _ in range(100 * resamples):
    drawn_R = np.bincount(rng.integers(0, P, P), minlength=P)[point_R]
    kept = [values_R[drawn_R > 0] for values_R in columns]
    if _too_few(kept, ["" for _ in columns]) is None:
      yield drawn_R.astype(np.float64)
