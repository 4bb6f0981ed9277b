"""SCI follows the graph's communities, and the same seed gives the same codes."""

import collections
import dataclasses
import os
import pathlib
import subprocess
import sys

from hypothesis import given, settings
from hypothesis import strategies as st
import numpy as np
import pytest
import scipy.sparse.csgraph
import scipy.stats
from small_logs import check, make_log, strip

from lightlm_jax.config.data_groups import Ids
from lightlm_jax.data import splits
from lightlm_jax.data.synthetic import Shop, make_shop
from lightlm_jax.ids import codes, spectral
from lightlm_jax.ids import graph as graph_lib
from lightlm_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("K", range(1, 8))
def test_eigenvectors_where_eigenvalues_repeat(K):
  """LAPACK's default solver gives up on this log in single precision, at K = 7."""
  rows = [[0, 0, 2], [0, 1, 1, 1, 2], [2], [0, 1, 2, 2, 2], [0, 1, 2, 2, 2]]
  adjacency = graph_lib.bipartite(make_log(rows, num_items=3)).toarray()
  scale = 1 / np.sqrt(adjacency.sum(axis=0))
  matrix = (scale[:, None] * adjacency * scale).astype(np.float32)
  value_K, vector_NK = spectral.largest_eigenvectors(matrix, K)
  wanted = np.linalg.eigvalsh(matrix.astype(np.float64))[-K:]
  np.testing.assert_allclose(value_K, wanted, atol=1e-5)
  np.testing.assert_allclose(matrix @ vector_NK, vector_NK * value_K, atol=1e-5)
  np.testing.assert_allclose(vector_NK.T @ vector_NK, np.eye(K), atol=1e-5)


# SCI.


def sci(
  log,
  branching=4,
  leaf_size=3,
  levels=2,
  seed=0,
  tokens="level",
  graph="bipartite",
  attributes=None,
):
  config = Ids(
    graph=graph,
    base=4,
    branching=branching,
    leaf_size=leaf_size,
    levels=levels,
    tokens=tokens,
  )
  return spectral.spectral_ids(log, config, seed=seed, attributes=attributes)


def planted(communities, *, strays, seed=0, num_users=40, num_items=15):
  """Users buy 8 items of their own community but for `strays`, and the truth."""
  rng = np.random.default_rng(seed)
  community_U = rng.permutation(np.arange(communities * num_users) % communities)
  community_I = rng.permutation(np.arange(communities * num_items) % communities)
  rows = []
  for community in community_U:
    own = np.flatnonzero(community_I == community)
    row = [*rng.choice(own, 8 - strays), *rng.integers(len(community_I), size=strays)]
    rows.append(rng.permutation(row))
  return make_log(rows, len(community_I)), community_U, community_I


def pieces(log):
  """The graph's components that hold an interaction."""
  _, label_N = scipy.sparse.csgraph.connected_components(graph_lib.bipartite(log))
  return int((np.bincount(label_N) > 1).sum())


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("strays", [0, 1])
@pytest.mark.parametrize("communities", [2, 3, 7])
def test_the_first_token_is_the_community(communities, strays, seed):
  log, community_U, community_I = planted(communities, strays=strays, seed=seed)
  assert pieces(log) == (1 if strays else communities)
  items, users = sci(log, branching=communities, leaf_size=20, seed=seed)
  check(items, users, log)
  pairs = set(zip(community_I, items[:, 0])) | set(zip(community_U, users[:, 0]))
  assert len(pairs) == len({c for c, _ in pairs}) == len({t for _, t in pairs})
  assert len(pairs) == communities


@pytest.mark.parametrize("strays", [1, 2])
def test_fewer_eigenvectors_than_communities_tell_them_apart(monkeypatch, strays):
  monkeypatch.setattr(spectral, "MOST_VECTORS", 12)
  log, _, community_I = planted(20, strays=strays, num_users=20, num_items=8)
  paths = spectral.cluster_paths(
    graph_lib.items_together(log), branching=20, leaf_size=8, levels=1, seed=0
  )
  pairs = set(zip(community_I, paths))
  assert len(pairs) == len(set(paths)) == 20


