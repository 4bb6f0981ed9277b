"""GCI: vectors become codes that follow them, and the same seed gives the same."""

import collections
import dataclasses
import os
import pathlib
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
import jax
from jax.sharding import AxisType
import numpy as np
import pytest
from small_logs import check, make_log, strip

from lightlm_jax.config.data_groups import Gcn, Ids
from lightlm_jax.ids import quantise
from lightlm_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
KINDS = tuple(quantise.QUANTISERS)
SMALL = Gcn(dim=4, layers=2, epochs=3)


@pytest.fixture(params=["one CPU", "a mesh"])
def mesh(request):
  """What K-Means runs on: scikit-learn's, or our own."""
  if request.param == "one CPU":
    return None
  return jax.make_mesh((1,), ("share",), axis_types=(AxisType.Auto,))


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


def test_product_puts_every_piece_to_its_nearest_centre(mesh):
  value_ND = vectors(width=10)
  label_NL = quantise.product(value_ND, 3, 7, seed=1, mesh=mesh)
  assert label_NL.shape == (400, 3)
  assert (np.sort(np.unique(label_NL)) == np.arange(7)).all()
  standard_ND = quantise.standardised(value_ND)
  for label_N, columns in zip(label_NL.T, (slice(0, 4), slice(4, 7), slice(7, 10))):
    piece_ND = standard_ND[:, columns]
    centre_KD = np.stack([piece_ND[label_N == k].mean(axis=0) for k in range(7)])
    distance_NK = ((piece_ND[:, None] - centre_KD[None]) ** 2).sum(axis=2)
    assert (distance_NK.argmin(axis=1) == label_N).mean() > 0.99


def test_the_residuals_error_falls_with_every_level(mesh):
  value_ND = vectors()
  label_NL = quantise.residual(value_ND, 5, 6, seed=0, mesh=mesh)
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
  fewer_NL = quantise.residual(value_ND, 2, 6, seed=0, mesh=mesh)
  np.testing.assert_array_equal(fewer_NL, label_NL[:, :2])


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
def test_values_nearer_than_kmeans_can_tell(mesh):
  value_ND = np.zeros((40, 2))
  value_ND[:, 0] = 1e-200 * np.arange(40)
  label_N, centre_KD = quantise._cluster(value_ND, 8, seed=0, mesh=mesh)
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

K = 4


@st.composite
def drawn_labels(draw):
  """Labels below K; on the first level those of the cold branch too."""
  shape = draw(st.tuples(st.integers(2, 25), st.integers(1, 3)))
  label_NL = draw(hnp.arrays(np.int64, shape, elements=st.integers(0, K - 1)))
  cold_N = draw(hnp.arrays(bool, shape[0]))
  label_NL[cold_N, 0] = K
  return label_NL


