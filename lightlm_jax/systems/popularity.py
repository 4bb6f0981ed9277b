"""Popularity: the same list for everyone, most bought first."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import System


def build(num_items: int) -> System:
  """The baseline `pop` over I items."""
  return System(
    name="pop",
    example=None,
    max_history=None,
    tables=(),
    rank_I=np.arange(num_items, dtype=np.int32),
    fit=fit,
    scores=scores,
    recommend=recommend,
  )


def fit(train: Interactions) -> jax.Array:
  """[I] float32: interactions of each item."""
  count_I = np.bincount(train.item_E, minlength=train.num_items)
  return jax.device_put(count_I.astype(np.float32))


def scores(count_I: jax.Array, tables: Any, batch: Batch) -> jax.Array:
  """[B, I] float32: the counts, once a request."""
  del tables
  return jnp.broadcast_to(count_I, (batch.history_BH.shape[0], count_I.shape[0]))


recommend = item_scores.recommender(scores)
