"""Power laws: what is planted is found, within an interval that means what it says."""

import itertools

import numpy as np
import pytest
import scipy.optimize

from lightlm_jax.studies import law
from lightlm_jax.studies.law import Law

ONE = Law(a=40.0, alpha=0.3, b=0.0, beta=0.0, c=3.0)
TWO = Law(a=40.0, alpha=0.4, b=300.0, beta=0.5, c=2.5)


def one(noise, seed, *, sizes=10, seeds=2):
  """The loss and the size of runs by ONE."""
  size_R = np.repeat(np.geomspace(1e4, 3e7, sizes), seeds)
  drawn_R = np.random.default_rng(seed).normal(size=len(size_R))
  return ONE(size_R) * np.exp(noise * drawn_R), size_R


def two(noise, seed):
  """The loss, size and data of runs by TWO, on a grid."""
  grid = itertools.product(np.geomspace(1e4, 1e7, 6), np.geomspace(1e4, 1e6, 4))
  size_R, data_R = np.array(list(grid)).T
  drawn_R = np.random.default_rng(seed).normal(size=len(size_R))
  return TWO(size_R, data_R) * np.exp(noise * drawn_R), size_R, data_R


def test_planted_laws_are_found_without_noise():
  found = law.fit(*one(0, 0), resamples=3)
  np.testing.assert_allclose(found.law, ONE, rtol=1e-3)
  found = law.fit(*two(0, 0), resamples=3)
  np.testing.assert_allclose(found.law, TWO, rtol=1e-2)
  assert found.error < 1e-5
  assert (found.runs, found.points) == (24, 24)


def test_intervals_hold_the_planted_exponent_about_as_often_as_they_say():
  held, widths = [], []
  for seed in range(24):
    found = law.fit(*one(0.005, seed), resamples=60, level=0.8)
    low, high = found.intervals["alpha"]
    held.append(low <= ONE.alpha <= high)
    widths.append(high - low)
  # Binomial(24, 0.8): fewer than 14 has a chance of 1 %, more than 23 of 0.5 %; a
  # bootstrap over ten points is a little too narrow.
  assert 14 <= sum(held) <= 23
  assert 0.005 < np.median(widths) < 0.1
  twice = law.fit(*one(0.01, 0), resamples=60, level=0.8).intervals["alpha"]
  assert twice[1] - twice[0] > 1.3 * np.median(widths)


@pytest.mark.parametrize("seed", range(3))
def test_both_exponents_are_found_within_their_intervals(seed):
  found = law.fit(*two(0.003, seed), resamples=40)
  for name in ("alpha", "beta", "c"):
    low, high = found.intervals[name]
    assert low < high
    # A resample of 40 cuts its own tails: half of the interval more on both sides.
    slack = (high - low) / 2
    assert low - slack <= getattr(TWO, name) <= high + slack
  size, data = np.meshgrid(np.geomspace(1e4, 1e7, 5), [1e4, 1e5, 1e6])
  low, high = found.band(size, data)
  assert low.shape == (3, 5)
  assert (low <= high).all()
  np.testing.assert_allclose(found.law(size, data), TWO(size, data), rtol=0.02)


def test_units_change_the_factors_alone():
  loss_R, size_R, data_R = two(0.005, 1)
  plain = law.fit(loss_R, size_R, data_R, resamples=5)
  other = law.fit(loss_R / np.log(2), size_R / 1e6, 12 * data_R, resamples=5)
  for before, after in zip((plain.law, *plain.resampled_S), (other.law, *other[2])):
    expected = Law(
      before.a / np.log(2) * 1e-6**before.alpha,
      before.alpha,
      before.b / np.log(2) * 12**before.beta,
      before.beta,
      before.c / np.log(2),
    )
    np.testing.assert_allclose(after, expected, rtol=1e-3)


def test_the_law_of_one_variable_is_that_of_two_without_b():
  rng = np.random.default_rng(0)
  x_TR, y_R = rng.normal(size=(2, 30)), rng.normal(size=30)
  weight_R = rng.random(30)
  theta = np.array([-0.3, 0.4, -0.2])
  wide = np.array([-0.3, -np.inf, 0.4, 0.7, -0.2])
  value, gradient = law._huber(theta, x_TR[:1], y_R, weight_R)
  same, wider = law._huber(wide, x_TR, y_R, weight_R)
  assert value == pytest.approx(same, rel=1e-12)
  np.testing.assert_allclose(gradient, wider[[0, 2, 4]], rtol=1e-12)
  assert (wider[[1, 3]] == 0).all()
  np.testing.assert_array_equal(ONE(7e5), ONE._replace(beta=0.7)(7e5, 123))
  # And of losses that do not fall with D: the same curve, or no exponent.
  _, size_R, data_R = two(0, 0)
  loss_R = ONE(size_R)
  alone = law.fit(loss_R, size_R, resamples=3)
  together = law.fit(loss_R, size_R, data_R, resamples=3)
  np.testing.assert_allclose(alone.law(size_R), loss_R, rtol=1e-3)
  assert together == law.Unidentified("the loss does not fall with D")


