"""User and item vectors from the graph of who bought what: the GCN behind GCI ids.

LightGCN (He et al. 2020, arXiv 2002.02126): vectors are spread over the bipartite
graph, x' = D^-1/2 A D^-1/2 x, a few times, and the mean over the start and all
layers is what is used (equations 3-8). Training by BPR (Rendle et al. 2009, arXiv
1205.2618) on start vectors only, without the paper's L2 term: training stops by what
was held back instead. `weighted` puts a matrix and a non-linearity into
every layer, as the GCNs did that LightGCN takes them out of (NGCF, Wang et al. 2019,
arXiv 1905.08108, and Kipf & Welling 2017, arXiv 1609.02907).

A step spreads over the whole graph whatever its batch is, so batches are large and
an example has several negatives: both cost little beside the spreading.

On a mesh every device has all vectors and a share of the arcs and of the batch. What
the arcs bring together is added up over the devices once a layer.

Letters: U users, I items, N = U + I nodes, users first; E edges, each between a user
and an item; A = 2 E arcs, an edge's two directions, in S stacks of T; D width, B
batch, M negatives of an example, H edges held back, K kept.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import jraph
import numpy as np
import optax
import scipy.sparse

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import graph as graph_lib
from lightlm_jax.runtime.errors import UserError

# Standard deviation of the start vectors' entries.
INIT_SCALE = 0.01
# Of the leaky ReLU of weighted layers, as NGCF has it.
NEGATIVE_SLOPE = 0.2
# Ranks below this count nothing when an epoch is judged.
JUDGE_K = 100
# More held-back edges say little more and take time from the training.
MAX_JUDGED = 2000
# An epoch has at least so many steps, or a small log would hardly be trained; and at
# most so many, or a large one would spread over its graph for hours.
MIN_STEPS, MAX_STEPS = 4, 32
# Arcs whose messages are in memory at once: 32 MiB of 64 columns, which a cache holds.
STACK = 2**17


@dataclasses.dataclass(frozen=True)
class Options:
  """How the vectors are trained."""

  dim: int = 64
  layers: int = 3
  learning_rate: float = 0.02
  epochs: int = 60  # at most
  batch_size: int = 32_768  # edges a step, within an epoch's fewest and most steps
  negatives: int = 4  # of each edge, drawn anew in every epoch
  patience: int = 10  # epochs without a better ndcg, then training ends
  held_back: float = 0.05  # share of the training edges that is held back to stop by
  weighted: bool = False  # a matrix and a non-linearity in every layer


def embeddings(
  train: Interactions,
  options: Options = Options(),
  *,
  seed: int,
  mesh: Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Trains on the interactions: users' vectors [U, D] and items' [I, D], float32.

  A share of the *training* edges is held back, out of the graph and out of the loss,
  to tell when to stop. The start vectors of the best epoch are then spread over the
  graph of all edges: what was held back shapes the result too, at no second training.

  A node without edges keeps its start vector (scaled by 1 / (layers + 1)); so do all
  of them where there is no edge at all.

  The same seed gives the same bytes, on one kind of processor and with one version of
  jax, with any number of threads unless `weighted` (XLA cuts a product of matrices into
  as many sums as there are threads). For that it runs on the CPU where jax has one: an
  accelerator adds up arcs in any order. On a `mesh`, all of whose axes share the work,
  vectors are equal within float32's rounding.

  Raises:
    UserError: the learning rate is so large that the vectors are no numbers.
  """
  # Scores that judge an epoch may not depend on how many threads the machine has.
  import threadpoolctl  # noqa: PLC0415, only building needs it

  device = _cpu() if mesh is None else None
  with threadpoolctl.threadpool_limits(1), jax.default_device(device):
    node_ND = _train(train, options, seed, mesh)
  if not np.isfinite(node_ND).all():
    raise UserError(
      f"the GCN's vectors grew beyond all numbers at learning rate "
      f"{options.learning_rate}; lower it"
    )
  return node_ND[: train.num_users], node_ND[train.num_users :]


def distinct_edges(train: Interactions) -> tuple[np.ndarray, np.ndarray]:
  """(user_E, item_E), int32, ordered by user, then item; a repeat counts once.

  LightGCN's graph has no counts. And of a pair that was bought twice, one could be
  held back while the other gave it away.
  """
  user_E, item_E = graph_lib.distinct_purchases(train).tocoo().coords
  return user_E.astype(np.int32), item_E.astype(np.int32)


