"""Trains the GCN of GCI ids, by BPR with early stopping on held-back training edges.

A step propagates over the whole graph, so batches are large and an example has several
negatives: both cost little beside the propagation. On a mesh every device holds all
vectors and a share of the arcs and of the batch.

Letters as in gcn.py; H edges held back, K edges kept for training.
"""

import contextlib
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax
import scipy.sparse

from lightlm_jax.config.data_groups import Gcn
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import gcn
from lightlm_jax.ids import graph as graph_lib
from lightlm_jax.runtime.errors import UserError

# The cut-off of the NDCG that decides when training stops.
STOPPING_K = 100
# Most held-back edges that are evaluated: more change little and take time.
MAX_EVALUATED = 2000
# Fewest and most steps of an epoch: fewer would hardly train on a small log, more
# would propagate over a large graph for hours.
MIN_STEPS, MAX_STEPS = 4, 32


def embeddings(
  train: Interactions, options: Gcn, *, seed: int, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
  """Trains the GCN; returns users' vectors [U, D] and items' vectors [I, D], float32.

  A share of the *training* edges is held back from the graph and the loss, for early
  stopping. The start vectors of the best epoch are then propagated over the graph of
  all edges. A node without edges gets its start vector / (`options.layers` + 1).

  Without a `mesh`, training runs on the CPU if JAX has one, because an accelerator sums
  messages in arbitrary order. On one kind of CPU and one version of JAX, equal seeds
  then give bitwise equal vectors. With `options.weighted` the number of threads must be
  equal too, because XLA splits matrix products by it. With a `mesh`, equal seeds give
  vectors equal up to float32 rounding. Raises a UserError if training diverges.
  """
  # One thread: early stopping must not depend on the machine's number of threads.
  import threadpoolctl  # noqa: PLC0415, only building needs it

  device = None
  if mesh is None:
    with contextlib.suppress(RuntimeError):  # raised if JAX has no CPU
      device = jax.local_devices(backend="cpu")[0]
  with threadpoolctl.threadpool_limits(1), jax.default_device(device):
    node_ND = _train(train, options, seed, mesh)
  if not np.isfinite(node_ND).all():
    raise UserError(
      f"the GCN's vectors are not finite at learning rate "
      f"{options.learning_rate}; lower it"
    )
  return node_ND[: train.num_users], node_ND[train.num_users :]


def ndcg(
  node_ND: np.ndarray,
  known: scipy.sparse.csr_array,
  user_H: np.ndarray,
  item_H: np.ndarray,
  k: int = STOPPING_K,
) -> float:
  """Returns the mean NDCG@k of H held-back edges; the item of an edge is its target.

  An edge's NDCG is 1 / log2(1 + rank of its item), 0 for ranks beyond k. The rank is
  among all items except the user's nonzero items in `known`, [U, I]. Other items with
  the same score, or with NaN, count as ranked higher. `node_ND`: users, then items.
  """
  num_users, _ = graph_lib.shape(known)
  user_UD, item_ID = node_ND[:num_users], node_ND[num_users:]
  gain = 0.0
  at_once = max(1, min(256, 2**26 // len(item_ID)))
  for start in range(0, len(user_H), at_once):
    user_B, item_B = user_H[start : start + at_once], item_H[start : start + at_once]
    score_BI = user_UD[user_B] @ item_ID.T
    own_B1 = np.take_along_axis(score_BI, item_B[:, None], axis=1)
    score_BI[known[user_B].nonzero()] = -np.inf
    rank_B = np.count_nonzero(~(score_BI < own_B1), axis=1)
    gain += np.where(rank_B <= k, 1 / np.log2(1 + rank_B), 0).sum()
  return float(gain / len(user_H))


def _train(
  train: Interactions, options: Gcn, seed: int, mesh: Mesh | None
) -> np.ndarray:
  """Returns every node's vector, propagated over all edges, [N, D] float32."""
  U, I = train.num_users, train.num_items
  user_E, item_E = gcn.distinct_edges(train)
  E = len(user_E)
  held_H = np.random.default_rng(seed).permutation(E)[: int(options.held_back * E)]
  kept_E = np.ones(E, bool)
  kept_E[held_H] = False
  user_K, item_K = user_E[kept_E], item_E[kept_E]
  known = scipy.sparse.csr_array((np.ones(len(user_K)), (user_K, item_K)), (U, I))
  stopping_H = held_H[:MAX_EVALUATED]

  def placed(graph):
    """Returns the graph with its edges in one block per device of the mesh."""
    graph = gcn.stacked(graph, 1 if mesh is None else mesh.size)
    return jax.tree.map(lambda a: _put(a, mesh, divided=a.ndim > 1), graph)

  init_key, epoch_key = jax.random.split(jax.random.key(seed))
  best = jax.tree.map(lambda a: _put(a, mesh), gcn.init(init_key, U + I, options))
  state = best, optax.adam(options.learning_rate).init(best)
  # Copied, because `_epoch` donates its state.
  state = jax.tree.map(lambda a: _put(jnp.copy(a), mesh), state)
  # Passed as arguments: XLA would spend minutes on folding a constant graph.
  graph = placed(gcn.bipartite(user_E, item_E, U, I, kept_E))
  edges = _put(user_K, mesh), _put(U + item_K, mesh)
  spread = functools.partial(_propagate, layers=options.layers, mesh=mesh)
  best_ndcg, waited = -1.0, 0
  for epoch in range(options.epochs if len(user_K) else 0):
    state, _ = _epoch(
      state,
      jax.random.fold_in(epoch_key, epoch),
      options.learning_rate,
      graph,
      edges,
      first_item=U,
      batch_size=_batch_size(len(user_K), options.batch_size),
      options=options,
      mesh=mesh,
    )
    if len(stopping_H):
      node_ND = np.asarray(spread(state[0], graph))
      reached = ndcg(node_ND, known, user_E[stopping_H], item_E[stopping_H])
      waited += 1
      if reached <= best_ndcg:
        if waited >= options.patience:
          break
        continue
      best_ndcg, waited = reached, 0
    best = jax.tree.map(jnp.copy, state[0])
  return np.asarray(spread(best, placed(gcn.bipartite(user_E, item_E, U, I))))


_propagate = jax.jit(gcn.propagate, static_argnames=("layers", "mesh"))


def _batch_size(edges: int, wanted: int) -> int:
  """Returns the edges per step: `wanted`, within MIN_STEPS to MAX_STEPS per epoch."""
  fewest_B = -(-edges // MAX_STEPS)
  # Divisible by any usual number of devices, so that the batches do not depend on it.
  fewest_B = -(-fewest_B // 1024) * 1024
  return min(max(wanted, fewest_B), -(-edges // MIN_STEPS))


def _put(array, mesh: Mesh | None, *, divided: bool = False) -> jax.Array:
  """Puts an array on one device or on a mesh; if `divided`, shards its rows there."""
  if mesh is None:
    return jnp.asarray(array)
  spec = PartitionSpec(mesh.axis_names) if divided else PartitionSpec()
  return jax.device_put(array, NamedSharding(mesh, spec))


@functools.partial(
  jax.jit,
  static_argnames=("first_item", "batch_size", "options", "mesh"),
  donate_argnames="state",
)
def _epoch(
  state, key, learning_rate, graph, edges, *, first_item, batch_size, options, mesh
):
  """Trains on every edge once in random order; returns the new state and losses.

  `state` is (parameters, state of Adam), `edges` are int32 user nodes and item nodes of
  the K training edges, `first_item` is U, the number of users. The last batch is filled
  up with the epoch's first edges. Arcs and batch are sharded over the mesh.
  """
  user_K, item_K = edges
  steps = -(-len(user_K) // batch_size)
  order_key, negatives_key = jax.random.split(key)
  order_K = jax.random.permutation(order_key, len(user_K))
  adam = optax.adam(learning_rate)

  def step(state, step_input):
    edge_B, key = step_input
    params, adam_state = state
    shape, N = (batch_size, options.negatives), len(params["start"])
    negative_BM = jax.random.randint(key, shape, first_item, N)
    # If a small log's batch does not divide over the mesh, it is replicated.
    if mesh is not None and batch_size % mesh.size == 0:
      rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
      edge_B, negative_BM = jax.lax.with_sharding_constraint(
        (edge_B, negative_BM), (rows, rows)
      )

    def loss(params):
      node_ND = gcn.propagate(params, graph, options.layers, mesh)
      return gcn.bpr_loss(node_ND, user_K[edge_B], item_K[edge_B], negative_BM)

    value, grads = jax.value_and_grad(loss)(params)
    updates, adam_state = adam.update(grads, adam_state)
    return (optax.apply_updates(params, updates), adam_state), value

  edge_SB = jnp.resize(order_K, (steps, batch_size))
  return jax.lax.scan(step, state, (edge_SB, jax.random.split(negatives_key, steps)))
