"""Power laws of the loss: L = a·N^-α + b·D^-β + c, and how sure their numbers are.

Hoffmann et al. 2022 (arXiv 2203.15556), approach 3: a Huber loss between logarithms,
L-BFGS from several starts. Theirs turns from squares to absolute values at an error of
0.1 %, for hundreds of large runs; the seeds of a small model deviate by about 1 %, so
here it turns there, and a dozen runs are not wasted on medians.

Letters: R runs, P points (runs that differ in their seed alone), T terms (of N, of D),
S resamples. The unknowns of a fit are log a, log b, α, β, log c, in this order, with N,
D and L divided by their typical values: so the fit does not depend on units.
"""

from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np
import scipy.optimize

DELTA = 0.01  # of the Huber loss: relative error of L
EXPONENTS = (0.01, 3.0)  # the bounds of α and β
_WEIGHTS = (-20.0, 20.0)  # of log a and log b
_FLOORS = (-15.0, 5.0)  # of log c
_NO_EFFECT = 1e-4  # a share of the loss: a term that changes by less has no exponent


class Law(NamedTuple):
  """L = a·N^-alpha + b·D^-beta + c; without D, b and beta are 0."""

  a: float
  alpha: float
  b: float
  beta: float
  c: float

  def __call__(self, size, data=1.0):
    """The loss that the law expects; `size` N and `data` D broadcast."""
    return (
      self.a * np.asarray(size, np.float64) ** -self.alpha
      + self.b * np.asarray(data, np.float64) ** -self.beta
      + self.c
    )


class Fit(NamedTuple):
  """A law, and what other runs could have made of it."""

  law: Law
  intervals: dict[str, tuple[float, float]]  # by the names of the law's numbers
  resampled_S: tuple[Law, ...]
  error: float  # typical relative error of a run: the median of |log L - log law|
  runs: int
  points: int
  remarks: tuple[str, ...]

  def band(self, size, data=1.0, *, level: float = 0.95):
    """Low and high of the expected loss, each shaped as `size` and `data` together."""
    expected = np.stack([law(size, data) for law in self.resampled_S])
    outside = (1 - level) / 2
    return tuple(np.quantile(expected, [outside, 1 - outside], axis=0))


class Unidentified(NamedTuple):
  """No law, and why these runs do not have one."""

  reason: str


def fit(
  loss_R: np.ndarray,
  size_R: np.ndarray,
  data_R: np.ndarray | None = None,
  *,
  point_R: np.ndarray | None = None,
  names: tuple[str, str] = ("N", "D"),
  resamples: int = 300,
  level: float = 0.95,
  seed: int = 0,
) -> Fit | Unidentified:
  """Fits the law of two variables, or of one where there is no `data_R`.

  Intervals are percentiles of a bootstrap over runs; runs of one point are drawn
  together, because they share what the law does not know of their shape.

  Args:
    loss_R: [R] positive.
    size_R: [R] positive: parameters, or whatever the loss falls with.
    data_R: [R] positive; None = the law of one variable.
    point_R: [R] what runs are of one point; None = those of one size and data.
    names: of the two variables, for reasons and remarks.
    resamples: S.
    level: of the intervals.
    seed: of the resamples.

  Raises:
    ValueError: something is not positive, not finite, or of another length.
  """
  columns = [size_R] if data_R is None else [size_R, data_R]
  loss_R, *columns = (_positive(values_R) for values_R in (loss_R, *columns))
  if len({len(loss_R), *map(len, columns)}) > 1:
    raise ValueError("loss, size and data are not of the same runs")
  names = names[: len(columns)]
  key_RK = np.column_stack([*columns, *([] if point_R is None else [point_R])])
  point_R = np.unique(key_RK, axis=0, return_inverse=True)[1].reshape(-1)
  reason = _too_few(columns, names, spare=1)
  if reason:
    return Unidentified(reason)
  unit_T = [np.exp(np.log(values_R).mean()) for values_R in columns]
  unit = float(np.median(loss_R))
  x_TR = np.stack([np.log(values / one) for values, one in zip(columns, unit_T)])
  y_R = np.log(loss_R / unit)
  theta = _solve(x_TR, y_R, np.ones_like(y_R), _starts(len(columns)))
  law = _law(theta, unit_T, unit)
  reason = _at_bound(law, columns, names, loss_R)
  if reason:
    return Unidentified(reason)
  resampled_S = tuple(
    _law(_solve(x_TR, y_R, weight_R, [theta]), unit_T, unit)
    for weight_R in _resample(point_R, columns, resamples, seed)
  )
  outside = (1 - level) / 2
  ends = np.quantile(np.array(resampled_S), [outside, 1 - outside], axis=0).T
  intervals = {
    name: (float(low), float(high)) for name, (low, high) in zip(Law._fields, ends)
  }
  spans = [EXPONENTS[0] * 1.01, EXPONENTS[1] * 0.99]
  for exponent, name in zip(("alpha", "beta"), names):
    low, high = intervals[exponent]
    if low <= spans[0] and high >= spans[1]:
      return Unidentified(
        f"any exponent of {name} from {EXPONENTS[0]} to {EXPONENTS[1]:g} fits some "
        "resample of these runs"
      )
  return Fit(
    law,
    intervals,
    resampled_S,
    float(np.median(np.abs(y_R - _expected(theta, x_TR)[0]))),
    len(loss_R),
    int(point_R.max()) + 1,
    _remarks(law, intervals, spans, names, unit, int(point_R.max()) + 1),
  )


def _positive(values) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if values.ndim != 1 or not np.isfinite(values).all() or (values <= 0).any():
    raise ValueError("a power law wants positive numbers, one a run")
  return values


