"""GCI: vectors become codes that follow them, and the same seed gives the same."""

import collections

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import numpy as np
import pytest
from small_logs import check, make_log, strip

from lightlm_jax.errors import UserError
from lightlm_jax.ids import gcn, quantise

KINDS = tuple(quantise.QUANTISERS)
SMALL = gcn.Options(dim=4, layers=2, epochs=3)


def vectors(num=400, width=10, seed=0):
  """Unequal columns, some of them dependent, as learned vectors are."""
  rng = np.random.default_rng(seed)
  value_ND = rng.normal(size=(num, width)) @ rng.normal(size=(width, width))
  return (3 + value_ND).astype(np.float32)


def means(value_ND, label_N):
  """Every row's cluster mean."""
  return np.stack([value_ND[label_N == label].mean(axis=0) for label in label_N])


# Quantisers.


def test_columns_are_standardised():
  value_ND = vectors()
  value_ND[:, 3] = 7
  standard_ND = quantise.standardised(value_ND)
  np.testing.assert_allclose(standard_ND.mean(axis=0), 0, atol=1e-9)
  wanted_D = np.ones(10)
  wanted_D[3] = 0
  np.testing.assert_allclose(standard_ND.std(axis=0), wanted_D, rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_do_not_depend_on_the_scale_of_a_column(kind):
  value_ND = vectors()
  scaled_ND = value_ND * 2.0 ** np.arange(10) - 5
  first, second = (quantise.QUANTISERS[kind](v, 2, 5, 0) for v in (value_ND, scaled_ND))
  assert first.shape == (400, 2)
  assert (first == second).mean() > 0.99


def test_product_puts_every_piece_to_its_nearest_centre():
  value_ND = vectors(width=10)
  label_NL = quantise.product(value_ND, 3, 7, seed=1)
  assert label_NL.shape == (400, 3)
  assert (np.sort(np.unique(label_NL)) == np.arange(7)).all()
  standard_ND = quantise.standardised(value_ND)
  for label_N, columns in zip(label_NL.T, (slice(0, 4), slice(4, 7), slice(7, 10))):
    piece_ND = standard_ND[:, columns]
    centre_KD = np.stack([piece_ND[label_N == k].mean(axis=0) for k in range(7)])
    distance_NK = ((piece_ND[:, None] - centre_KD[None]) ** 2).sum(axis=2)
    assert (distance_NK.argmin(axis=1) == label_N).mean() > 0.99


def test_the_residuals_error_falls_with_every_level():
  value_ND = vectors()
  label_NL = quantise.residual(value_ND, 5, 6, seed=0)
  rest_ND = quantise.standardised(value_ND)
  errors = [np.square(rest_ND).mean()]
  assert errors[0] == pytest.approx(1)
  for label_N in label_NL.T:
    assert set(label_N) == set(range(6))
    rest_ND = rest_ND - means(rest_ND, label_N)
    errors.append(np.square(rest_ND).mean())
  # Six clusters of the first level say more than five per cent; so do later ones.
  assert (np.diff(errors) < -0.05 * np.array(errors[:-1])).all()
  # Further levels leave the first ones as they are.
  np.testing.assert_array_equal(quantise.residual(value_ND, 2, 6, 0), label_NL[:, :2])


@pytest.mark.parametrize("kind", KINDS)
def test_more_centres_than_values(kind):
  rng = np.random.default_rng(0)
  value_ND = vectors(num=6)[rng.integers(6, size=50)]
  label_NL = quantise.QUANTISERS[kind](value_ND, 2, 9, seed=0)
  # One label for each value, or, of the rest, for nothing at all.
  value_N = np.unique(value_ND, axis=0, return_inverse=True)[1].reshape(-1)
  assert len(set(zip(value_N, map(tuple, label_NL)))) == len(set(value_N)) == 6
  assert len({tuple(label_L) for label_L in label_NL}) == 6
  for num in (1, 2):
    assert quantise.QUANTISERS[kind](vectors(num), 3, 5, 0).shape == (num, 3)
  same_NL = quantise.QUANTISERS[kind](np.ones((5, 4), np.float32), 2, 3, 0)
  np.testing.assert_array_equal(same_NL, 0)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_values_nearer_than_kmeans_can_tell():
  value_ND = np.zeros((40, 2))
  value_ND[:, 0] = 1e-200 * np.arange(40)
  label_N, centre_KD = quantise._cluster(value_ND, 8, seed=0)
  assert set(label_N) == set(range(len(centre_KD)))
  assert np.isfinite(centre_KD).all()


def test_more_levels_than_columns():
  with pytest.raises(UserError, match="10 numbers cannot be cut into 11 levels"):
    quantise.product(vectors(), 11, 4, seed=0)
  assert quantise.residual(vectors(num=60), 11, 4, seed=0).shape == (60, 11)


@pytest.mark.parametrize("kind", KINDS)
def test_clusters_do_not_depend_on_the_number_of_threads(kind, monkeypatch):
  import sklearn.cluster  # noqa: PLC0415, slow to import
  import threadpoolctl  # noqa: PLC0415

  running, fit = [], sklearn.cluster.KMeans.fit

  def watched(self, *args, **kwargs):
    running.extend(pool["num_threads"] for pool in threadpoolctl.threadpool_info())
    return fit(self, *args, **kwargs)

  monkeypatch.setattr(sklearn.cluster.KMeans, "fit", watched)
  labels = []
  for threads in (1, 3):
    with threadpoolctl.threadpool_limits(threads):
      labels.append(quantise.QUANTISERS[kind](vectors(), 2, 8, seed=0))
  np.testing.assert_array_equal(*labels)
  assert set(running) == {1}


# Codes.

LABELS = hnp.arrays(
  np.int64,
  st.tuples(st.integers(2, 25), st.integers(1, 3)),
  elements=st.integers(0, 3),
)


@given(LABELS, st.data())
def test_codes_are_the_labels_and_a_last_token_where_they_are_equal(label_NL, data):
  (N, L), K = label_NL.shape, 4
  U = data.draw(st.integers(1, N - 1))
  items, users = quantise.codes(label_NL, U, K, seed=0)
  check(items, users, make_log([[]] * U, N - U))
  last = {}
  for side, table, labels in ((0, items, label_NL[U:]), (1, users, label_NL[:U])):
    leaves = collections.defaultdict(list)
    for code, label_L in zip(strip(table), labels):
      # The tokens tell the level, and users and items write with the same.
      assert [(token // K, token % K) for token in code[:L]] == list(enumerate(label_L))
      leaves[code[:L]].append(code[L:])
    for members in leaves.values():
      assert {len(rest) for rest in members} == {int(len(members) > 1)}
    last[side] = [rest[0] for members in leaves.values() for rest in members if rest]
    assert table.shape[1] == L + bool(last[side])
    largest = max(map(len, leaves.values()))
    # Numbered from the range's start in every leaf: a leaf's size is all it takes.
    assert not last[side] or max(last[side]) - min(last[side]) == largest - 1
  assert min(last[0], default=L * K) == L * K
  # And the users' numbers begin where the items' end.
  first_user_token = 1 + max(last[0], default=L * K - 1)
  assert min(last[1], default=first_user_token) == first_user_token


def test_last_tokens_follow_the_seed():
  label_NL = np.zeros((40, 2), np.int64)
  first, again, other = (quantise.codes(label_NL, 20, 3, seed) for seed in (0, 0, 1))
  for a, b, c in zip(first, again, other):
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert (np.diff(a[:, -1]) != 1).any()


# The road from a log.


def planted():
  """Four communities of users and items; every tenth purchase is a stray."""
  rng = np.random.default_rng(0)
  community_U = rng.permutation(np.arange(120) % 4)
  community_I = rng.permutation(np.arange(60) % 4)
  rows = [
    [*rng.choice(np.flatnonzero(community_I == c), 9), rng.integers(60)]
    for c in community_U
  ]
  return make_log(rows, 60), community_U, community_I


def agreement(a_NL, b_NL):
  """[A, B] share of the levels at which two codes have the same token."""
  return (a_NL[:, None] == b_NL[None]).mean(axis=2)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_of_a_community_agree(kind):
  log, community_U, community_I = planted()
  options = gcn.Options(dim=8, layers=2, epochs=30)
  asked = {"quantiser": kind, "levels": 2, "centres": 6, "seed": 0}
  items, users = quantise.gci_ids(log, options, **asked)
  check(items, users, log)
  for a, b, own in (
    (users[:, :2], items[:, :2], community_U[:, None] == community_I[None, :]),
    (items[:, :2], items[:, :2], community_I[:, None] == community_I[None, :]),
  ):
    share = agreement(a, b)
    # The first level alone already, and that of whole vectors above all.
    assert share[own].mean() > 2 * share[~own].mean()
  again = quantise.gci_ids(log, options, **asked)
  assert [t.tobytes() for t in again] == [items.tobytes(), users.tobytes()]


LOGS = {
  "one of each": make_log([[0]], 1),
  "nothing bought": make_log([[]] * 10, 12),
  "repeats and lonely nodes": make_log([[2, 0, 2], [], [1, 3], [3, 3, 5, 1, 0]], 6),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGS)
def test_any_log_gets_codes(name, kind):
  items, users = quantise.gci_ids(
    LOGS[name], SMALL, quantiser=kind, levels=3, centres=4, seed=0
  )
  check(items, users, LOGS[name])
  assert items.shape[1] <= 4
