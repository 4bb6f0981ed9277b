"""The GCN behind GCI against dense formulas, and on logs whose structure is known."""

import jax
import jax.numpy as jnp
import jraph
import numpy as np
import pytest
import scipy.sparse
from small_logs import make_log

from lightlm_jax.config.data_groups import Gcn
from lightlm_jax.ids import gcn, gcn_training
from lightlm_jax.runtime.errors import UserError

# Purchases repeat, user 1 bought nothing, nobody bought item 4.
ROWS = [[2, 0, 2], [], [1, 3], [3, 3, 5, 1, 0], [5]]
LOG = make_log(ROWS, num_items=6)
U, I, D = LOG.num_users, LOG.num_items, 4
N = U + I
OPTIONS = Gcn(dim=D, layers=2, epochs=3)


def dense_graph(pairs):
  """[N, N] float64: D^-1/2 A D^-1/2, rows of nodes without an edge 0."""
  adjacency = np.zeros((N, N))
  for user, item in pairs:
    adjacency[user, U + item] = adjacency[U + item, user] = 1
  root = np.sqrt(np.maximum(adjacency.sum(axis=1), 1))
  return adjacency / root[:, None] / root[None, :]


def dense_vectors(params, pairs, layers):
  """LightGCN's equations 3-8, and with matrices the same of a GCN."""
  graph, node = dense_graph(pairs), np.array(params["start"], np.float64)
  outputs = [node]
  for layer in range(layers):
    node = graph @ node
    if "matrix" in params:
      node = node @ np.array(params["matrix"][layer], np.float64)
      node = np.where(node > 0, node, 0.2 * node)
    outputs.append(node)
  return np.mean(outputs, axis=0)


def make_params(layers, weighted, seed=0):
  rng = np.random.default_rng(seed)
  params = {"start": jnp.asarray(rng.normal(size=(N, D)), jnp.float32)}
  if weighted:
    matrix = rng.normal(size=(layers, D, D))
    params["matrix"] = jnp.asarray(matrix, jnp.float32)
  return params


def all_pairs(log=LOG):
  return [(u, i) for u in range(log.num_users) for i in set(log.row(u).tolist())]


# The graph.


def test_a_repeated_purchase_is_one_edge():
  user_E, item_E = gcn.distinct_edges(LOG)
  assert user_E.dtype == item_E.dtype == np.int32
  assert list(zip(user_E, item_E)) == sorted(all_pairs())


def test_arcs_are_normalised_and_ordered_by_receiver():
  graph = gcn.bipartite(*gcn.distinct_edges(LOG), U, I)
  assert (np.diff(graph.receivers) >= 0).all()
  assert (graph.edges.dtype, graph.edges.shape) == (np.float32, (18, 1))
  dense = np.zeros((N, N))
  dense[graph.receivers, graph.senders] = graph.edges[:, 0]
  np.testing.assert_allclose(dense, dense_graph(all_pairs()), rtol=1e-6)
  assert (graph.n_node, graph.n_edge) == (N, 18)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_propagation_is_the_dense_formula(layers, weighted):
  params = make_params(layers, weighted)
  graph = gcn.bipartite(*gcn.distinct_edges(LOG), U, I)
  node_ND = gcn.propagate(params, gcn.stacked(graph), layers)
  assert (node_ND.dtype, node_ND.shape) == (jnp.float32, (N, D))
  wanted_ND = dense_vectors(params, all_pairs(), layers)
  np.testing.assert_allclose(node_ND, wanted_ND, rtol=1e-5, atol=1e-6)
  # Nodes without an edge: their start vector, shrunk as every other's share of it.
  for lonely in (1, U + 4):
    wanted_D = params["start"][lonely] / (layers + 1)
    np.testing.assert_allclose(node_ND[lonely], wanted_D, rtol=1e-6)