def _too_few(
  columns: Sequence[np.ndarray], names: Sequence[str], *, spare: int = 0
) -> str | None:
  """Why the numbers of the law cannot be told from these places at all.

  A term has a factor and an exponent, and c (or the other term) is free to move it up
  and down: three different values is the least that fixes it. With no point to spare
  the law passes through all of them, and nothing says how sure it is.
  """
  unknowns = 2 * len(columns) + 1
  for name, values_R in zip(names, columns):
    different = len(np.unique(values_R))
    if different == 1:
      return f"there is only one {name}"
    if different < 3:
      return f"there are {different} different {name}, and an exponent wants 3"
  different = len(np.unique(np.column_stack(columns), axis=0))
  if different < unknowns + spare:
    return (
      f"the law has {unknowns} numbers, and {different} different points are too few "
      "for them"
    )
  return None


def _starts(T: int) -> list[np.ndarray]:
  """Where to begin: slow and steep falls, a low and a high floor."""
  exponents = itertools.product((0.1, 0.4, 1.2), repeat=T)
  return [
    np.array([*[np.log((1 - floor) / T)] * T, *exponent_T, np.log(floor)])
    for exponent_T in exponents
    for floor in (0.2, 0.5, 0.9)
  ]


def _solve(x_TR, y_R, weight_R, starts) -> np.ndarray:
  """The unknowns [2 T + 1] with the least Huber loss, over all starts."""
  T = len(x_TR)
  bounds = [_WEIGHTS] * T + [EXPONENTS] * T + [_FLOORS]
  # What was not drawn costs time alone.
  drawn_R = weight_R > 0
  arguments = (x_TR[:, drawn_R], y_R[drawn_R], weight_R[drawn_R] / weight_R.sum())
  found = (
    scipy.optimize.minimize(
      _huber,
      start,
      args=arguments,
      jac=True,
      method="L-BFGS-B",
      bounds=bounds,
      options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-8},
    )
    for start in starts
  )
  return min(found, key=lambda result: result.fun).x


def _huber(theta, x_TR, y_R, weight_R) -> tuple[float, np.ndarray]:
  """The loss in units of DELTA², and its gradient."""
  T = len(x_TR)
  expected_R, share_TR = _expected(theta, x_TR)
  error_R = (expected_R - y_R) / DELTA
  size_R = np.abs(error_R)
  value_R = np.where(size_R <= 1, error_R**2 / 2, size_R - 0.5)
  slope_R = weight_R * np.clip(error_R, -1, 1) / DELTA
  of_term_TR = share_TR * slope_R
  gradient = np.empty_like(theta)
  gradient[:T] = of_term_TR[:T].sum(axis=1)
  gradient[T:-1] = -(of_term_TR[:T] * x_TR).sum(axis=1)
  gradient[-1] = of_term_TR[T].sum()
  return float(weight_R @ value_R), gradient


def _expected(theta, x_TR) -> tuple[np.ndarray, np.ndarray]:
  """log L by the law [R], and the share of each term and of c in it [T + 1, R]."""
  T = len(x_TR)
  log_TR = np.empty((T + 1, x_TR.shape[1]))
  log_TR[:T] = theta[:T, None] - theta[T:-1, None] * x_TR
  log_TR[T] = theta[-1]
  highest_R = log_TR.max(axis=0)
  part_TR = np.exp(log_TR - highest_R)
  sum_R = part_TR.sum(axis=0)
  return highest_R + np.log(sum_R), part_TR / sum_R


def _law(theta, unit_T, unit: float) -> Law:
  """The law in the units of the runs."""
  T = len(unit_T)
  factor_T = unit * np.exp(theta[:T]) * np.asarray(unit_T) ** theta[T:-1]
  # At its bound c is what was typical times 3e-7: nothing.
  c = unit * np.exp(theta[-1]) if theta[-1] > _FLOORS[0] + 1e-6 else 0.0
  factors, exponents = [*factor_T.tolist(), 0.0], [*theta[T:-1].tolist(), 0.0]
  return Law(factors[0], exponents[0], factors[1], exponents[1], float(c))


def _at_bound(law: Law, columns, names, loss_R) -> str | None:
  """Why the law that was found is none."""
  terms = ((law.a, law.alpha), (law.b, law.beta))
  for name, values_R, (factor, exponent) in zip(names, columns, terms):
    fall = factor * (values_R.min() ** -exponent - values_R.max() ** -exponent)
    if not fall > _NO_EFFECT * np.median(loss_R):
      return f"the loss does not fall with {name}"
    if not EXPONENTS[0] + 1e-4 < exponent < EXPONENTS[1] - 1e-4:
      return f"the exponent of {name} runs to its bound of {exponent:g}"
  return None


def _resample(point_R, columns, resamples: int, seed: int):
  """How often each run is drawn, resample by resample; those that fix no law aside."""
  rng = np.random.default_rng(seed)
  P = int(point_R.max()) + 1
  left = 100 * resamples
  while resamples and left:
    left -= 1
    drawn_R = np.bincount(rng.integers(0, P, P), minlength=P)[point_R]
    kept = [values_R[drawn_R > 0] for values_R in columns]
    if _too_few(kept, ["" for _ in columns]) is None:
      resamples -= 1
      yield drawn_R.astype(np.float64)


def _remarks(law: Law, intervals, spans, names, unit: float, P: int) -> tuple[str, ...]:
  found = []
  if P < 2 * (2 * len(names) + 1):
    found.append(f"{P} points are few: the intervals are too narrow")
  for exponent, name in zip(("alpha", "beta"), names):
    low, high = intervals[exponent]
    if low <= spans[0] or high >= spans[1]:
      found.append(f"the exponent of {name} is open on one side")
  if intervals["c"][0] < 0.01 * unit:
    found.append("c is not told apart from 0: no floor is seen yet")
  return tuple(found)
