"""Intervals and p-values against SciPy, exact enumeration, definitions and coverage."""

import itertools
import json

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.stats

from lightlm_jax.evaluation import uncertainty


def ndcg_like(rng, size, scale=20):
  rank_N = rng.geometric(1 / scale, size=size)
  return np.where(rank_N <= 10, 1 / np.log2(rank_N + 1), 0.0)


# interval


@pytest.mark.parametrize("many", [False, True])
def test_interval_equals_scipy_within_chance(many):
  rng = np.random.default_rng(0)
  value_N = rng.gamma(2, size=300) if many else ndcg_like(rng, 300)
  ours = uncertainty.interval(value_N, seed=1, resamples=20_000)
  theirs = scipy.stats.bootstrap(
    (value_N,), np.mean, n_resamples=20_000, method="percentile", rng=2
  ).confidence_interval
  # The 2.5 % quantile of R normal draws has a deviation of 2.67 σ / √R; here are two.
  chance = 2.67 * value_N.std() / 300**0.5 * (2 / 20_000) ** 0.5
  assert ours == pytest.approx(tuple(theirs), abs=4 * chance)
  # And the interval is far wider than that chance: the comparison can fail.
  assert ours[1] - ours[0] > 50 * chance


def test_interval_covers_the_true_mean_as_often_as_it_says():
  rng = np.random.default_rng(3)
  rank_I = np.arange(1, 11)
  p_I = (1 - 1 / 20) ** (rank_I - 1) / 20
  true = float((p_I / np.log2(rank_I + 1)).sum())
  for level in (0.8, 0.95):
    held = 0
    for seed in range(800):
      low, high = uncertainty.interval(
        ndcg_like(rng, 400), seed=seed, resamples=400, level=level
      )
      held += low <= true <= high
    chance = (level * (1 - level) / 800) ** 0.5
    assert held / 800 == pytest.approx(level, abs=4 * chance)


def test_interval_of_constant_and_single_values_is_that_value():
  # 0.1 × N / N is not 0.1 for every N.
  for N in (1, 3, 7, 22_363):
    assert uncertainty.interval(np.full(N, 0.1)) == (0.1, 0.1)


def test_interval_is_the_same_however_the_resamples_are_cut(monkeypatch):
  value_N = np.random.default_rng(4).normal(size=100)
  whole = uncertainty.interval(value_N, seed=5)
  assert whole == uncertainty.interval(value_N, seed=5)
  assert whole == uncertainty.interval(np.roll(value_N, 30), seed=5)
  assert whole != uncertainty.interval(value_N, seed=6)
  monkeypatch.setattr(uncertainty, "CHUNK", 700)
  assert whole == pytest.approx(uncertainty.interval(value_N, seed=5), abs=1e-14)


# paired_p


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6, 1.2])
def test_p_equals_every_sign_enumerated(shift):
  rng = np.random.default_rng(7)
  a_N, b_N = rng.normal(shift, size=12), rng.normal(size=12)
  exact = scipy.stats.permutation_test(
    (a_N, b_N),
    lambda a, b, axis: np.mean(a - b, axis=axis),
    permutation_type="samples",
    vectorized=True,
    n_resamples=np.inf,
  ).pvalue
  p = uncertainty.paired_p(a_N, b_N, seed=1, resamples=40_000)
  assert p == pytest.approx(exact, abs=4 * (exact * (1 - exact) / 40_000) ** 0.5)
  assert p == uncertainty.paired_p(b_N, a_N, seed=1, resamples=40_000)


def test_p_counts_sums_that_are_level_on_paper():
  # 0.1 + 0.2 - 0.3 is 0, so that no signs are nearer to it; in floating point some are.
  difference = np.array([0.1, 0.2, -0.3])
  assert uncertainty.paired_p(difference, np.zeros(3)) == 1
  # All signs alike, 2 of 8, are as far from 0 as the observed ones; sums in another
  # order may fall short of it by rounding.
  for difference in itertools.permutations([0.1, 0.7, 1.1]):
    p = uncertainty.paired_p(difference, np.zeros(3), resamples=40_000)
    assert p == pytest.approx(2 / 8, abs=4 * (0.25 * 0.75 / 40_000) ** 0.5)


def test_p_is_uniform_where_two_systems_are_alike():
  rng = np.random.default_rng(8)
  p_M = np.array(
    [
      uncertainty.paired_p(rng.normal(size=60), rng.normal(size=60), resamples=400)
      for _ in range(1500)
    ]
  )
  assert scipy.stats.kstest(p_M, "uniform").pvalue > 0.01
  for level in (0.01, 0.05, 0.2):
    share = (p_M <= level).mean()
    assert share == pytest.approx(level, abs=4 * (level * (1 - level) / 1500) ** 0.5)


def test_p_finds_a_difference_and_never_says_0():
  rng = np.random.default_rng(9)
  a_N = ndcg_like(rng, 2000)
  better_N = np.where(rng.random(2000) < 0.1, 1.0, a_N)
  p = uncertainty.paired_p(better_N, a_N, resamples=999)
  assert p == 1 / 1000
  assert type(p) is float