def bipartite(
  user_E: np.ndarray,
  item_E: np.ndarray,
  num_users: int,
  num_items: int,
  kept_E: np.ndarray | None = None,
) -> jraph.GraphsTuple:
  """The graph without vectors: arcs of weight 1 / sqrt(degree_u degree_i).

  Args:
    user_E: int32, of distinct edges.
    item_E: int32.
    num_users: U.
    num_items: I.
    kept_E: bool; the others weigh 0 and have no part in a degree. They stay as arcs
      so that the graph with and the graph without them share one compiled program.

  Returns:
    Arcs in the order of their receivers; `edges` is float32 [A, 1].
  """
  N = num_users + num_items
  kept_E = np.ones(len(user_E), bool) if kept_E is None else kept_E
  item_node_E = num_users + item_E
  degree_N = np.bincount(user_E[kept_E], minlength=N)
  degree_N += np.bincount(item_node_E[kept_E], minlength=N)
  # An edge that is not kept may end at a node without any.
  root_N = np.sqrt(np.maximum(degree_N, 1))
  weight_E = kept_E / (root_N[user_E] * root_N[item_node_E])

  sender_A = np.concatenate([user_E, item_node_E])
  receiver_A = np.concatenate([item_node_E, user_E])
  order_A = np.lexsort((sender_A, receiver_A))
  weight_A = np.tile(weight_E, 2)[order_A]
  return jraph.GraphsTuple(
    nodes=None,
    edges=weight_A[:, None].astype(np.float32),
    senders=sender_A[order_A].astype(np.int32),
    receivers=receiver_A[order_A].astype(np.int32),
    n_node=np.array([N], np.int32),
    n_edge=np.array([len(sender_A)], np.int32),
    globals=None,
  )


def init(rng: jax.Array, num_nodes: int, options: Options) -> dict[str, jax.Array]:
  """float32: "start" [N, D] and, if weighted, "matrix" [layers, D, D]."""
  shape = (num_nodes, options.dim)
  params = {"start": INIT_SCALE * jax.random.normal(rng, shape)}
  if options.weighted:
    # An untrained weighted GCN then spreads as LightGCN does.
    params["matrix"] = jnp.tile(jnp.eye(options.dim)[None], (options.layers, 1, 1))
  return params


