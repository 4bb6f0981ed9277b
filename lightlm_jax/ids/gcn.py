"""The graph convolutional network behind GCI ids: users and items in one graph.

LightGCN (He et al. 2020, arXiv 2002.02126): vectors are propagated over the bipartite
graph several times, x' = D^-1/2 A D^-1/2 x with the adjacency A and the degrees D. The
result is the mean over the start vectors and all layers (equations 3-8). The loss is
BPR (Rendle et al. 2009, arXiv 1205.2618) without LightGCN's L2 term, because training
stops early on held-back edges instead (gcn_training.py). The option `weighted` gives
every layer a matrix and a non-linearity, as in NGCF (Wang et al. 2019, arXiv
1905.08108) and GCN (Kipf & Welling 2017, arXiv 1609.02907). On a mesh each device sums
the messages of its arcs; then one sum over the devices completes the layer.

In shapes: U users, I items, N = U + I nodes, users first; E edges, each between a user
and an item; A = 2 E arcs, both directions of every edge, in S stacks of T; D width, B
batch, M negatives of an example.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import jraph
import numpy as np

from lightlm_jax.config.data_groups import Gcn
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import graph as graph_lib

# Standard deviation of the start vectors' entries.
INIT_SCALE = 0.01
# Slope of the leaky ReLU in weighted layers, as in NGCF.
NEGATIVE_SLOPE = 0.2
# Arcs whose messages are in memory at once: 32 MiB if D = 64, which fits a cache.
STACK = 2**17


def distinct_edges(train: Interactions) -> tuple[np.ndarray, np.ndarray]:
  """Returns a log's distinct edges (user_E, item_E), int32, sorted by user and item."""
  user_E, item_E = graph_lib.distinct_purchases(train).tocoo().coords
  return user_E.astype(np.int32), item_E.astype(np.int32)


def bipartite(
  user_E: np.ndarray,
  item_E: np.ndarray,
  num_users: int,
  num_items: int,
  kept_E: np.ndarray | None = None,
) -> jraph.GraphsTuple:
  """Returns the graph as arcs of weight 1 / sqrt(degree of user · degree of item).

  Edges are distinct int32 pairs. Edges where `kept_E` (bool, None = all true) is
  false have weight 0 and do not count in degrees. They remain as arcs, so that graphs
  with and without them share one compiled program. The nodes have no vectors yet; the
  field `edges` has the weights, float32 [A, 1], of A = 2 E arcs, sorted by receiver.
  """
  N = num_users + num_items
  kept_E = np.ones(len(user_E), bool) if kept_E is None else kept_E
  item_node_E = num_users + item_E
  degree_N = np.bincount(user_E[kept_E], minlength=N)
  degree_N += np.bincount(item_node_E[kept_E], minlength=N)
  # An edge that is not kept may end at a node of degree 0.
  root_N = np.sqrt(np.maximum(degree_N, 1))
  weight_E = kept_E / (root_N[user_E] * root_N[item_node_E])

  sender_A = np.concatenate([user_E, item_node_E])
  receiver_A = np.concatenate([item_node_E, user_E])
  order_A = np.lexsort((sender_A, receiver_A))
  weight_A = np.tile(weight_E, 2)[order_A]
  return _graph(
    edges=weight_A[:, None].astype(np.float32),
    senders=sender_A[order_A].astype(np.int32),
    receivers=receiver_A[order_A].astype(np.int32),
    n_node=np.array([N], np.int32),
    n_edge=np.array([len(sender_A)], np.int32),
  )


def init(rng: jax.Array, num_nodes: int, options: Gcn) -> dict[str, jax.Array]:
  """Returns parameters, float32: start [N, D]; if weighted, matrix [layers, D, D]."""
  shape = (num_nodes, options.dim)
  params = {"start": INIT_SCALE * jax.random.normal(rng, shape)}
  if options.weighted:
    # With identity matrices an untrained layer propagates as LightGCN does.
    params["matrix"] = jnp.tile(jnp.eye(options.dim)[None], (options.layers, 1, 1))
  return params


