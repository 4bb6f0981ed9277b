"""Cross-entropy over a whole catalogue, without all logits in memory at once.

With N positions and I items the logits are by far the largest array of a next-item
model, so logits and gradients are computed chunk by chunk. For a small catalogue, a
chunk is some positions with all items: one pass gives loss and gradients. For a large
one, it is all positions with some items: a second pass computes the logits again, but
each row of the output table's gradient is written only once.
"""

import functools

import jax
import jax.numpy as jnp

CHUNK = 256  # positions: their logits over 12,000 items stay in a CPU's cache
# With more items than this, a chunk is ITEMS items with all positions.
LARGE = 100_000
ITEMS = 8_192


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def linear_cross_entropy(
  hidden_ND: jax.Array,
  table_ID: jax.Array,
  label_N: jax.Array,
  weight_N: jax.Array,
  chunk: int = CHUNK,
  items: int | None = None,
) -> tuple[jax.Array, jax.Array]:
  """Returns the sum over N positions of weight · -log softmax(hidden · table)[label].

  The second result, without gradient, is logsumexp(hidden · table), [N]; it may be
  anything where the weight is 0.

  Args:
    hidden_ND: float32, a hidden state of width D for each position.
    table_ID: float32, the output table, a row for each item.
    label_N: int32 in [0, I), or -1 where the weight is 0.
    weight_N: float32, 0 = the position is ignored.
    chunk: positions per chunk.
    items: if set, chunks are this many items with all positions, and `chunk` is unused;
      None = ITEMS if the catalogue is larger than LARGE, otherwise `chunk` is used.
  """
  return _forward(hidden_ND, table_ID, label_N, weight_N, chunk, items)[0]


def sampled_cross_entropy(
  hidden_ND: jax.Array,
  table_ID: jax.Array,
  label_N: jax.Array,
  weight_N: jax.Array,
  negative_M: jax.Array,
) -> jax.Array:
  """Returns an estimate of `linear_cross_entropy` from M sampled items, `negative_M`.

  The samples are int32, uniform in [0, I); they estimate the softmax's sum over all
  items but the label (Bengio & Senécal 2008), so samples of the label are ignored.
  """
  label_N = jnp.maximum(label_N, 0)
  own_N = (hidden_ND * table_ID[label_N]).sum(axis=1)
  logits_NM = jnp.einsum("nd,md->nm", hidden_ND, table_ID[negative_M])
  logits_NM += jnp.log(len(table_ID) / len(negative_M))
  logits_NM = jnp.where(negative_M[None] == label_N[:, None], -jnp.inf, logits_NM)
  total_N = jnp.logaddexp(own_N, jax.nn.logsumexp(logits_NM, axis=1))
  return (weight_N * (total_N - own_N)).sum()


def _by_positions(hidden_ND, table_ID, label_N, weight_N, chunk):
  """Returns loss, normalisers, and the gradients of hidden_ND and table_ID, in chunks.

  Positions of weight 0 are sorted last; chunks that hold no others are skipped.
  """
  N, D = hidden_ND.shape
  order_N = jnp.argsort(weight_N == 0, stable=True)
  room = -N % chunk
  hidden_XCD = jnp.pad(hidden_ND[order_N], ((0, room), (0, 0))).reshape(-1, chunk, D)
  label_XC = jnp.pad(label_N[order_N], (0, room)).reshape(-1, chunk)
  weight_XC = jnp.pad(weight_N[order_N], (0, room)).reshape(-1, chunk)

  def of_chunk(carry, piece):
    return jax.lax.cond((piece[2] != 0).any(), examples, nothing, carry, piece)

  def nothing(carry, piece):
    return carry, (jnp.zeros_like(piece[0]), jnp.zeros_like(piece[2]))

  def examples(carry, piece):
    loss, table_grad_ID = carry
    hidden_CD, label_C, weight_C = piece
    logits_CI = jnp.einsum("cd,id->ci", hidden_CD, table_ID)
    most_C1 = logits_CI.max(axis=1, keepdims=True)
    exp_CI = jnp.exp(logits_CI - most_C1)
    total_C1 = exp_CI.sum(axis=1, keepdims=True)
    own_C1 = jnp.take_along_axis(logits_CI, label_C[:, None], axis=1)
    normal_C1 = jnp.log(total_C1) + most_C1
    loss += (weight_C * (normal_C1 - own_C1)[:, 0]).sum()
    # The gradient is softmax - one_hot(label); the one-hot is subtracted row by row.
    share_CI = exp_CI * (weight_C[:, None] / total_C1)
    hidden_grad_CD = jnp.einsum("ci,id->cd", share_CI, table_ID)
    hidden_grad_CD -= weight_C[:, None] * table_ID[label_C]
    table_grad_ID += jnp.einsum("ci,cd->id", share_CI, hidden_CD)
    table_grad_ID = table_grad_ID.at[label_C].add(-weight_C[:, None] * hidden_CD)
    return (loss, table_grad_ID), (hidden_grad_CD, normal_C1[:, 0])

  start = jnp.zeros((), jnp.float32), jnp.zeros_like(table_ID)
  pieces = hidden_XCD, label_XC, weight_XC
  (loss, table_grad_ID), by_chunk = jax.lax.scan(of_chunk, start, pieces)
  sorted_ND, sorted_N = by_chunk[0].reshape(-1, D)[:N], by_chunk[1].reshape(-1)[:N]
  normal_N = jnp.zeros_like(sorted_N).at[order_N].set(sorted_N)
  grad_ND = jnp.zeros_like(sorted_ND).at[order_N].set(sorted_ND)
  return (loss, normal_N), (grad_ND, table_grad_ID)