@given(drawn_labels(), st.data())
def test_codes_are_the_labels_and_a_last_token_where_they_are_equal(label_NL, data):
  N, L = label_NL.shape
  first_L = [0, 1 + K, 1 + 2 * K, 1 + 3 * K]
  U = data.draw(st.integers(1, N - 1))
  items, users = quantise.codes(label_NL, U, K, seed=0)
  check(items, users, make_log([[]] * U, N - U))
  last = {}
  for side, table, labels in ((0, items, label_NL[U:]), (1, users, label_NL[:U])):
    leaves = collections.defaultdict(list)
    for code, label_L in zip(strip(table), labels):
      # The tokens tell the level, and users and items write with the same.
      assert [token - first for token, first in zip(code[:L], first_L)] == [*label_L]
      leaves[code[:L]].append(code[L:])
    for members in leaves.values():
      assert {len(rest) for rest in members} == {int(len(members) > 1)}
    last[side] = [rest[0] for members in leaves.values() for rest in members if rest]
    assert table.shape[1] == L + bool(last[side])
    largest = max(map(len, leaves.values()))
    # Numbered from the range's start in every leaf: a leaf's size is all it takes.
    assert not last[side] or max(last[side]) - min(last[side]) == largest - 1
  assert min(last[0], default=first_L[L]) == first_L[L]
  # And the users' numbers begin where the items' end.
  first_user_token = 1 + max(last[0], default=first_L[L] - 1)
  assert min(last[1], default=first_user_token) == first_user_token


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 3))
def test_cold_nodes_get_digits_of_their_own(warm, levels):
  warm_M = np.array(warm)
  label_WL = np.random.default_rng(0).integers(K, size=(warm_M.sum(), levels))
  label_ML, again_ML, other_ML = (
    quantise.with_cold(label_WL, warm_M, K, seed) for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(label_ML, again_ML)
  np.testing.assert_array_equal(label_ML[warm_M], label_WL)
  cold_CL = label_ML[~warm_M]
  assert (cold_CL[:, 0] == K).all()
  assert ((cold_CL[:, 1:] >= 0) & (cold_CL[:, 1:] < K)).all()
  # As many nodes have the same digits as must have.
  number = collections.Counter(map(tuple, cold_CL.tolist()))
  assert max(number.values(), default=0) == -(-len(cold_CL) // K ** (levels - 1))
  # The digits are drawn: neither the same for every seed nor in the nodes' order.
  if levels == 3 and len(cold_CL) > 8:
    assert (label_ML != other_ML).any()
    order = cold_CL[:, 1:] @ [1, K]
    assert (np.diff(order) != 1).any()


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
  gcn = Gcn(dim=8, layers=2, epochs=30)
  config = Ids(quantiser=kind, gci_levels=2, centres=6, gcn=gcn)
  items, users = quantise.gci_ids(log, config, seed=0)
  check(items, users, log)
  for a, b, own in (
    (users[:, :2], items[:, :2], community_U[:, None] == community_I[None, :]),
    (items[:, :2], items[:, :2], community_I[:, None] == community_I[None, :]),
  ):
    share = agreement(a, b)
    # The first level alone already, and that of whole vectors above all.
    assert share[own].mean() > 2 * share[~own].mean()
  again = quantise.gci_ids(log, config, seed=0)
  assert [t.tobytes() for t in again] == [items.tobytes(), users.tobytes()]


LOGS = {
  "one of each": make_log([[0]], 1),
  "nothing bought": make_log([[]] * 10, 12),
  "repeats and lonely nodes": make_log([[2, 0, 2], [], [1, 3], [3, 3, 5, 1, 0]], 6),
  "many pieces": make_log([[i, i] for i in range(20)], 20),
}


def small_ids(log, kind, levels=3, centres=4, mesh=None):
  config = Ids(quantiser=kind, gci_levels=levels, centres=centres, gcn=SMALL)
  return quantise.gci_ids(log, config, seed=0, mesh=mesh)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", LOGS)
def test_any_log_gets_codes(name, kind):
  items, users = small_ids(LOGS[name], kind)
  check(items, users, LOGS[name])
  assert items.shape[1] <= 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("centres", [1, 99])
def test_one_centre_and_more_centres_than_nodes(centres, kind):
  log = LOGS["repeats and lonely nodes"]
  items, users = small_ids(log, kind, centres=centres)
  check(items, users, log)
  assert items.shape[1] <= 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
  ("levels", "centres", "last_token"),
  # Seven cold items: K ** (L - 1) is too few for all of them, but for the last.
  [(1, 3, True), (2, 2, True), (3, 3, False)],
)
def test_the_first_token_tells_who_has_no_edge(levels, centres, last_token, kind):
  rows = [[0, 2, 4], [], [2, 6], [], [4, 0, 6], [8], [], [8, 2], [], []]
  log = make_log(rows, 12)
  items, users = small_ids(log, kind, levels=levels, centres=centres)
  check(items, users, log)
  cold_U = log.length_U == 0
  cold_I = ~np.isin(np.arange(12), log.item_E)
  assert (cold_U.sum(), cold_I.sum()) == (5, 7)
  np.testing.assert_array_equal(users[:, 0] == centres, cold_U)
  np.testing.assert_array_equal(items[:, 0] == centres, cold_I)
  length_C = (items[cold_I] >= 0).sum(axis=1)
  assert (length_C.max() > levels) == last_token


def test_where_nothing_was_bought_all_are_cold():
  log = LOGS["nothing bought"]
  for levels in (1, 2):
    items, users = small_ids(log, "product", levels=levels)
    check(items, users, log)
    assert set(items[:, 0]) == set(users[:, 0]) == {4}


@pytest.mark.parametrize("side", ["user", "item"])
def test_more_than_a_million_are_told_where_to_go(side):
  log = make_log([[0, 1], [1]], 2)
  many = {f"{side}_ids": np.zeros(1_000_001, "U1")}
  if side == "user":
    many["offset_U1"] = np.pad(log.offset_U1, (0, 999_999), mode="edge")
  told = f"1,000,001 {side}s .* by --config.ids.devices=-1"
  with pytest.raises(UserError, match=told):
    small_ids(dataclasses.replace(log, **many), "product")


def test_a_mesh_has_no_such_limit(monkeypatch, mesh):
  monkeypatch.setattr(quantise, "MOST_ON_ONE_CPU", 3)
  log = LOGS["repeats and lonely nodes"]
  if mesh is None:
    with pytest.raises(UserError, match="4 users and 6 items would take one CPU"):
      small_ids(log, "product")
  else:
    check(*small_ids(log, "product", mesh=mesh), log)


SCRIPT = """
import hashlib
import os
import sys

if sys.argv[1] == "1" and hasattr(os, "sched_setaffinity"):
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from lightlm_jax.data import splits, synthetic
from lightlm_jax.config.data_groups import Gcn, Ids
from lightlm_jax.ids import codes, gcn_training, quantise

train = splits.leave_one_out(synthetic.make_shop(synthetic.Shop())[0]).train
embeddings = gcn_training.embeddings

def watched(*args, **kwargs):
  tables = embeddings(*args, **kwargs)
  for table in tables:
    print(hashlib.sha256(table.tobytes()).hexdigest())
  return tables

gcn_training.embeddings = watched
gcn = Gcn(dim=32, layers=1, epochs=1)
config = Ids(quantiser="residual", gci_levels=2, centres=16, gcn=gcn)
tables = quantise.gci_ids(train, config, seed=0)
print(codes.code_book(*tables, {}).sha256)
"""


def test_codes_do_not_depend_on_the_number_of_threads():
  """The whole way: the vectors, their clusters and the codes."""
  running = []
  for threads in ("1", "4"):
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PJRT_NPROC")  # the last: XLA
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env |= dict.fromkeys(names, threads)
    running.append(
      subprocess.Popen(
        [sys.executable, "-c", SCRIPT, threads],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
      )
    )
  printed = [process.communicate(timeout=120)[0].split() for process in running]
  assert [process.returncode for process in running] == [0, 0]
  assert printed[0] == printed[1]
  assert len(set(printed[0])) == 3
