"""K-Means on a mesh against Lloyd's iterations in numpy and scikit-learn's."""

import jax
from jax.sharding import AxisType
import numpy as np
import pytest
from sklearn.cluster import KMeans

from lightlm_jax.ids import lloyd

MANY = 100


@pytest.fixture(scope="module")
def mesh():
  return jax.make_mesh((1,), ("share",), axis_types=(AxisType.Auto,))


def points(num, centres=5, width=6, seed=0):
  """Points about a few middles, far from 0, and some of them as a start."""
  rng = np.random.default_rng(seed)
  middle_KD = 3 + 2 * rng.normal(size=(centres, width))
  value_ND = middle_KD[rng.integers(centres, size=num)]
  value_ND += rng.normal(size=value_ND.shape)
  return value_ND, value_ND[rng.choice(num, min(num, centres), replace=False)]


def plain_lloyd(value_ND, start_KD, iterations):
  """The labels, and how many steps it took to them."""
  centre_KD, label_N = start_KD.copy(), None
  for step in range(iterations):
    distance_NK = np.square(value_ND[:, None] - centre_KD[None]).sum(axis=2)
    nearest, *further = np.sort(distance_NK, axis=1).T
    # Nearer than this, single precision might decide otherwise.
    assert not further or (further[0] - nearest).min() > 1e-4
    before, label_N = label_N, distance_NK.argmin(axis=1)
    if np.array_equal(before, label_N):
      return label_N, step
    for k in set(label_N):
      centre_KD[k] = value_ND[label_N == k].mean(axis=0)
  return label_N, iterations


@pytest.mark.parametrize("iterations", [1, 3, MANY])
@pytest.mark.parametrize(
  ("num", "stack"), [(1, 8_192), (300, 8_192), (7, 16), (16, 16), (303, 16)]
)
def test_labels_are_those_of_plain_iterations(
  mesh, monkeypatch, num, stack, iterations
):
  monkeypatch.setattr(lloyd, "STACK", stack)
  value_ND, start_KD = points(num)
  label_N = lloyd.assign(value_ND, start_KD, mesh, iterations=iterations)
  wanted_N, steps = plain_lloyd(value_ND, start_KD, iterations)
  assert (label_N.dtype, label_N.shape) == (np.int64, (num,))
  np.testing.assert_array_equal(label_N, wanted_N)
  # Of many points the centres move for a while, and then they rest.
  assert num < 300 or (3 <= steps < MANY) or steps == iterations


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_labels_are_scikit_learns(mesh, monkeypatch, seed):
  monkeypatch.setattr(lloyd, "STACK", 64)
  value_ND, start_KD = points(500, centres=8, seed=seed)
  means = KMeans(len(start_KD), init=start_KD, n_init=1, tol=0, max_iter=MANY)
  wanted_N = means.fit(value_ND).labels_
  assert means.n_iter_ > 3
  label_N = lloyd.assign(value_ND, start_KD, mesh, iterations=MANY)
  np.testing.assert_array_equal(label_N, wanted_N)


@pytest.mark.parametrize(
  ("points", "start", "wanted"),
  [
    # The second is nearest to nothing, wherever the first goes. Had it moved to 0, or
    # to no number, it would have the first point.
    ([0, 6, 6, 6], [5, 12], [0, 0, 0, 0]),
    ([0, 8, 8, 8], [1, -20], [0, 0, 0, 0]),
    # Nearest to nothing until the first has gone to the middle, 6.
    ([0, 8, 8, 8], [1, -3], [1, 0, 0, 0]),
    # Of equal centres the first has all, and leaves the second where it was.
    ([0, 8, 8, 8], [1, 1], [1, 0, 0, 0]),
  ],
)
def test_an_empty_centre_stays_where_it_is(mesh, points, start, wanted):
  value_N1, start_K1 = (np.array(x, np.float64)[:, None] for x in (points, start))
  label_N = lloyd.assign(value_N1, start_K1, mesh, iterations=MANY)
  np.testing.assert_array_equal(label_N, wanted)


def test_centres_without_points_change_nothing(mesh):
  value_ND, start_KD = points(200)
  far_KD = np.insert(start_KD, [0, 2, 5], 1e3, axis=0)
  label_N = lloyd.assign(value_ND, far_KD, mesh, iterations=MANY)
  wanted_N = lloyd.assign(value_ND, start_KD, mesh, iterations=MANY)
  number_K = np.flatnonzero(far_KD[:, 0] < 1e3)
  np.testing.assert_array_equal(label_N, number_K[wanted_N])