def _by_items(hidden_ND, table_ID, label_N, weight_N, items):
  """Returns what `_by_positions` does, in chunks of `items` rows of the table."""
  N, (I, D) = len(hidden_ND), table_ID.shape
  items = min(items, I)
  # The last chunk begins early if it would not be full; rows already seen are masked.
  due_X = jnp.arange(0, I, items)
  start_X = jnp.minimum(due_X, I - items)

  def logits(start, due):
    row_CD = jax.lax.dynamic_slice(table_ID, (start, 0), (items, D))
    logits_NC = jnp.einsum("nd,cd->nc", hidden_ND, row_CD)
    is_new_C = start + jnp.arange(items) >= due
    return row_CD, jnp.where(is_new_C[None], logits_NC, -jnp.inf)

  def count(carry, place):
    most_N, total_N = carry
    _, logits_NC = logits(*place)
    more_N = jnp.maximum(most_N, logits_NC.max(axis=1))
    total_N *= jnp.exp(most_N - more_N)
    total_N += jnp.exp(logits_NC - more_N[:, None]).sum(axis=1)
    return (more_N, total_N), None

  start = jnp.full(N, -jnp.inf), jnp.zeros(N)
  (most_N, total_N), _ = jax.lax.scan(count, start, (start_X, due_X))
  normal_N = most_N + jnp.log(total_N)
  label_N = jnp.maximum(label_N, 0)
  label_ND = table_ID[label_N]
  loss = (weight_N * (normal_N - (hidden_ND * label_ND).sum(axis=1))).sum()

  def share(carry, place):
    hidden_grad_ND, table_grad_ID = carry
    row_CD, logits_NC = logits(*place)
    share_NC = jnp.exp(logits_NC - normal_N[:, None]) * weight_N[:, None]
    hidden_grad_ND += jnp.einsum("nc,cd->nd", share_NC, row_CD)
    added_CD = jnp.einsum("nc,nd->cd", share_NC, hidden_ND)
    corner = place[0], 0
    added_CD += jax.lax.dynamic_slice(table_grad_ID, corner, (items, D))
    table_grad_ID = jax.lax.dynamic_update_slice(table_grad_ID, added_CD, corner)
    return (hidden_grad_ND, table_grad_ID), None

  # The gradient is softmax - one_hot(label); the one-hot is subtracted row by row.
  start = -weight_N[:, None] * label_ND, jnp.zeros_like(table_ID)
  start = start[0], start[1].at[label_N].add(-weight_N[:, None] * hidden_ND)
  gradients, _ = jax.lax.scan(share, start, (start_X, due_X))
  return (loss, normal_N), gradients


def _forward(hidden_ND, table_ID, label_N, weight_N, chunk, items):
  arguments = hidden_ND, table_ID, label_N, weight_N
  if items is None and len(table_ID) > LARGE:
    items = ITEMS
  if items is None:
    return _by_positions(*arguments, chunk)
  return _by_items(*arguments, items)


def _backward(chunk, items, gradients, cotangents):
  (hidden_grad_ND, table_grad_ID), (cotangent, _) = gradients, cotangents
  return cotangent * hidden_grad_ND, cotangent * table_grad_ID, None, None


linear_cross_entropy.defvjp(_forward, _backward)
