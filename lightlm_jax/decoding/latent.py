"""Latent decoding: items are scored by hidden states of training examples.

L2D (arXiv 2509.11524): a state index holds, for every training example, the hidden
state of its source, and the item that followed. An item is represented by the mean of
all its states (global), or of its states among the M nearest to the request (local).
Items rank by the distance of this mean to the request's state: one matrix
product in place of a search, at a cost that does not depend on the number of
recommendations.

Distances ignore popularity; a prior adds it. If each item's states were normally
distributed about its mean, with one variance s² of all coordinates, Bayes' rule would
rank items by -d² / (2 s²) + log n, where d is the distance and n the item's number of
examples (linear discriminant analysis). Coordinates are not independent, so log n gets
a weight, the prior.

Letters: B requests, N examples in the index, I items, D width, M nearest.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding.top_k import top_k

CHUNK = 16_384  # examples whose distances are in memory at once
# Squared distances below this are rounding errors.
_NEAREST = 1e-12


class StateIndex(NamedTuple):
  """The hidden states of training examples; rows whose item is -1 are padding."""

  state_ND: jax.Array  # float16 or bfloat16
  item_N: jax.Array  # int32
  mean_ID: jax.Array  # float32, each item's mean state; 0 for items without states
  count_I: jax.Array  # int32, each item's number of states
  # float32 scalar ≥ 0: the weight of log(most / n), added to the squared distance of an
  # item with n states; `most` is the largest n.
  rarity: jax.Array
  variance: jax.Array  # float32 scalar: of a coordinate about its item's mean


def build(
  state_ND: jax.Array, item_N: jax.Array, num_items: int, prior: float = 0.0
) -> StateIndex:
  """Builds the index of float16 or bfloat16 states and int32 items, -1 = no example.

  `prior` is the weight of log n in the score of an item with n states; with 0 the score
  depends on the distance alone. `num_items` is I.
  """
  # -1 would be the last item.
  place_N = jnp.where(item_N >= 0, item_N, num_items)
  add: dict[str, Any] = {"num_segments": num_items + 1}
  total_ID = jax.ops.segment_sum(state_ND.astype(jnp.float32), place_N, **add)[:-1]
  count_I = jax.ops.segment_sum(jnp.ones_like(place_N), place_N, **add)[:-1]
  mean_ID = total_ID / jnp.maximum(count_I, 1)[:, None]
  # Σ ‖h - mean‖² = Σ ‖h‖² - Σ n ‖mean‖², which may be negative by rounding.
  real_N = item_N >= 0
  square_N = jnp.square(state_ND.astype(jnp.float32)).sum(axis=1)
  within = (real_N * square_N).sum() - (count_I * jnp.square(mean_ID).sum(axis=1)).sum()
  # A float: sixteen million states of width 128 have more numbers than an int32 counts.
  numbers = real_N.sum() * float(state_ND.shape[1])
  variance = jnp.maximum(within, 0) / jnp.maximum(numbers, 1)
  rarity = 2 * prior * variance
  return StateIndex(state_ND, item_N, mean_ID, count_I, rarity, variance)


def global_scores(state_BD: jax.Array, index: StateIndex) -> jax.Array:
  """Returns 1 / distance to each item's mean state, [B, I] float32.

  Items without states get -inf. If the index has a prior, squared distances are first
  increased by a penalty for rare items (see `StateIndex.rarity`).
  """
  square_BI = _penalised(state_BD, index)
  score_BI = jax.lax.rsqrt(jnp.maximum(square_BI, _NEAREST))
  return jnp.where(index.count_I[None] > 0, score_BI, -jnp.inf)


def log_posterior(state_BD: jax.Array, index: StateIndex) -> jax.Array:
  """Returns prior * log(n / most) - d² / (2 s²) of each item, [B, I] float32.

  See the module's docstring. An item without states is given one at the origin.
  """
  return -_penalised(state_BD, index) / (2 * jnp.maximum(index.variance, _NEAREST))


def local_scores(state_BD: jax.Array, index: StateIndex, nearest: int) -> jax.Array:
  """Returns scores as `global_scores` does, from each request's M nearest states only.

  `nearest` is M, static, capped at the size of the index. Items without any of these
  states rank after all others, in the order of `global_scores`: their score is -1 / s
  for a global score s > 0, and -inf if they have no state at all.
  """
  M = min(nearest, len(index.item_N))
  near_BM, item_BM = _nearest(state_BD, index, M)
  order_BM = jnp.argsort(item_BM, axis=1, stable=True)
  item_BM, near_BM = (
    jnp.take_along_axis(x, order_BM, axis=1) for x in (item_BM, near_BM)
  )
  mean_BMD, count_BM = jax.vmap(_means_of_runs)(index.state_ND[near_BM], item_BM)
  square_BM = jnp.square(state_BD[:, None] - mean_BMD).sum(axis=-1)
  square_BM += _rarity_penalty(index, count_BM)
  local_BM = jax.lax.rsqrt(jnp.maximum(square_BM, _NEAREST))
  score_BI = -1 / global_scores(state_BD, index)
  score_BI = jnp.where(index.count_I[None] > 0, score_BI, -jnp.inf)
  row_B1 = jnp.arange(state_BD.shape[0])[:, None]
  # Padding gets an index outside the row, which is dropped.
  place_BM = jnp.where(item_BM >= 0, item_BM, score_BI.shape[1])
  return score_BI.at[row_B1, place_BM].set(local_BM, mode="drop")


def squared_distances(state_BD: jax.Array, point_ND: jax.Array) -> jax.Array:
  """Returns the squared distances of states h and points c, [B, N] float32.

  They are ‖h‖² - 2 h·c + ‖c‖², which may be negative by rounding.
  """
  point_ND = point_ND.astype(jnp.float32)
  product_BN = jnp.einsum("bd,nd->bn", state_BD, point_ND, precision="highest")
  square_B1 = jnp.square(state_BD).sum(axis=1, keepdims=True)
  return square_B1 - 2 * product_BN + jnp.square(point_ND).sum(axis=1)[None]


def _penalised(state_BD: jax.Array, index: StateIndex) -> jax.Array:
  """Returns squared distances to the items' means, plus the penalty for rare items."""
  square_BI = squared_distances(state_BD, index.mean_ID)
  return square_BI + _rarity_penalty(index, index.count_I)[None]