def stacked(graph: jraph.GraphsTuple, devices: int = 1) -> jraph.GraphsTuple:
  """Returns the graph with its arcs in S stacks of T; S is a multiple of `devices`.

  Stacks are filled up with arcs of weight 0.
  """
  edge_A1, sender_A, receiver_A = map(
    np.asarray, (graph.edges, graph.senders, graph.receivers)
  )
  A, last_node = len(sender_A), int(graph.n_node.sum()) - 1
  stacks = devices * max(1, -(-A // (devices * STACK)))
  fill = (0, -A % stacks)
  receiver_A = np.pad(receiver_A, fill, constant_values=last_node)
  return graph._replace(
    edges=np.pad(edge_A1, (fill, (0, 0))).reshape(stacks, -1, 1),
    senders=np.pad(sender_A, fill).reshape(stacks, -1),
    receivers=receiver_A.reshape(stacks, -1),
  )


def propagate(
  params: dict[str, jax.Array],
  graph: jraph.GraphsTuple,
  layers: int,
  mesh: Mesh | None = None,
) -> jax.Array:
  """Returns the mean of the start vectors and of all layers' outputs, [N, D] float32.

  `params` are replicated on every device; the stacks of `graph`, from `stacked`, are
  sharded over the devices. Without a mesh there is one device.
  """

  def spread(node_ND) -> jax.Array:
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
      matrix_DD = params["matrix"][layer]
      # By default an accelerator rounds the factors, which would change the codes.
      node_ND = jnp.einsum("nd,de->ne", node_ND, matrix_DD, precision="highest")
      node_ND = jax.nn.leaky_relu(spread(node_ND), NEGATIVE_SLOPE)
    else:
      node_ND = spread(node_ND)
    total_ND += node_ND
  return total_ND / (layers + 1)


def _spread(node_ND, edge_ST1, sender_ST, receiver_ST) -> jax.Array:
  """Returns the sum of each node's incoming messages, [N, D], one stack at a time."""

  def add_stack(total_ND, arcs) -> tuple[Any, None]:
    edge_T1, sender_T, receiver_T = arcs

    def aggregate(message_TD, receiver_T, num_nodes):
      return total_ND.at[receiver_T].add(message_TD * edge_T1, indices_are_sorted=True)

    # jraph's own normalisation would recount the degrees in every layer and step.
    layer = jraph.GraphConvolution(
      lambda node_ND: node_ND, aggregate, symmetric_normalization=False
    )
    graph = _graph(nodes=node_ND, edges=edge_T1, senders=sender_T, receivers=receiver_T)
    return layer(graph).nodes, None

  arcs = edge_ST1, sender_ST, receiver_ST
  return jax.lax.scan(add_stack, jnp.zeros_like(node_ND), arcs)[0]


def _graph(**fields: Any) -> jraph.GraphsTuple:
  """Returns a GraphsTuple of these fields (NumPy or JAX); the others are None."""
  empty: dict[str, Any] = dict.fromkeys(jraph.GraphsTuple._fields)
  return jraph.GraphsTuple(**(empty | fields))


def bpr_loss(
  node_ND: jax.Array, user_B: jax.Array, item_B: jax.Array, negative_BM: jax.Array
) -> jax.Array:
  """Returns the mean of -ln σ(⟨user, item⟩ - ⟨user, negative⟩) over all negatives.

  Users, items and negatives are node indices: item i is node U + i, after U users. A
  negative may be any item, even one of the user's items, as in `systems.bpr_mf`.
  """
  user_BD = node_ND[user_B]
  positive_B = jnp.einsum("bd,bd->b", user_BD, node_ND[item_B])
  negative_BM = jnp.einsum("bd,bmd->bm", user_BD, node_ND[negative_BM])
  return jax.nn.softplus(negative_BM - positive_B[:, None]).mean()
