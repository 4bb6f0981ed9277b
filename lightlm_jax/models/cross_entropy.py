"""Cross-entropy over a whole catalogue, without all logits at once.

With N positions and I items the logits are the largest array of a next-item model by
far. Here a chunk of positions at a time makes its logits, its loss and its gradients in
one pass, so that memory stays at [chunk, I] and nothing is computed twice; positions of
weight 0 are put last and cost nothing.
"""

import functools

import jax
import jax.numpy as jnp

CHUNK = 256  # positions: their logits over 12,000 items stay in a CPU's cache


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def linear_cross_entropy(
  hidden_ND: jax.Array,
  table_ID: jax.Array,
  label_N: jax.Array,
  weight_N: jax.Array,
  chunk: int = CHUNK,
) -> jax.Array:
  """The weighted sum of -log softmax(hidden · table)[label], float32.

  Args:
    hidden_ND: float32.
    table_ID: float32, a row for each item.
    label_N: int32 in [0, I); anything where the weight is 0.
    weight_N: float32, 0 = this position is no example.
    chunk: positions whose logits are held at once.
  """
  return _loss_and_gradients(hidden_ND, table_ID, label_N, weight_N, chunk)[0]


def _loss_and_gradients(hidden_ND, table_ID, label_N, weight_N, chunk):
  N, D = hidden_ND.shape
  order_N = jnp.argsort(weight_N == 0, stable=True)
  room = -N % chunk
  hidden_XCD = jnp.pad(hidden_ND[order_N], ((0, room), (0, 0))).reshape(-1, chunk, D)
  label_XC = jnp.pad(label_N[order_N], (0, room)).reshape(-1, chunk)
  weight_XC = jnp.pad(weight_N[order_N], (0, room)).reshape(-1, chunk)

  def of_chunk(carry, piece):
    return jax.lax.cond((piece[2] != 0).any(), examples, nothing, carry, piece)

  def nothing(carry, piece):
    return carry, jnp.zeros_like(piece[0])

  def examples(carry, piece):
    loss, table_grad_ID = carry
    hidden_CD, label_C, weight_C = piece
    logits_CI = jnp.einsum("cd,id->ci", hidden_CD, table_ID)
    most_C1 = logits_CI.max(axis=1, keepdims=True)
    exp_CI = jnp.exp(logits_CI - most_C1)
    total_C1 = exp_CI.sum(axis=1, keepdims=True)
    own_C1 = jnp.take_along_axis(logits_CI, label_C[:, None], axis=1)
    loss += (weight_C * (jnp.log(total_C1) + most_C1 - own_C1)[:, 0]).sum()
    # The softmax less the label's 1, which is taken away row by row.
    share_CI = exp_CI * (weight_C[:, None] / total_C1)
    hidden_grad_CD = jnp.einsum("ci,id->cd", share_CI, table_ID)
    hidden_grad_CD -= weight_C[:, None] * table_ID[label_C]
    table_grad_ID += jnp.einsum("ci,cd->id", share_CI, hidden_CD)
    table_grad_ID = table_grad_ID.at[label_C].add(-weight_C[:, None] * hidden_CD)
    return (loss, table_grad_ID), hidden_grad_CD

  start = jnp.zeros((), jnp.float32), jnp.zeros_like(table_ID)
  pieces = hidden_XCD, label_XC, weight_XC
  (loss, table_grad_ID), grad_XCD = jax.lax.scan(of_chunk, start, pieces)
  grad_ND = grad_XCD.reshape(-1, D)[:N]
  return loss, (jnp.zeros_like(hidden_ND).at[order_N].set(grad_ND), table_grad_ID)


def _forward(hidden_ND, table_ID, label_N, weight_N, chunk):
  return _loss_and_gradients(hidden_ND, table_ID, label_N, weight_N, chunk)


def _backward(chunk, gradients, cotangent):
  del chunk
  hidden_grad_ND, table_grad_ID = gradients
  return cotangent * hidden_grad_ND, cotangent * table_grad_ID, None, None


linear_cross_entropy.defvjp(_forward, _backward)
