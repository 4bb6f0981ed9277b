"""Recommendations of systems that score every item."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.top_k import top_k
from lightlm_jax.systems.base import System


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemScorer(System):
  """A system without item codes; it recommends the items with the highest `scores`."""

  def scores(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    raise NotImplementedError

  def recommend(
    self, params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """Returns the K allowed items with the highest scores."""
    scores_BI = self.scores(params, tables, batch)
    return top_items(scores_BI, allowed_items(allowed, scores_BI.shape[1]), k)


class Softmax:
  """Adds `nll` to an `ItemScorer` whose scores are logits."""

  def nll(self: Any, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """Returns the target's cross-entropy over the catalogue, [B] float32."""
    return optax.softmax_cross_entropy_with_integer_labels(
      self.scores(params, tables, batch), jnp.maximum(batch.target_B, 0)
    )


def allowed_items(allowed: Allowed, num_items: int) -> jax.Array:
  """Returns which item ranks each request may get, [B, I] bool (see `Allowed`)."""
  allowed_BI = jnp.ones((allowed.mask_B.shape[0], num_items), bool)
  if allowed.prefix_MI1.shape[0]:
    allowed_MI = (jnp.diff(allowed.prefix_MI1, axis=1) > 0)[:, :num_items]
    beyond = ((0, 0), (0, num_items - allowed_MI.shape[1]))
    allowed_BI = jnp.pad(allowed_MI, beyond)[allowed.mask_B]
  row_B1 = jnp.arange(allowed_BI.shape[0])[:, None]
  # Padding is the index I, outside the row: dropped. A clip would exclude item I - 1.
  return allowed_BI.at[row_B1, allowed.excluded_BE].set(False, mode="drop")


def top_candidates(
  items_BX: jax.Array, scores_BX: jax.Array, valid_BX: jax.Array, k: int
) -> Recommendations:
  """Returns the K best of each request's own X items (see `top_items`)."""
  best = top_items(scores_BX, valid_BX, k)
  items_BK = jnp.take_along_axis(items_BX, jnp.maximum(best.items_BK, 0), axis=1)
  return best._replace(items_BK=jnp.where(best.valid_BK, items_BK, -1))


def top_items(scores_BI: jax.Array, allowed_BI: jax.Array, k: int) -> Recommendations:
  """Returns the K best allowed items of each request; ties go to the lower index.

  `scores_BI` is float32, `allowed_BI` bool; K may exceed I. Where fewer than K items
  are allowed, the remaining places have item -1, score -inf and `valid_BK` false.
  """
  num_items = scores_BI.shape[1]
  # An allowed item with the score -inf still ranks before all that are not allowed.
  lowest = jnp.finfo(scores_BI.dtype).min
  key_BI = jnp.where(allowed_BI, jnp.maximum(scores_BI, lowest), -jnp.inf)
  _, items_BK = top_k(key_BI, min(k, num_items))
  valid_BK = jnp.take_along_axis(allowed_BI, items_BK, axis=1)
  scores_BK = jnp.take_along_axis(scores_BI, items_BK, axis=1)
  missing = ((0, 0), (0, max(k - num_items, 0)))
  return Recommendations(
    items_BK=jnp.pad(jnp.where(valid_BK, items_BK, -1), missing, constant_values=-1),
    scores_BK=jnp.pad(
      jnp.where(valid_BK, scores_BK, -jnp.inf), missing, constant_values=-jnp.inf
    ),
    valid_BK=jnp.pad(valid_BK, missing),
  )
