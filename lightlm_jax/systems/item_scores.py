"""Recommendations of systems that score every item."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.top_k import top_k


def recommender(scores: Callable) -> Callable:
  """`System.recommend` from `System.scores`, for items counted in catalogue order."""

  def recommend(
    params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    scores_BI = scores(params, tables, batch)
    return top_items(scores_BI, open_items(allowed, scores_BI.shape[1]), k)

  return recommend


def nll_of(scores: Callable) -> Callable:
  """`System.nll` from `System.scores`, where these are logits."""

  def nll(params: Any, tables: Any, batch: Batch) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(
      scores(params, tables, batch), jnp.maximum(batch.target_B, 0)
    )

  return nll


def open_items(allowed: Allowed, num_items: int) -> jax.Array:
  """[B, I] bool in code order: open in the request's mask, and not excluded by it."""
  open_BI = jnp.ones((allowed.mask_B.shape[0], num_items), bool)
  if allowed.prefix_MI1.shape[0]:
    open_MI = (jnp.diff(allowed.prefix_MI1, axis=1) > 0)[:, :num_items]
    beyond = ((0, 0), (0, num_items - open_MI.shape[1]))
    open_BI = jnp.pad(open_MI, beyond)[allowed.mask_B]
  row_B1 = jnp.arange(open_BI.shape[0])[:, None]
  # The padding I lies outside the row: dropped, where a clip would close item I - 1.
  return open_BI.at[row_B1, allowed.excluded_BE].set(False, mode="drop")


def top_items(scores_BI: jax.Array, open_BI: jax.Array, k: int) -> Recommendations:
  """The K best open items of each request; exact, of equals the lower index first.

  Args:
    scores_BI: float32 [B, I].
    open_BI: bool [B, I].
    k: K, static; may exceed I.

  Returns:
    `Recommendations`, invalid from where a request has no more open items.
  """
  num_items = scores_BI.shape[1]
  # An open item scored -inf still goes before every closed one.
  lowest = jnp.finfo(scores_BI.dtype).min
  key_BI = jnp.where(open_BI, jnp.maximum(scores_BI, lowest), -jnp.inf)
  _, items_BK = top_k(key_BI, min(k, num_items))
  valid_BK = jnp.take_along_axis(open_BI, items_BK, axis=1)
  scores_BK = jnp.take_along_axis(scores_BI, items_BK, axis=1)
  missing = ((0, 0), (0, max(k - num_items, 0)))
  return Recommendations(
    items_BK=jnp.pad(jnp.where(valid_BK, items_BK, -1), missing, constant_values=-1),
    scores_BK=jnp.pad(
      jnp.where(valid_BK, scores_BK, -jnp.inf), missing, constant_values=-jnp.inf
    ),
    valid_BK=jnp.pad(valid_BK, missing),
  )