def _nearest(state_BD, index: StateIndex, M: int) -> tuple[jax.Array, jax.Array]:
  """Returns the M nearest examples' rows and items, [B, M] int32; item -1 = none."""
  N, D = index.state_ND.shape
  C = max(M, min(CHUNK, N))
  room = -N % C
  state_XCD = jnp.pad(index.state_ND, ((0, room), (0, 0))).reshape(-1, C, D)
  item_XC = jnp.pad(index.item_N, (0, room), constant_values=-1).reshape(-1, C)

  def closer(best, chunk):
    first, state_CD, item_C = chunk
    near_BC = -squared_distances(state_BD, state_CD)
    value_BM, place_BM = top_k(jnp.where(item_C[None] >= 0, near_BC, -jnp.inf), M)
    # Ties go to earlier examples, because those of earlier chunks come first.
    value_BX = jnp.concatenate([best[0], value_BM], axis=1)
    place_BX = jnp.concatenate([best[1], first + place_BM], axis=1)
    value_BM, chosen_BM = top_k(value_BX, M)
    return (value_BM, jnp.take_along_axis(place_BX, chosen_BM, axis=1)), None

  B = state_BD.shape[0]
  begin = jnp.full((B, M), -jnp.inf), jnp.zeros((B, M), jnp.int32)
  first_X = jnp.arange(len(item_XC), dtype=jnp.int32) * C
  best, _ = jax.lax.scan(closer, begin, (first_X, state_XCD, item_XC))
  real_BM, place_BM = best[0] > -jnp.inf, jnp.minimum(best[1], N - 1)
  return place_BM, jnp.where(real_BM, index.item_N[place_BM], -1)


def _rarity_penalty(index: StateIndex, count: jax.Array) -> jax.Array:
  """Returns the term added to the squared distance of an item with `count` states."""
  most = index.count_I.max()
  return index.rarity * jnp.log(jnp.maximum(most, 1) / jnp.maximum(count, 1))


def _means_of_runs(state_MD, item_M: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns, for each row, the mean [M, D] float32 of all rows with the same item.

  Rows of one item must be consecutive. The second result, [M], counts these rows.
  """
  begins_M = jnp.concatenate([jnp.ones(1, bool), item_M[1:] != item_M[:-1]])
  run_M = jnp.cumsum(begins_M) - 1
  add: dict[str, Any] = {"num_segments": len(item_M), "indices_are_sorted": True}
  total_RD = jax.ops.segment_sum(state_MD.astype(jnp.float32), run_M, **add)
  count_R = jax.ops.segment_sum(jnp.ones_like(run_M), run_M, **add)
  return (total_RD / jnp.maximum(count_R, 1)[:, None])[run_M], count_R[run_M]
