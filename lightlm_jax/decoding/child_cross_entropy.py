"""Cross-entropy of ids under the trie: each token competes with its siblings alone.

A hierarchical softmax (Morin & Bengio 2005) whose hierarchy is the trie of the ids: the
probability of an item is the product, over its tokens, of softmaxes over the children
of the prefix's node. It costs as many logits per token as a node has children, not V.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding.trie import Level, Trie

CHUNK = 16  # targets of one node that share a product; more would be more padding


class TokenBias(NamedTuple):
  """What is added to the logits of E tokens a level, for N targets or requests."""

  token_NLE: jax.Array  # int32, V = none
  value_NLE: jax.Array  # float32


def child_cross_entropy(
  state_NLD: jax.Array,
  table_VD: jax.Array,
  trie: Trie,
  code_NL: jax.Array,
  label_smoothing: float = 0.0,
  bias: TokenBias | None = None,
  bias_alone: bool = True,
) -> jax.Array:
  """Returns each token's cross-entropy over its siblings, [N, L] float32.

  Args:
    state_NLD: float32, the state that predicts each token; its logit of a token is the
      dot product with that token's row of the table.
    table_VD: float32, a row for each token.
    trie: the trie of all codes.
    code_NL: int32, the targets: codes of the trie, padded with -1, where the result is
      0. A row of padding alone is no target.
    label_smoothing: the share of the label's probability that is spread evenly over
      the children of the prefix's node.
    bias: added to the logits; each of its tokens occurs once in the trie, at the level
      where the bias has it.
    bias_alone: whether only the bias learns from the loss with the bias, and states and
      table from the loss without it: so seen items stay competitors, which reduces
      over-fitting (results/accuracy).
  """
  node_N = jnp.zeros(len(code_NL), jnp.int32)
  losses = []
  for level, here in enumerate(trie.levels):
    token_N = code_NL[:, level]
    next_N = trie.follow(node_N[:, None], token_N[:, None], level)[:, 0]
    column_N = jnp.where(token_N >= 0, next_N - here.first_N1[node_N], 0)
    state_ND = state_NLD[:, level]
    bias_NC = None
    if bias is not None:
      of_level = bias.token_NLE[:, level], bias.value_NLE[:, level]
      bias_NC = _by_child(*of_level, here, node_N, len(table_VD))
    if level == 0:  # one node, the root: one matrix product
      row_CD, open_C = _children(table_VD, here, jnp.zeros((), jnp.int32))
      logits_NC = jnp.einsum("nd,cd->nc", state_ND, row_CD)
      arguments = logits_NC, open_C[None], column_N, label_smoothing
      loss_N = _cross_entropy(*arguments, bias_NC, bias_alone)
    else:
      places = here, jnp.where(token_N >= 0, node_N, -1), column_N
      options = bias_NC, bias_alone, label_smoothing
      loss_N = _by_node(state_ND, table_VD, *places, *options)
    losses.append(jnp.where(token_N >= 0, loss_N, 0))
    node_N = next_N
  return jnp.stack(losses, axis=1)


def _by_child(token_NE, value_NE, here: Level, node_N, V: int) -> jax.Array:
  """Returns the bias of each child of the targets' nodes, [N, C]."""
  number_M = jnp.arange(here.token_M.shape[0])
  child_V = jnp.full(V + 1, -1).at[here.token_M.astype(jnp.int32)].set(number_M)
  child_V = child_V.at[V].set(-1)  # not a token, but the end of a code
  child_NE = child_V[token_NE]
  is_own_NE = child_NE < here.first_N1[node_N + 1][:, None]
  is_own_NE &= child_NE >= here.first_N1[node_N][:, None]
  column_NE = jnp.where(is_own_NE, child_NE - here.first_N1[node_N][:, None], -1)
  bias_NC = jnp.zeros((len(node_N), here.width + 1))
  row_N1 = jnp.arange(len(node_N))[:, None]
  return bias_NC.at[row_N1, column_NE].add(value_NE)[:, :-1]


