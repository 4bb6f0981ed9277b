"""Systems whose parameters are dense item-item weights: counting, scoring, limits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import graph
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import Built, in_catalogue_order
from lightlm_jax.systems.item_scores import ItemScorer

MAX_BYTES = 8 * 2**30
ROWS_AT_ONCE = 1024  # of the co-occurrence counts, while they are sparse


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemItem(ItemScorer):
  """A system that sums the weight rows of the items in a history.

  Its parameters are [I, I] float32.
  """

  def scores(self, params: jax.Array, tables: Any, batch: Batch) -> jax.Array:
    """Sum of the weight rows of a history's distinct items: [B, I] float32.

    In ascending order of the items, so that neither the order of a history nor the
    width it is padded to can change a bit of the sum.
    """
    del tables
    sorted_BH = jnp.sort(batch.history_BH, axis=1)
    previous_BH = jnp.pad(sorted_BH[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    distinct_BH = sorted_BH != previous_BH
    item_HB = jnp.maximum(sorted_BH, 0).T
    weight_HB = distinct_BH.T.astype(params.dtype)

    def add_row(h, scores_BI):
      return scores_BI + weight_HB[h][:, None] * params[item_HB[h]]

    zero_BI = jnp.zeros((item_HB.shape[1], params.shape[1]), params.dtype)
    return jax.lax.fori_loop(0, item_HB.shape[0], add_row, zero_BI)


def build(system: ItemItem, num_items: int) -> Built:
  """The system over I items.

  Raises:
    UserError: the weights would not fit the byte budget.
  """
  size = 4 * num_items**2
  if size > MAX_BYTES:
    raise UserError(
      f"{system.name} keeps a weight for every pair of items: {num_items:,} × "
      f"{num_items:,} float32 are {size / 2**30:.1f} GiB, over its limit of "
      f"{MAX_BYTES / 2**30:.0f} GiB; choose config.system pop, bpr_mf, sasrec or "
      "item_decoder"
    )
  return in_catalogue_order(system, (), num_items)


def co_occurrence(train: Interactions) -> np.ndarray:
  """How many users have both items, each user counted once: [I, I] float32."""
  users_UI = graph.distinct_purchases(train).astype(np.float32)
  items_IU = users_UI.T.tocsr()
  count_II = np.empty((train.num_items, train.num_items), np.float32)
  for start in range(0, train.num_items, ROWS_AT_ONCE):
    rows = slice(start, start + ROWS_AT_ONCE)
    (items_IU[rows] @ users_UI).toarray(out=count_II[rows])
  return count_II