def test_one_layer_is_what_jraph_makes_of_the_same_arcs():
  """jraph's own normalisation, counted from the arcs, as a second oracle."""
  params = make_params(1, weighted=False)
  graph = gcn.bipartite(*gcn.distinct_edges(LOG), U, I)
  layer = jraph.GraphConvolution(lambda node_ND: node_ND)
  wanted_ND = layer(graph._replace(nodes=params["start"])).nodes
  node_ND = 2 * gcn.propagate(params, gcn.stacked(graph), 1) - params["start"]
  np.testing.assert_allclose(node_ND, wanted_ND, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_edges_held_back_have_no_part_in_the_graph(weighted):
  user_E, item_E = gcn.distinct_edges(LOG)
  # Among them the only edge of user 4, who is left alone.
  kept_E = ~np.isin(np.arange(len(user_E)), [0, 4, 8])
  graph = gcn.bipartite(user_E, item_E, U, I, kept_E)
  full = gcn.bipartite(user_E, item_E, U, I)
  assert jax.tree.map(np.shape, graph) == jax.tree.map(np.shape, full)
  params = make_params(3, weighted)
  pairs = list(zip(user_E[kept_E], item_E[kept_E]))
  np.testing.assert_allclose(
    gcn.propagate(params, gcn.stacked(graph), 3),
    dense_vectors(params, pairs, 3),
    rtol=1e-5,
    atol=1e-6,
  )


@pytest.mark.parametrize("devices", [1, 3])
@pytest.mark.parametrize("stack", [1, 4, 6, 18, 100])
def test_stacks_hold_every_arc_once_and_fill_up_with_nothing(
  monkeypatch, stack, devices
):
  monkeypatch.setattr(gcn, "STACK", stack)
  graph = gcn.bipartite(*gcn.distinct_edges(LOG), U, I)
  stacked = gcn.stacked(graph, devices)
  stacks, arcs = stacked.senders.shape
  assert stacks % devices == 0
  assert arcs <= stack
  assert stacked.receivers.shape == (stacks, arcs)
  assert stacked.edges.shape == (stacks, arcs, 1)
  for name in ("senders", "receivers", "edges"):
    arc_A, filled_A = getattr(graph, name), getattr(stacked, name).reshape(-1)
    np.testing.assert_array_equal(filled_A[:18], arc_A.reshape(-1))
  # Fewer than one for each stack, without weight, and receivers are still in order.
  assert stacks * arcs - 18 < stacks
  assert not stacked.edges.reshape(-1)[18:].any()
  assert (np.diff(stacked.receivers, axis=1) >= 0).all()
  assert stacked.receivers.max() < N


@pytest.mark.parametrize("weighted", [False, True])
def test_several_stacks_are_the_dense_formula_too(monkeypatch, weighted):
  monkeypatch.setattr(gcn, "STACK", 4)
  params = make_params(2, weighted)
  graph = gcn.stacked(gcn.bipartite(*gcn.distinct_edges(LOG), U, I))
  assert graph.senders.shape == (5, 4), "two arcs are filled up"
  node_ND = gcn.propagate(params, graph, 2)
  wanted_ND = dense_vectors(params, all_pairs(), 2)
  np.testing.assert_allclose(node_ND, wanted_ND, rtol=1e-5, atol=1e-6)


def test_a_graph_without_arcs_spreads_nothing():
  params, nothing_E = make_params(2, weighted=False), np.zeros(0, np.int32)
  graph = gcn.stacked(gcn.bipartite(nothing_E, nothing_E, U, I), devices=2)
  assert graph.senders.shape == (2, 0)
  node_ND = gcn.propagate(params, graph, 2)
  np.testing.assert_allclose(node_ND, params["start"] / 3, rtol=1e-6)


# The loss.

USERS, ITEMS = np.array([0, 3, 3, 4]), U + np.array([2, 1, 0, 5])
NEGATIVES = U + np.array([[4, 1], [1, 5], [2, 3], [0, 0]])


def numpy_loss(node_ND):
  """The loss and its gradient by the vectors, example by example."""
  loss, grad_ND = 0.0, np.zeros_like(node_ND)
  for user, item, negatives in zip(USERS, ITEMS, NEGATIVES):
    for negative in negatives:
      difference_D = node_ND[item] - node_ND[negative]
      margin = node_ND[user] @ difference_D
      sigmoid = 1 / (1 + np.exp(-margin))
      slope = -(1 - sigmoid) / NEGATIVES.size
      loss -= np.log(sigmoid) / NEGATIVES.size
      grad_ND[user] += slope * difference_D
      grad_ND[item] += slope * node_ND[user]
      grad_ND[negative] -= slope * node_ND[user]
  return loss, grad_ND


@pytest.mark.parametrize("stack", [gcn.STACK, 4])
def test_loss_and_gradient_equal_numpy(monkeypatch, stack):
  """Through the propagation: the dense operator is symmetric, its own transpose."""
  monkeypatch.setattr(gcn, "STACK", stack)
  params, layers = make_params(2, weighted=False), 2
  graph = gcn.bipartite(*gcn.distinct_edges(LOG), U, I)

  def loss(params):
    node_ND = gcn.propagate(params, gcn.stacked(graph), layers)
    return gcn.bpr_loss(node_ND, USERS, ITEMS, NEGATIVES)

  value, grads = jax.value_and_grad(loss)(params)
  wanted, grad_ND = numpy_loss(dense_vectors(params, all_pairs(), layers))
  power = dense_graph(all_pairs())
  spread = (np.eye(N) + power + power @ power) / 3
  assert float(value) == pytest.approx(wanted, rel=1e-5)
  np.testing.assert_allclose(grads["start"], spread @ grad_ND, rtol=1e-4, atol=1e-6)


def test_a_weighted_gcn_learns_its_matrices():
  params = make_params(2, weighted=True)
  graph = gcn.bipartite(*gcn.distinct_edges(LOG), U, I)

  def loss(params):
    node_ND = gcn.propagate(params, gcn.stacked(graph), 2)
    return gcn.bpr_loss(node_ND, USERS, ITEMS, NEGATIVES)

  grads = jax.grad(loss)(params)
  step = 1e-2
  for layer, row, column in ((0, 1, 2), (1, 3, 0)):
    one = jnp.zeros_like(params["matrix"]).at[layer, row, column].set(step)
    up, down = (params | {"matrix": params["matrix"] + sign * one} for sign in (1, -1))
    wanted = (loss(up) - loss(down)) / (2 * step)
    assert float(grads["matrix"][layer, row, column]) == pytest.approx(
      float(wanted), rel=0.05, abs=1e-4
    )


# When training stops.


def test_ndcg_is_what_sorting_gives():
  rng = np.random.default_rng(0)
  node_ND = rng.normal(size=(30 + 50, 3)).astype(np.float32)
  known_UI = rng.random((30, 50)) < 0.2
  user_H, item_H = np.nonzero(~known_UI)
  gains = []
  for user, item in zip(user_H, item_H):
    score_I = np.where(known_UI[user], -np.inf, node_ND[30:] @ node_ND[user])
    rank = 1 + list(np.argsort(-score_I)).index(item)
    gains.append(1 / np.log2(1 + rank) if rank <= 7 else 0)
  known = scipy.sparse.csr_array(known_UI.astype(float))
  value = gcn_training.ndcg(node_ND, known, user_H, item_H, k=7)
  assert value == pytest.approx(np.mean(gains), rel=1e-4)
  # Vectors that say nothing, or are no numbers, are not taken for perfect ones.
  for nothing in (0, np.nan):
    assert gcn_training.ndcg(node_ND * nothing, known, user_H, item_H, k=7) == 0


def test_only_training_edges_judge_and_none_that_the_graph_holds(monkeypatch):
  log = planted()[0]
  judged = []

  def watched(node_ND, known, user_H, item_H):
    assert node_ND.shape == (log.num_users + log.num_items, 8)
    judged.append((set(zip(*known.nonzero())), set(zip(user_H, item_H))))
    return 0.0

  monkeypatch.setattr(gcn_training, "ndcg", watched)
  gcn_training.embeddings(log, SMALL, seed=0)
  known, held = judged[0]
  assert all(epoch == judged[0] for epoch in judged)
  assert known | held == set(all_pairs(log))
  assert not known & held
  assert len(held) == int(SMALL.held_back * len(known | held))


def test_the_best_epoch_is_kept(monkeypatch):
  log = planted()[0]

  def run(*values):
    left = iter(values)
    monkeypatch.setattr(gcn_training, "ndcg", lambda *_: next(left))
    vectors = np.concatenate(gcn_training.embeddings(log, SMALL, seed=0))
    return vectors, len(list(left))

  # Patience 3: after the second epoch's .2 three more may fail to be better.
  stopped, left = run(0.1, 0.2, 0.2, 0.1, 0.1, 9, 9, 9)
  assert left == 3
  whole, left = run(0.1, 0.2, *[0.0] * 6)
  assert left == 3
  np.testing.assert_array_equal(stopped, whole)
  other, left = run(*np.arange(8))
  assert left == 8 - SMALL.epochs
  assert (stopped != other).any()


# What comes out.


def planted(num_users=60, num_items=40, seed=0):
  """Two communities; of ten purchases one is a stray. The log, and who is where."""
  rng = np.random.default_rng(seed)
  community_U = rng.permutation(np.arange(num_users) % 2)
  community_I = rng.permutation(np.arange(num_items) % 2)
  rows = [
    [
      *rng.choice(np.flatnonzero(community_I == community), 9, replace=False),
      rng.integers(num_items),
    ]
    for community in community_U
  ]
  return make_log(rows, num_items), community_U, community_I


SMALL = Gcn(dim=8, layers=2, epochs=7, patience=3)


@pytest.mark.parametrize("weighted", [False, True])
def test_communities_come_apart(weighted):
  log, community_U, community_I = planted()
  options = Gcn(dim=8, layers=2, epochs=30, weighted=weighted)
  user_UD, item_ID = gcn_training.embeddings(log, options, seed=0)
  same_UI = community_U[:, None] == community_I[None, :]
  score_UI = user_UD @ item_ID.T
  assert score_UI[same_UI].mean() > 0.1
  assert score_UI[~same_UI].mean() < -0.1
  # Every user is nearer to the middle of her own community's items.
  middle_2D = np.stack([item_ID[community_I == c].mean(axis=0) for c in (0, 1)])
  assert ((user_UD @ middle_2D.T).argmax(axis=1) == community_U).mean() > 0.98


def test_the_same_seed_gives_the_same_bytes():
  log = planted()[0]
  first, again, other = (
    gcn_training.embeddings(log, SMALL, seed=seed) for seed in (3, 3, 4)
  )
  for a, b, c in zip(first, again, other):
    assert a.dtype == np.float32
    assert a.tobytes() == b.tobytes()
    assert (a != c).all(axis=1).mean() > 0.9


LOGS = {
  "repeats and lonely nodes": LOG,
  "one item": make_log([[0]] * 30, 1),
  "many pieces": make_log([[i, i] for i in range(30)], 30),
  "nothing bought": make_log([[], [], []], 4),
}


@pytest.mark.parametrize("name", LOGS)
def test_any_log_gets_finite_vectors(name):
  log = LOGS[name]
  users, items = gcn_training.embeddings(log, OPTIONS, seed=0)
  assert users.shape == (log.num_users, D)
  assert items.shape == (log.num_items, D)
  for table in (users, items):
    assert np.isfinite(table).all()
    assert table.any(axis=1).all()
  lonely_N = np.append(log.length_U, np.bincount(log.item_E, minlength=log.num_items))
  lonely_N = np.flatnonzero(lonely_N == 0)
  init_key, _ = jax.random.split(jax.random.key(0))
  start_ND = gcn.init(init_key, log.num_users + log.num_items, OPTIONS)["start"]
  if name == "nothing bought":
    assert len(lonely_N) == 7
    np.testing.assert_allclose(np.concatenate([users, items]), start_ND / 3, rtol=1e-6)


def test_a_learning_rate_beyond_reason_is_a_persons_mistake():
  options = Gcn(dim=D, layers=2, epochs=2, learning_rate=1e30)
  with pytest.raises(UserError, match="learning rate 1e\\+30; lower it"):
    gcn_training.embeddings(LOG, options, seed=0)