def _by_node(
  state_ND, table_VD, here: Level, node_N, column_N, bias_NC, bias_alone, smoothing
):
  """Returns the targets' losses at a level, in chunks of targets at the same node.

  `node_N` is -1 where there is no target.
  """
  N, nodes = len(node_N), here.first_N1.shape[0] - 1
  chunks = N // CHUNK + min(nodes, N)
  key_N = jnp.where(node_N >= 0, node_N, nodes)
  order_N = jnp.argsort(key_N)
  sorted_N = key_N[order_N]
  count_P = jnp.bincount(key_N, length=nodes + 1)[:nodes]
  end_P = jnp.cumsum(-(-count_P // CHUNK))  # chunks of all nodes up to each
  begin_P = jnp.cumsum(count_P) - count_P
  node_of_N = jnp.minimum(sorted_N, nodes - 1)
  first_N = (end_P - -(-count_P // CHUNK))[node_of_N] * CHUNK
  place_N = first_N + jnp.arange(N) - begin_P[node_of_N]
  place_N = jnp.where(sorted_N < nodes, place_N, chunks * CHUNK)
  # The target at each place of the chunks; N = none.
  target_Y = jnp.full(chunks * CHUNK, N).at[place_N].set(order_N, mode="drop")
  held_Y = target_Y < N
  target_Y = jnp.minimum(target_Y, N - 1)
  node_X = jnp.searchsorted(
    end_P, jnp.arange(chunks), side="right", method="scan_unrolled"
  )
  node_X = jnp.minimum(node_X, nodes - 1).astype(jnp.int32)
  row_XCD, open_XC = _children(table_VD, here, node_X)
  state_YD = jnp.where(held_Y[:, None], state_ND[target_Y], 0)
  state_XYD = state_YD.reshape(chunks, CHUNK, -1)
  logits_XYC = jnp.einsum("xyd,xcd->xyc", state_XYD, row_XCD)
  bias_XYC = None if bias_NC is None else bias_NC[target_Y].reshape(logits_XYC.shape)
  column_XY = jnp.where(held_Y, column_N[target_Y], 0).reshape(chunks, CHUNK)
  arguments = logits_XYC, open_XC[:, None], column_XY, smoothing
  loss_XY = _cross_entropy(*arguments, bias_XYC, bias_alone)
  at_N = jnp.zeros(N, jnp.int32).at[order_N].set(place_N)
  return jnp.take(loss_XY.reshape(-1), at_N, mode="fill", fill_value=0)


def _children(table_VD, here: Level, node: jax.Array):
  """Returns the rows of the children of nodes, […, C, D], and which exist, […, C]."""
  first, end = here.first_N1[node], here.first_N1[node + 1]
  number = jnp.arange(here.width).reshape((1,) * node.ndim + (-1,))
  token = here.token_M[first[..., None] + number].astype(jnp.int32)
  row = table_VD[jnp.minimum(token, len(table_VD) - 1)]
  return row, number < (end - first)[..., None]


def _cross_entropy(
  logits, is_open, column, label_smoothing, bias=None, bias_alone=False
):
  """Returns softmax cross-entropies over the open entries of the last axis."""
  if bias is not None and not bias_alone:
    logits += bias
  elif bias is not None:
    arguments = is_open, column, label_smoothing
    free = _cross_entropy(logits, *arguments)
    biased = _cross_entropy(jax.lax.stop_gradient(logits) + bias, *arguments)
    return biased + free - jax.lax.stop_gradient(free)
  own = jnp.take_along_axis(logits, column[..., None], axis=-1)[..., 0]
  total = jax.nn.logsumexp(jnp.where(is_open, logits, -1e9), axis=-1)
  if not label_smoothing:
    return total - own
  mean = jnp.where(is_open, logits, 0).sum(axis=-1) / jnp.maximum(is_open.sum(-1), 1)
  return total - (1 - label_smoothing) * own - label_smoothing * mean