def stacked(graph: jraph.GraphsTuple, devices: int = 1) -> jraph.GraphsTuple:
  """The graph with its arcs in stacks, [S, T], equally many for each device.

  The arcs that fill the last one up weigh nothing.
  """
  A, last_node = len(graph.senders), int(graph.n_node.sum()) - 1
  stacks = devices * max(1, -(-A // (devices * STACK)))
  fill = (0, -A % stacks)
  receiver_A = np.pad(graph.receivers, fill, constant_values=last_node)
  return graph._replace(
    edges=np.pad(graph.edges, (fill, (0, 0))).reshape(stacks, -1, 1),
    senders=np.pad(graph.senders, fill).reshape(stacks, -1),
    receivers=receiver_A.reshape(stacks, -1),
  )


def propagate(
  params: dict[str, jax.Array],
  graph: jraph.GraphsTuple,
  layers: int,
  mesh: Mesh | None = None,
) -> jax.Array:
  """[N, D] float32: the mean of the start vectors and of every layer's output.

  Args:
    params: as `init` makes them, on every device.
    graph: as `stacked` makes it; on a mesh its stacks are divided over the devices.
    layers: of the GCN.
    mesh: None for one device.
  """

  def spread(node_ND):
    arcs = graph.edges, graph.senders, graph.receivers
    if mesh is None:
      return _spread(node_ND, *arcs)
    axes = mesh.axis_names
    return jax.shard_map(
      lambda *arguments: jax.lax.psum(_spread(*arguments), axes),
      mesh=mesh,
      in_specs=(PartitionSpec(), *[PartitionSpec(axes)] * 3),
      out_specs=PartitionSpec(),
      check_vma=False,
    )(node_ND, *arcs)

  node_ND = total_ND = params["start"]
  for layer in range(layers):
    if "matrix" in params:
      node_ND = spread(_times(params["matrix"][layer], node_ND))
      node_ND = jax.nn.leaky_relu(node_ND, NEGATIVE_SLOPE)
    else:
      node_ND = spread(node_ND)
    total_ND += node_ND
  return total_ND / (layers + 1)


def _spread(node_ND, edge_ST1, sender_ST, receiver_ST):
  """[N, D]: what these arcs bring to every node, one stack of them after another."""

  def add_stack(total_ND, arcs):
    edge_T1, sender_T, receiver_T = arcs

    def aggregate(message_TD, receiver_T, num_nodes):
      del num_nodes
      return total_ND.at[receiver_T].add(message_TD * edge_T1, indices_are_sorted=True)

    # jraph's own normalisation would count the degrees anew in every layer and step.
    layer = jraph.GraphConvolution(
      lambda node_ND: node_ND, aggregate, symmetric_normalization=False
    )
    graph = jraph.GraphsTuple(
      nodes=node_ND,
      edges=edge_T1,
      senders=sender_T,
      receivers=receiver_T,
      n_node=None,
      n_edge=None,
      globals=None,
    )
    return layer(graph).nodes, None

  arcs = edge_ST1, sender_ST, receiver_ST
  return jax.lax.scan(add_stack, jnp.zeros_like(node_ND), arcs)[0]


def _times(matrix_DD: jax.Array, node_ND: jax.Array) -> jax.Array:
  # An accelerator would round the factors, and the codes follow from the result.
  return jnp.einsum("nd,de->ne", node_ND, matrix_DD, precision="highest")


def bpr_loss(
  node_ND: jax.Array, user_B: jax.Array, item_B: jax.Array, negative_BM: jax.Array
) -> jax.Array:
  """-ln σ(⟨user, item⟩ - ⟨user, negative⟩), averaged over negatives and batch.

  All are numbers of nodes: item i is U + i. A negative is any item, as in
  `systems.bpr_mf`: few are wrong, and the item itself has no gradient.
  """
  user_BD = node_ND[user_B]
  positive_B = jnp.einsum("bd,bd->b", user_BD, node_ND[item_B])
  negative_BM = jnp.einsum("bd,bmd->bm", user_BD, node_ND[negative_BM])
  return jax.nn.softplus(negative_BM - positive_B[:, None]).mean()


def ndcg(
  node_ND: np.ndarray,
  known: scipy.sparse.csr_array,
  user_H: np.ndarray,
  item_H: np.ndarray,
  k: int = JUDGE_K,
) -> float:
  """Mean over the edges of 1 / log2(1 + rank), or 0 for a rank beyond k.

  The rank is that of the edge's item among all items but those in the user's row of
  `known`, [U, I]. Equal scores, and such as are no numbers, stand before the item.
  """
  num_users = known.shape[0]
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
  train: Interactions, options: Options, seed: int, mesh: Mesh | None
) -> np.ndarray:
  """[N, D] float32: every node's vector, spread over all edges."""
  U, I = train.num_users, train.num_items
  user_E, item_E = distinct_edges(train)
  E = len(user_E)
  held_H = np.random.default_rng(seed).permutation(E)[: int(options.held_back * E)]
  kept_E = np.ones(E, bool)
  kept_E[held_H] = False
  user_K, item_K = user_E[kept_E], item_E[kept_E]
  known = scipy.sparse.csr_array((np.ones(len(user_K)), (user_K, item_K)), (U, I))
  judged_H = held_H[:MAX_JUDGED]

  def placed(graph):
    """With the weights and arcs divided over the mesh."""
    graph = stacked(graph, 1 if mesh is None else mesh.size)
    return jax.tree.map(lambda a: _put(a, mesh, divided=a.ndim > 1), graph)

  init_key, epoch_key = jax.random.split(jax.random.key(seed))
  best = jax.tree.map(lambda a: _put(a, mesh), init(init_key, U + I, options))
  state = best, optax.adam(options.learning_rate).init(best)
  # Copied: the steps give the memory of their own away.
  state = jax.tree.map(lambda a: _put(jnp.copy(a), mesh), state)
  # As arguments of compiled functions: XLA would fold a constant graph for minutes.
  graph = placed(bipartite(user_E, item_E, U, I, kept_E))
  edges = _put(user_K, mesh), _put(U + item_K, mesh)
  spread = functools.partial(_propagate, layers=options.layers, mesh=mesh)
  best_ndcg, waited = -1.0, 0
  for epoch in range(options.epochs if len(user_K) else 0):
    state, _ = _epoch(
      state,
      jax.random.fold_in(epoch_key, epoch),
      options.learning_rate,
      graph,
      *edges,
      first_item=U,
      layers=options.layers,
      batch_size=_batch_size(len(user_K), options.batch_size),
      negatives=options.negatives,
      mesh=mesh,
    )
    if len(judged_H):
      node_ND = np.asarray(spread(state[0], graph))
      reached = ndcg(node_ND, known, user_E[judged_H], item_E[judged_H])
      waited += 1
      if reached <= best_ndcg:
        if waited >= options.patience:
          break
        continue
      best_ndcg, waited = reached, 0
    best = jax.tree.map(jnp.copy, state[0])
  return np.asarray(spread(best, placed(bipartite(user_E, item_E, U, I))))


_propagate = jax.jit(propagate, static_argnames=("layers", "mesh"))


def _batch_size(edges: int, wanted: int) -> int:
  """Edges of a step: as wanted, but for an epoch of very few or very many steps."""
  fewest_B = -(-edges // MAX_STEPS)
  # Even shares for any usual number of devices: all of them make the same batches.
  fewest_B = -(-fewest_B // 1024) * 1024
  return min(max(wanted, fewest_B), -(-edges // MIN_STEPS))


def _put(array, mesh: Mesh | None, *, divided: bool = False) -> jax.Array:
  """On the device, or on the mesh: a copy for each, or rows divided."""
  if mesh is None:
    return jnp.asarray(array)
  spec = PartitionSpec(mesh.axis_names) if divided else PartitionSpec()
  return jax.device_put(array, NamedSharding(mesh, spec))


@functools.partial(
  jax.jit,
  static_argnames=("first_item", "layers", "batch_size", "negatives", "mesh"),
  donate_argnames="state",
)
def _epoch(
  state,
  key,
  learning_rate,
  graph,
  user_K,
  item_K,
  *,
  first_item,
  layers,
  batch_size,
  negatives,
  mesh,
):
  """Every edge once, in drawn order; the last batch is filled up from the first.

  Args:
    state: (parameters, state of the optimiser).
    key: of the order and of the negatives.
    learning_rate: of Adam.
    graph: what the vectors are spread over, as `stacked` makes it.
    user_K: int32 nodes of the edges that are trained on.
    item_K: int32 nodes.
    first_item: U.
    layers: of the GCN.
    batch_size: B.
    negatives: M.
    mesh: whose devices share the arcs and the batch, or None.

  Returns:
    The new state and the losses of all steps.
  """
  steps = -(-len(user_K) // batch_size)
  order_key, negatives_key = jax.random.split(key)
  order_K = jax.random.permutation(order_key, len(user_K))
  adam = optax.adam(learning_rate)

  def step(state, step_input):
    edge_B, key = step_input
    params, adam_state = state
    shape, N = (batch_size, negatives), len(params["start"])
    negative_BM = jax.random.randint(key, shape, first_item, N)
    # A batch that does not divide, of a small log, is every device's whole.
    if mesh is not None and batch_size % mesh.size == 0:
      rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
      edge_B, negative_BM = jax.lax.with_sharding_constraint(
        (edge_B, negative_BM), (rows, rows)
      )

    def loss(params):
      node_ND = propagate(params, graph, layers, mesh)
      return bpr_loss(node_ND, user_K[edge_B], item_K[edge_B], negative_BM)

    value, grads = jax.value_and_grad(loss)(params)
    updates, adam_state = adam.update(grads, adam_state)
    return (optax.apply_updates(params, updates), adam_state), value

  edge_SB = jnp.resize(order_K, (steps, batch_size))
  return jax.lax.scan(step, state, (edge_SB, jax.random.split(negatives_key, steps)))


def _cpu() -> jax.Device | None:
  """The CPU of this process; None where jax was told not to have one."""
  try:
    return jax.local_devices(backend="cpu")[0]
  except RuntimeError:
    return None
