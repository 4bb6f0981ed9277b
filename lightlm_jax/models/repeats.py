"""A learned bias on the logits of items that a history has, by their recency.

Where nobody buys an item twice, the bias learns to rule seen items out; elsewhere, to
raise them. The model itself learns from the loss without the bias, so that seen items
stay competitors. On Toys a model that learned from the loss with the bias over-fitted
sooner (results/accuracy).
"""

from typing import Any

import jax
import jax.numpy as jnp

from lightlm_jax.models.layers import relative_position_bucket

BUCKETS = 16  # of an item's distance from the end of the history


def init() -> dict[str, jax.Array]:
  """Returns the bias's parameters, which are added to those of the model."""
  return {"repeat_bias": jnp.zeros(BUCKETS)}


def by_recency(
  params: Any, segment_BH: jax.Array, by_position: bool = False
) -> tuple[jax.Array, jax.Array]:
  """Returns each history item's bias, [B, Q, H] float32, and whether it counts, bool.

  A request has one prediction, after the last column: Q = 1. With `by_position` there
  is a prediction after each column: Q = H. The items up to that column count if they
  are of its segment; other items have the bias 0.
  """
  at_H = jnp.arange(segment_BH.shape[1])
  at_Q = at_H if by_position else at_H[-1:]
  back_1QH = (at_Q[:, None] - at_H[None])[None]
  known_BQH = segment_BH[:, at_Q, None] == segment_BH[:, None]
  known_BQH &= (segment_BH > 0)[:, None] & (back_1QH >= 0)
  options = {"bidirectional": False, "num_buckets": BUCKETS}
  bucket_1QH = relative_position_bucket(-back_1QH, max_distance=128, **options)
  return jnp.where(known_BQH, params["repeat_bias"][bucket_1QH], 0.0), known_BQH


def added_loss(
  bias_BQH: jax.Array,
  known_BQH: jax.Array,
  item_BH: jax.Array,
  target_BQ: jax.Array,
  share_BQH: jax.Array,
) -> jax.Array:
  """Returns what the bias adds to the cross-entropy of each target, [B, Q] float32.

  `bias_BQH` and `known_BQH` are the results of `by_recency`. `share_BQH` are the items'
  probabilities without the bias; they get no gradient.
  """
  same_BHH = (item_BH[:, :, None] == item_BH[:, None]).astype(jnp.float32)
  # An item may be there more than once: its biases add up, but it has one share.
  total_BQH = jnp.einsum("bqk,bhk->bqh", bias_BQH, same_BHH)
  times_BQH = jnp.einsum("bqk,bhk->bqh", known_BQH.astype(jnp.float32), same_BHH)
  factor_BQH = jnp.where(known_BQH, jnp.expm1(total_BQH), 0) / jnp.maximum(times_BQH, 1)
  change_BQ = (factor_BQH * jax.lax.stop_gradient(share_BQH)).sum(axis=2)
  own_BQ = jnp.where(item_BH[:, None] == target_BQ[..., None], bias_BQH, 0).sum(axis=2)
  # Rounding may leave nothing of the sum of all probabilities.
  return jnp.log1p(jnp.maximum(change_BQ, 1e-6 - 1)) - own_BQ
