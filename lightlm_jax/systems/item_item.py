"""Systems whose parameters are dense item-item weights: counting, scoring, limits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import graph
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import System

MAX_BYTES = 8 * 2**30
ROWS_AT_ONCE = 1024  # of the co-occurrence counts, while they are sparse


def system(name: str, num_items: int, fit: Callable) -> System:
  """A system that sums the rows, of the [I, I] weights `fit` returns, it has seen.

  Raises:
    UserError: the weights would not fit the byte budget.
  """
  size = 4 * num_items**2
  if size > MAX_BYTES:
    raise UserError(
      f"{name} keeps a weight for every pair of items: {num_items:,} × {num_items:,} "
      f"float32 are {size / 2**30:.1f} GiB, over its limit of {MAX_BYTES / 2**30:.0f} "
      "GiB; choose config.system pop, bpr_mf, sasrec or item_decoder"
    )
  return System(
    name=name,
    example=None,
    max_history=None,
    tables=(),
    rank_I=np.arange(num_items, dtype=np.int32),
    fit=fit,
    scores=scores,
    recommend=recommend,
  )


def scores(weights_II: jax.Array, tables: Any, batch: Batch) -> jax.Array:
  """Sum of the weight rows of a history's distinct items: [B, I] float32.

  In ascending order of the items, so that neither the order of a history nor the
  width it is padded to can change a bit of the sum.
  """
  del tables
  sorted_BH = jnp.sort(batch.history_BH, axis=1)
  previous_BH = jnp.pad(sorted_BH[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  distinct_BH = sorted_BH != previous_BH
  item_HB = jnp.maximum(sorted_BH, 0).T
  weight_HB = distinct_BH.T.astype(weights_II.dtype)

  def add_row(h, scores_BI):
    return scores_BI + weight_HB[h][:, None] * weights_II[item_HB[h]]

  zero_BI = jnp.zeros((item_HB.shape[1], weights_II.shape[1]), weights_II.dtype)
  return jax.lax.fori_loop(0, item_HB.shape[0], add_row, zero_BI)


recommend = item_scores.recommender(scores)


def co_occurrence(train: Interactions) -> np.ndarray:
  """How many users have both items, each user counted once: [I, I] float32."""
  users_UI = graph.distinct_purchases(train).astype(np.float32)
  items_IU = users_UI.T.tocsr()
  count_II = np.empty((train.num_items, train.num_items), np.float32)
  for start in range(0, train.num_items, ROWS_AT_ONCE):
    rows = slice(start, start + ROWS_AT_ONCE)
    (items_IU[rows] @ users_UI).toarray(out=count_II[rows])
  return count_II