def test_p_of_identical_systems_is_1():
  a_N = ndcg_like(np.random.default_rng(10), 500)
  assert uncertainty.paired_p(a_N, a_N) == 1
  assert uncertainty.paired_p(np.zeros(0), np.zeros(0)) == 1
  # One user who differs: both signs are as far from 0.
  assert uncertainty.paired_p([0.5], [0.2]) == 1


def test_p_leaves_users_who_do_not_differ_out():
  rng = np.random.default_rng(11)
  a_N, b_N = rng.normal(size=40), rng.normal(size=40)
  level_N = rng.normal(size=3000)
  longer = np.append(a_N, level_N), np.append(b_N, level_N)
  # The same signs are drawn: not one resample in 10,000 falls on another side.
  for seed in range(5):
    p = uncertainty.paired_p(a_N, b_N, seed=seed)
    assert p == uncertainty.paired_p(*longer, seed=seed)


def test_p_in_small_chunks_equals_p_within_chance(monkeypatch):
  rng = np.random.default_rng(12)
  a_N, b_N = rng.normal(size=50), rng.normal(0.3, size=50)
  p = uncertainty.paired_p(a_N, b_N)
  assert p == uncertainty.paired_p(a_N, b_N)
  assert p != uncertainty.paired_p(a_N, b_N, seed=1)
  monkeypatch.setattr(uncertainty, "CHUNK", 997)
  chunked = uncertainty.paired_p(a_N, b_N)
  assert chunked == pytest.approx(p, abs=4 * (2 * p * (1 - p) / 10_000) ** 0.5)
  # With the chunk smaller than one row too, each resample is drawn and counted once.
  monkeypatch.setattr(uncertainty, "CHUNK", 10)
  assert uncertainty.paired_p(a_N, a_N + 1, resamples=99) == 1 / 100


# holm


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_by_bonferroni(p):
  """Adjusted p of a test: the largest Bonferroni p of all sets of tests it is in."""
  expected = [
    max(
      min(1, len(group) * min(p[m] for m in group))
      for size in range(1, len(p) + 1)
      for group in itertools.combinations(range(len(p)), size)
      if one in group
    )
    for one in range(len(p))
  ]
  assert uncertainty.holm(np.array(p)).tolist() == expected


def test_holm_by_hand():
  # 4 × .01, 3 × .02, and then what came before, because 2 × .03 and .04 are no more.
  assert uncertainty.holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx(
    [0.06, 0.04, 0.06, 0.06]
  )
  assert uncertainty.holm([0.6, 0.7]).tolist() == [1, 1]
  assert uncertainty.holm([0.03]).tolist() == [0.03]
  assert uncertainty.holm([]).tolist() == []


# over_seeds


def test_over_seeds_equals_scipy():
  value_S = np.random.default_rng(13).normal(0.05, 0.01, size=5)
  for level in (0.9, 0.95):
    found = uncertainty.over_seeds(value_S, level=level)
    theirs = scipy.stats.ttest_1samp(value_S, 0).confidence_interval(level)
    assert (found["low"], found["high"]) == pytest.approx(tuple(theirs), abs=1e-12)
  assert found["mean"] == pytest.approx(value_S.mean(), abs=1e-15)
  assert found["std"] == pytest.approx(value_S.std(ddof=1), abs=1e-15)
  assert found["seeds"] == 5


def test_over_seeds_by_hand():
  # t of one degree of freedom at 97.5 % is tan(0.475 π) = 12.7062.
  found = uncertainty.over_seeds([1.0, 3.0])
  assert (found["mean"], found["seeds"]) == (2, 2)
  assert found["std"] == pytest.approx(2**0.5)
  assert found["high"] - found["mean"] == pytest.approx(np.tan(0.475 * np.pi))
  assert found["mean"] - found["low"] == pytest.approx(np.tan(0.475 * np.pi))


def test_one_seed_has_no_spread_and_equal_seeds_have_none():
  one = uncertainty.over_seeds([0.25])
  assert one == {"mean": 0.25, "std": None, "seeds": 1, "low": None, "high": None}
  # (0.1 + 0.1 + 0.1) / 3 is not 0.1 in floating point.
  same = uncertainty.over_seeds(np.full(3, 0.1))
  assert same == {"mean": 0.1, "std": 0, "seeds": 3, "low": 0.1, "high": 0.1}
  for found in (one, same):
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# What all of them refuse


def test_refuses_what_has_no_answer():
  for function in (uncertainty.interval, uncertainty.over_seeds):
    with pytest.raises(ValueError, match="is empty: there is no mean"):
      function([])
    with pytest.raises(ValueError, match=r"\[1\] is not finite"):
      function([0.0, np.nan])
    with pytest.raises(ValueError, match=r"has shape \(2, 1\)"):
      function(np.zeros((2, 1)))
  with pytest.raises(ValueError, match="a_N has 3 users, b_N 1: they must be the same"):
    uncertainty.paired_p(np.zeros(3), np.zeros(1))
  with pytest.raises(ValueError, match=r"b_N\[0\] is not finite"):
    uncertainty.paired_p(np.zeros(2), np.array([np.inf, 0]))
  with pytest.raises(ValueError, match="outside 0 … 1"):
    uncertainty.holm([0.5, 1.01])