def test_two_levels_follow_communities_in_communities():
  """Nine communities in threes: one token tells the three, the next which of them."""
  rng = np.random.default_rng(0)
  community_U, community_I = np.arange(270) % 9, np.arange(135) % 9
  community_N = np.append(community_U, community_I)
  rows = []
  for community in community_U:
    own = np.flatnonzero(community_I == community)
    near = np.flatnonzero(community_I // 3 == community // 3)
    rows.append([*rng.choice(own, 9), *rng.choice(near, 3), rng.integers(135)])
  adjacency = graph_lib.bipartite(make_log(rows, 135))
  # A community has 45 members, a three of them 135: only threes are clustered again.
  three_N, path_N = (
    spectral.cluster_paths(adjacency, branching=3, leaf_size=60, levels=levels, seed=0)
    for levels in (1, 2)
  )
  assert len(set(zip(community_N // 3, three_N))) == len(set(three_N)) == 3
  assert [path[:1] for path in path_N] == three_N
  assert len(set(zip(community_N, path_N))) == len(set(path_N)) == 9


def test_two_steps_need_not_be_multiplied_out(monkeypatch):
  """A graph by its factors is the graph itself: products, parts, pieces and scale."""
  rng = np.random.default_rng(0)
  out_NA = scipy.sparse.random_array((30, 50), density=0.03, rng=rng).tocsr()
  nodes_N, degree_A = np.arange(30), 1 + rng.random(50)
  whole = spectral._within(out_NA, nodes_N, degree_A)
  monkeypatch.setattr(spectral, "_MOST_PAIRS", 0)
  factors = spectral._within(out_NA, nodes_N, degree_A)
  assert (whole.out_NA.shape[1], factors.out_NA.shape[1]) == (0, 50)
  members, scale_N = np.arange(3, 21), rng.random(30)
  for a, b in (
    (whole, factors),
    (whole.of(members), factors.of(members)),
    (whole.scaled(scale_N), factors.scaled(scale_N)),
  ):
    dense_NN = a.step_NN.toarray()
    np.testing.assert_allclose(b.multiplied().toarray(), dense_NN, rtol=1e-6, atol=1e-7)
    x_N = rng.normal(size=len(dense_NN))
    np.testing.assert_allclose(b @ x_N, dense_NN @ x_N, rtol=1e-5, atol=1e-6)
    symmetric = dense_NN + dense_NN.T
    number, label_N = scipy.sparse.csgraph.connected_components(symmetric)
    assert 1 < number < len(dense_NN)
    assert b.components().tolist() == label_N.tolist()


def test_communities_are_found_without_multiplying(monkeypatch):
  """More nodes than the dense solver takes: the way of a log with hubs."""
  monkeypatch.setattr(spectral, "_MOST_PAIRS", 0)
  rng = np.random.default_rng(1)
  group_N = np.arange(1500) // 500
  pair = rng.integers(1500, size=(2, 60_000))
  pair = pair[:, group_N[pair[0]] == group_N[pair[1]]]
  half = scipy.sparse.coo_array((np.ones(pair.shape[1]), tuple(pair)), (1500, 1500))
  adjacency = (half + half.T).tocsr()
  nodes_N = np.arange(1500)
  graph = spectral._within(adjacency, nodes_N, adjacency.sum(axis=0))
  label_N = spectral._split(graph, branching=3, leaf_size=50, seed=0)
  assert len(set(zip(group_N.tolist(), label_N.tolist()))) == 3


@settings(max_examples=80)
@given(
  st.lists(st.lists(st.integers(0, 11), max_size=4), min_size=1, max_size=14),
  st.integers(12, 16),
  st.integers(2, 40),
  st.integers(1, 6),
  st.integers(1, 4),
  st.sampled_from(spectral.TOKENS),
)
def test_any_log_gets_codes(rows, num_items, branching, leaf_size, levels, tokens):
  log = make_log(rows, num_items)
  items, users = sci(log, branching, leaf_size, levels, tokens=tokens)
  check(items, users, log)
  assert items.shape[1] <= levels + 1
  assert users.shape[1] <= levels + 1
  again = sci(log, branching, leaf_size, levels, tokens=tokens)
  np.testing.assert_array_equal(items, again[0])
  np.testing.assert_array_equal(users, again[1])


EXTREMES = {
  "one item": make_log([[0]] * 9, 1),
  "one user": make_log([range(9)], 9),
  "one of each": make_log([[0]], 1),
  "nothing bought": make_log([[]] * 10, 12),
  "nothing bought, one of each": make_log([[]], 1),
  "cold items and users": make_log([[0, 1], [1, 2], [], [], [3]], 12),
  "many pieces": make_log([[i, i] for i in range(30)], 30),
  "pieces above a leaf": make_log([[u, 5 * (u // 5)] for u in range(40)], 40),
  "all the same": make_log([range(6)] * 20, 6),
}  # fmt: skip


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize(
  "options", [{}, {"leaf_size": 1, "levels": 6}, {"branching": 99}]
)
def test_extreme_logs_get_codes(name, options):
  log = EXTREMES[name]
  items, users = sci(log, **options)
  check(items, users, log)
  assert items.shape[1] <= options.get("levels", 2) + 1


@pytest.mark.parametrize("tokens", spectral.TOKENS)
def test_a_token_means_one_thing(tokens):
  """A number at a level or one cluster; the last of an item; the last of a user."""
  log, _, _ = planted(3, strays=3)
  items, users = sci(log, branching=4, leaf_size=5, levels=3, tokens=tokens)
  paths = spectral.cluster_paths(
    graph_lib.bipartite(log), branching=4, leaf_size=5, levels=3, seed=0
  )
  U, meaning = log.num_users, collections.defaultdict(set)
  shared = collections.Counter(paths[:U]), collections.Counter(paths[U:])
  for side, table, own in ((0, users, paths[:U]), (1, items, paths[U:])):
    for code, path in zip(strip(table), own):
      assert len(code) == len(path) + (shared[side][path] > 1)
      for level, (token, number) in enumerate(zip(code, path)):
        node = path[: level + 1] if tokens == "node" else (level, number)
        meaning[token].add(node)
      for token in code[len(path) :]:
        meaning[token].add(f"last of side {side}")
  assert all(len(found) == 1 for found in meaning.values())
  if tokens == "node":
    last = [
      code[-1] for code, path in zip(strip(items), paths[U:]) if len(code) > len(path)
    ]
    assert len(set(last)) == len(last) > 0
  # And a cluster has one token: as many tokens as there are things to mean.
  things = [thing for found in meaning.values() for thing in found]
  clusters = [thing for thing in things if not isinstance(thing, str)]
  assert len(clusters) == len(set(clusters))


@pytest.mark.parametrize("leaf_size", [1, 6, 30])
def test_leaves_are_small_where_levels_allow(leaf_size):
  log, _, _ = planted(3, strays=3)
  adjacency = graph_lib.bipartite(log)
  for levels in (1, 2, 40):
    paths = spectral.cluster_paths(
      adjacency, branching=4, leaf_size=leaf_size, levels=levels, seed=0
    )
    assert 1 <= min(map(len, paths)) <= max(map(len, paths)) <= levels
    assert max(max(path) for path in paths) < 4
    leaves = collections.Counter(paths)
    if levels == 40:
      # Two nodes that are connected stay together.
      assert max(leaves.values()) <= max(leaf_size, 2)
    # A cluster that is small enough is let be.
    split = collections.Counter(path[:n] for path in paths for n in range(len(path)))
    assert min(split.values()) > leaf_size


@pytest.fixture(scope="module")
def demo():
  """The demo's training log and its SCI codes by the demo's own options."""
  train = splits.leave_one_out(make_shop(Shop())[0]).train
  return train, *sci(train, branching=32, leaf_size=20, levels=2)


@pytest.mark.parametrize("tokens", spectral.TOKENS)
def test_last_tokens_are_drawn(demo, tokens):
  """Neither the catalogue's order, nor popularity, nor time shows in a last token."""
  train, _, _ = demo
  items, users = sci(train, branching=32, leaf_size=20, levels=2, tokens=tokens)
  check(items, users, train)
  first_I = np.full(train.num_items, len(train.item_E))
  np.minimum.at(first_I, train.item_E, np.arange(len(train.item_E)))
  count_I = np.bincount(train.item_E, minlength=train.num_items)
  for table, features in (
    (items, (np.arange(len(items)), first_I, count_I)),
    (users, (np.arange(len(users)), train.length_U)),
  ):
    leaves = collections.defaultdict(list)
    for node, code in enumerate(strip(table)):
      leaves[code[:-1]].append(node)
    leaves = [np.array(leaf) for leaf in leaves.values() if len(leaf) > 4]
    size = sum(map(len, leaves))
    assert size > len(table) // 3
    for feature in features:
      ranks = [
        [scipy.stats.rankdata(x) / len(leaf) for x in (feature[leaf], last_token[leaf])]
        for leaf in leaves
        for last_token in [table[np.arange(len(table)), (table >= 0).sum(1) - 1]]
      ]
      a, b = np.concatenate(ranks, axis=1)
      correlation = np.corrcoef(a, b)[0, 1]
      assert abs(correlation) < 3.5 / np.sqrt(size), correlation


def test_another_seed_draws_other_last_tokens(demo):
  train, items, _ = demo
  other, _ = sci(train, branching=32, leaf_size=20, levels=2, seed=1)
  assert other.shape != items.shape or (other != items).any(axis=1).mean() > 0.5


SCRIPT = """
import threadpoolctl
from lightlm_jax.config.data_groups import Ids
from lightlm_jax.data import splits, synthetic
from lightlm_jax.ids import codes, spectral

train = splits.leave_one_out(synthetic.make_shop(synthetic.Shop())[0]).train
cluster_paths = spectral.cluster_paths

def watched(*args, **kwargs):
  paths = cluster_paths(*args, **kwargs)
  print(max(pool["num_threads"] for pool in threadpoolctl.threadpool_info()))
  return paths

spectral.cluster_paths = watched
config = Ids(branching=32, leaf_size=20, levels=2, tokens="level", base=4)
tables = spectral.spectral_ids(train, config, seed=0)
print(codes.code_book(*tables, {}).sha256)
"""


def test_codes_do_not_depend_on_the_number_of_threads(demo):
  _, items, users = demo
  running = []
  for threads in ("1", "2"):
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    env |= {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
    running.append(
      subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=env, stdout=subprocess.PIPE, text=True
      )
    )
  wanted = codes.code_book(items, users, {}).sha256
  for process in running:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    # One thread, also in the libraries that came with scikit-learn.
    assert out.split() == ["1", wanted]


@pytest.mark.parametrize("tokens", spectral.TOKENS)
@pytest.mark.parametrize("graph", spectral.GRAPHS)
def test_every_graph_gives_codes_that_follow_its_communities(graph, tokens):
  # With strays, pairs of users are so many that a cluster may be of users alone.
  strays = 0 if graph == "all_together" else 1
  log, community_U, community_I = planted(3, strays=strays)
  # What is known of an item says where it belongs; each has something of its own, too.
  attributes = [np.array([own, 3 + n]) for n, own in enumerate(community_I)]
  options = {"leaf_size": 60 if graph == "attributes" else 20, "attributes": attributes}
  options |= {"levels": 1, "tokens": tokens, "graph": graph}
  items, users = sci(log, 3, **options)
  check(items, users, log)
  again = sci(log, 3, **options)
  np.testing.assert_array_equal(items, again[0])
  np.testing.assert_array_equal(users, again[1])

  def follows(code_NL, community_N):
    pairs = set(zip(community_N.tolist(), code_NL[:, 0].tolist()))
    return len(pairs) == 3

  assert follows(items, community_I) == (graph != "users")
  assert follows(users, community_U) == (graph not in ("items", "sequence"))
  shared = set(items.ravel()) & set(users.ravel()) - {-1}
  assert len(shared) == (3 if graph in (*spectral.CO_INDEXED, "attributes") else 0)


@pytest.mark.parametrize("graph", spectral.GRAPHS)
@pytest.mark.parametrize("rows", [[[]], [[0]], [[0, 0], [1, 2]], [[], [0, 1, 2]]])
def test_every_graph_takes_logs_with_hardly_an_edge(graph, rows):
  log = make_log(rows, num_items=4)
  attributes = [np.array(row, np.int64) for row in ([0], [], [0, 1], [1])]
  check(*sci(log, graph=graph, attributes=attributes), log)


def test_items_are_joined_by_what_few_have_and_users_by_what_theirs_have():
  log = make_log([[0, 1, 0], [2]], num_items=4)
  attributes = [np.array(row, np.int64) for row in ([0, 2], [1, 2], [0, 2], [2])]
  weight_A = np.log(5 / np.array([3, 2, 5]))
  has_IA = np.zeros((4, 3))
  for item, row in enumerate(attributes):
    has_IA[item, row] = weight_A[row]
  has_NA = np.concatenate([[2 * has_IA[0] + has_IA[1], has_IA[2]], has_IA])
  nothing_NN, nothing_AA = np.zeros((6, 6)), np.zeros((3, 3))
  found = graph_lib.by_attributes(log, attributes)
  np.testing.assert_allclose(
    found.toarray(), np.block([[nothing_NN, has_NA], [has_NA.T, nothing_AA]])
  )
  assert found.nnz == 2 * np.count_nonzero(has_NA)  # what all have joins nothing


def test_a_graph_of_attributes_without_attributes_is_refused_in_a_line():
  with pytest.raises(UserError, match=r"needs item_attributes\.json"):
    sci(make_log([[0]], 1), graph="attributes")


@pytest.mark.parametrize("side", ["user", "item"])
def test_more_than_a_million_are_told_where_to_go(side):
  log = make_log([[0, 1], [1]], 2)
  many = {f"{side}_ids": np.zeros(1_000_001, "U1")}
  if side == "user":
    many["offset_U1"] = np.pad(log.offset_U1, (0, 999_999), mode="edge")
  with pytest.raises(UserError, match=f"1,000,001 {side}s .* --config.ids.kind=gci"):
    sci(dataclasses.replace(log, **many))