def test_the_gradient_is_that_of_the_loss():
  rng = np.random.default_rng(1)
  x_TR, y_R, weight_R = rng.normal(size=(2, 20)), rng.normal(size=20), rng.random(20)
  theta = np.array([-0.3, -0.9, 0.4, 0.7, -0.2])
  for scale in (1e-3, 1.0):  # squares, and absolute values
    expected_R, _ = law._expected(theta, x_TR)
    target_R = expected_R + scale * y_R
    found = law._huber(theta, x_TR, target_R, weight_R)[1]
    expected = scipy.optimize.approx_fprime(
      theta, lambda at, y=target_R: law._huber(at, x_TR, y, weight_R)[0], 1e-7
    )
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)


def test_seeds_of_a_point_are_drawn_together():
  # Points that lie off the law by their shape, seeds that agree: runs drawn one by one
  # would take two seeds for two witnesses.
  size_P = np.geomspace(1e4, 3e7, 8)
  off_P = np.random.default_rng(0).normal(size=8)
  loss_R = np.repeat(ONE(size_P) * np.exp(0.01 * off_P), 4)
  size_R = np.repeat(size_P, 4)
  together = law.fit(loss_R, size_R, resamples=60)
  apart = law.fit(loss_R, size_R, point_R=np.arange(32), resamples=60)
  once = law.fit(loss_R[::4], size_P, resamples=60)
  assert (together.points, apart.points, once.points) == (8, 32, 8)
  np.testing.assert_allclose(together.law, apart.law, rtol=1e-6)
  np.testing.assert_allclose(together.law, once.law, rtol=1e-4)
  np.testing.assert_allclose(
    together.intervals["alpha"], once.intervals["alpha"], rtol=1e-3
  )
  wide, narrow = (np.diff(f.intervals["alpha"]).item() for f in (together, apart))
  assert wide > 1.4 * narrow


@pytest.mark.parametrize(
  ("sizes", "data", "said"),
  [
    ([1e5] * 6, None, "N has only one value"),
    ([1e5, 2e5] * 3, None, "N has 2 different values; an exponent needs 3"),
    ([1e5, 2e5, 3e5] * 2, None, "3 parameters, and 3 different points are too few"),
    ([1e5, 2e5, 4e5, 8e5] * 2, [1e4] * 8, "D has only one value"),
    ([1e5, 2e5, 4e5] * 2, [1e4, 2e4, 3e4] * 2, "5 parameters, and 3 different points"),
  ],
)
def test_what_cannot_be_told_is_said(sizes, data, said):
  size_R = np.array(sizes)
  data_R = None if data is None else np.array(data)
  found = law.fit(ONE(size_R), size_R, data_R)
  assert isinstance(found, law.Unidentified)
  assert said in found.reason


def test_curves_that_are_no_law_are_said():
  size_R = np.geomspace(1e4, 1e7, 9)
  names = ("parameters", "")
  flat = law.fit(np.full(9, 4.0), size_R, names=names)
  rising = law.fit(3 + size_R**0.1, size_R, names=names)
  assert flat == rising == law.Unidentified("the loss does not fall with parameters")
  step = law.fit(np.where(size_R < 2e4, 9.0, 4.0), size_R, names=names)
  assert step == law.Unidentified("the exponent of parameters runs to its bound of 3")
  pure = law.fit(40 * size_R**-0.3, size_R, resamples=20)
  assert pure.law.c < 0.01
  assert "c is not significantly above 0: no floor is visible yet" in pure.remarks


@pytest.mark.parametrize(
  "values", [[1, -1, 2, 3], [1, np.nan, 2, 3], [1, 2, 3], [[1, 2, 3, 4]]]
)
def test_losses_that_are_none_are_refused(values):
  with pytest.raises(ValueError, match="run"):
    law.fit(np.array(values, float), np.array([1.0, 2, 3, 4]))
