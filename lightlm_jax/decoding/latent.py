"""Items by what the model was thinking when they came next, without writing an id.

L2D (arXiv 2509.11524): a memory holds, for every training example, the hidden state
that its source led to, and the item that followed. An item is the mean of its states:
of all of them (global), or of those among the M nearest to the request (local). The
nearer, the better: one product in place of a search, whose cost does not depend on how
many items are wanted.

A distance says nothing of how often an item is bought at all. With a prior it does:
were an item's states normally distributed about its mean, alike for all items, then
-d² / 2 s² + log n would rank them by Bayes' rule (linear discriminant analysis, with
s² the variance of a state's coordinate about its item's mean, n the item's examples).
Coordinates are not independent, so that log n wants a weight: the prior.

Letters: B requests, N examples in memory, I items, D width, M nearest.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding.top_k import top_k

CHUNK = 16_384  # examples whose distances are held at once
# Below it squares of distances are what rounding left of them.
_NEAREST = 1e-12


class Memory(NamedTuple):
  """What training examples left; rows of item -1 are none.

  Attributes:
    state_ND: float16 or bfloat16.
    item_N: int32.
    mean_ID: float32, of each item's states; 0 where there is none.
    count_I: int32, of each item's states.
    rarity: float32 scalar, from 0: what is added to the square of a distance for each
      time that e goes into the most states of an item, divided by this item's.
  """

  state_ND: jax.Array
  item_N: jax.Array
  mean_ID: jax.Array
  count_I: jax.Array
  rarity: jax.Array


def memory(
  state_ND: jax.Array, item_N: jax.Array, num_items: int, prior: float = 0.0
) -> Memory:
  """The memory of examples [N], with each item's mean.

  Args:
    state_ND: float16 or bfloat16.
    item_N: int32, -1 = no example.
    num_items: I.
    prior: the weight of log n, see above; 0 = the distance alone, as in the paper.
  """
  # -1 would be the last item.
  place_N = jnp.where(item_N >= 0, item_N, num_items)
  add = {"num_segments": num_items + 1}
  total_ID = jax.ops.segment_sum(state_ND.astype(jnp.float32), place_N, **add)[:-1]
  count_I = jax.ops.segment_sum(jnp.ones_like(place_N), place_N, **add)[:-1]
  mean_ID = total_ID / jnp.maximum(count_I, 1)[:, None]
  # Σ ‖h - mean‖² = Σ ‖h‖² - Σ n ‖mean‖², which rounding may leave below 0.
  real_N = item_N >= 0
  square_N = jnp.square(state_ND.astype(jnp.float32)).sum(axis=1)
  within = (real_N * square_N).sum() - (count_I * jnp.square(mean_ID).sum(axis=1)).sum()
  variance = jnp.maximum(within, 0) / jnp.maximum(real_N.sum() * state_ND.shape[1], 1)
  return Memory(state_ND, item_N, mean_ID, count_I, 2 * prior * variance)


def global_scores(state_BD: jax.Array, memory: Memory) -> jax.Array:
  """[B, I] float32: 1 / the distance to the mean of an item's states; -inf: has none.

  With a prior it is the distance's square, and what rarity adds, that the root is of.

  Args:
    state_BD: float32, of the requests.
    memory: of the training examples.
  """
  square_BI = squared_distances(state_BD, memory.mean_ID)
  square_BI += _handicap(memory, memory.count_I)[None]
  score_BI = jax.lax.rsqrt(jnp.maximum(square_BI, _NEAREST))
  return jnp.where(memory.count_I[None] > 0, score_BI, -jnp.inf)


def local_scores(state_BD: jax.Array, memory: Memory, nearest: int) -> jax.Array:
  """[B, I] float32: likewise, of the states among the `nearest` to each request.

  Items that have none there come behind all that have, in the order of
  `global_scores`: less the distance is their score.

  Args:
    state_BD: float32, of the requests.
    memory: of the training examples.
    nearest: M, static; all of memory if there is no more.
  """
  M = min(nearest, len(memory.item_N))
  near_BM, item_BM = _nearest(state_BD, memory, M)
  order_BM = jnp.argsort(item_BM, axis=1, stable=True)
  item_BM, near_BM = (
    jnp.take_along_axis(x, order_BM, axis=1) for x in (item_BM, near_BM)
  )
  mean_BMD, count_BM = jax.vmap(_means_of_runs)(memory.state_ND[near_BM], item_BM)
  square_BM = jnp.square(state_BD[:, None] - mean_BMD).sum(axis=-1)
  square_BM += _handicap(memory, count_BM)
  local_BM = jax.lax.rsqrt(jnp.maximum(square_BM, _NEAREST))
  score_BI = -1 / global_scores(state_BD, memory)
  score_BI = jnp.where(memory.count_I[None] > 0, score_BI, -jnp.inf)
  row_B1 = jnp.arange(len(state_BD))[:, None]
  # What is no example lies outside the row: dropped.
  place_BM = jnp.where(item_BM >= 0, item_BM, score_BI.shape[1])
  return score_BI.at[row_B1, place_BM].set(local_BM, mode="drop")


def squared_distances(state_BD: jax.Array, point_ND: jax.Array) -> jax.Array:
  """[B, N] float32: ‖h‖² - 2 h·c + ‖c‖², which may be a little below 0."""
  point_ND = point_ND.astype(jnp.float32)
  product_BN = jnp.einsum("bd,nd->bn", state_BD, point_ND, precision="highest")
  square_B1 = jnp.square(state_BD).sum(axis=1, keepdims=True)
  return square_B1 - 2 * product_BN + jnp.square(point_ND).sum(axis=1)[None]


def _nearest(state_BD, memory: Memory, M: int) -> tuple[jax.Array, jax.Array]:
  """[B, M] int32 each: where the M nearest examples are, and their items; -1 = none."""
  N, D = memory.state_ND.shape
  C = max(M, min(CHUNK, N))
  room = -N % C
  state_XCD = jnp.pad(memory.state_ND, ((0, room), (0, 0))).reshape(-1, C, D)
  item_XC = jnp.pad(memory.item_N, (0, room), constant_values=-1).reshape(-1, C)

  def closer(best, chunk):
    first, state_CD, item_C = chunk
    near_BC = -squared_distances(state_BD, state_CD)
    value_BM, place_BM = top_k(jnp.where(item_C[None] >= 0, near_BC, -jnp.inf), M)
    # Of equals the first: those before come before.
    value_BX = jnp.concatenate([best[0], value_BM], axis=1)
    place_BX = jnp.concatenate([best[1], first + place_BM], axis=1)
    value_BM, chosen_BM = top_k(value_BX, M)
    return (value_BM, jnp.take_along_axis(place_BX, chosen_BM, axis=1)), None

  B = len(state_BD)
  begin = jnp.full((B, M), -jnp.inf), jnp.zeros((B, M), jnp.int32)
  first_X = jnp.arange(len(item_XC), dtype=jnp.int32) * C
  best, _ = jax.lax.scan(closer, begin, (first_X, state_XCD, item_XC))
  real_BM, place_BM = best[0] > -jnp.inf, jnp.minimum(best[1], N - 1)
  return place_BM, jnp.where(real_BM, memory.item_N[place_BM], -1)


def _handicap(memory: Memory, count: jax.Array) -> jax.Array:
  """What is added to the square of a distance, for so many states; 0 for the most."""
  most = memory.count_I.max()
  return memory.rarity * jnp.log(jnp.maximum(most, 1) / jnp.maximum(count, 1))


def _means_of_runs(state_MD, item_M: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Of each place the mean [M, D] float32 over those of the same item, and how many.

  Args:
    state_MD: rows of one item stand together.
    item_M: which those are.
  """
  begins_M = jnp.concatenate([jnp.ones(1, bool), item_M[1:] != item_M[:-1]])
  run_M = jnp.cumsum(begins_M) - 1
  add = {"num_segments": len(item_M), "indices_are_sorted": True}
  total_RD = jax.ops.segment_sum(state_MD.astype(jnp.float32), run_M, **add)
  count_R = jax.ops.segment_sum(jnp.ones_like(run_M), run_M, **add)
  return (total_RD / jnp.maximum(count_R, 1)[:, None])[run_M], count_R[run_M]
