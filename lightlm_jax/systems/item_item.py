"""Baselines whose parameters are dense item-item weights: `item_knn` and `ease`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg.lapack import spotrf, spotri  # pyright: ignore[reportAttributeAccessIssue]

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import graph
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import Built, in_catalogue_order
from lightlm_jax.systems.item_scores import ItemScorer

MAX_BYTES = 8 * 2**30
ROWS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemItem(ItemScorer):
  """A linear model: parameters [I, I] float32, a row of item scores for each item."""

  def scores(self, params: jax.Array, tables: Any, batch: Batch) -> jax.Array:
    """Returns the sum of weight rows of a history's distinct items, [B, I] float32.

    Rows are added in ascending order of items, so that neither the order of a history
    nor its padding changes the rounding.
    """
    sorted_BH = jnp.sort(batch.history_BH, axis=1)
    previous_BH = jnp.pad(sorted_BH[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    distinct_BH = sorted_BH != previous_BH
    item_HB = jnp.maximum(sorted_BH, 0).T
    weight_HB = distinct_BH.T.astype(params.dtype)

    def add_row(h, scores_BI):
      return scores_BI + weight_HB[h][:, None] * params[item_HB[h]]

    zero_BI = jnp.zeros((item_HB.shape[1], params.shape[1]), params.dtype)
    return jax.lax.fori_loop(0, item_HB.shape[0], add_row, zero_BI)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemKnn(ItemItem):
  """The baseline `item_knn` (Deshpande & Karypis 2004) with all items as neighbours."""

  name: str = "item_knn"

  def fit(self, train: Interactions) -> jax.Array:
    """Returns the cosines of items as binary vectors over users, [I, I] float32.

    The diagonal is zero, and so are the cosines of items without interactions.
    """
    weights_II = _co_occurrence(train)
    norm_I = np.sqrt(np.maximum(weights_II.diagonal(), 1))
    weights_II /= norm_I
    weights_II /= norm_I[:, None]
    np.fill_diagonal(weights_II, 0)
    return jax.device_put(weights_II)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ease(ItemItem):
  """The baseline `ease`: a closed-form linear model (Steck 2019, arXiv 1905.03375)."""

  name: str = "ease"
  regularisation: float = 200.0  # the paper's λ > 0

  def fit(self, train: Interactions) -> jax.Array:
    """Returns the weights B = E - P diag(P)^-1 with P = (XᵀX + λE)^-1, [I, I] float32.

    E is the identity and λ is `regularisation`; X [users, items] is 1 where the user
    has the item, else 0. B has a zero diagonal; its row i is added to the scores if
    item i is in the history. XᵀX + λE is inverted in place and in float32, which
    suffices because λ keeps the condition number of this matrix small.
    """
    weights_II = _co_occurrence(train)
    weights_II[np.diag_indices_from(weights_II)] += self.regularisation
    _invert(weights_II)
    weights_II /= -weights_II.diagonal()
    np.fill_diagonal(weights_II, 0)
    return jax.device_put(weights_II)


def item_knn(num_items: int) -> Built:
  """Builds the baseline `item_knn`; raises a UserError if weights exceed MAX_BYTES."""
  return _build(ItemKnn(), num_items)


def ease(num_items: int, *, regularisation: float = 200.0) -> Built:
  """Builds the baseline `ease`.

  Raises:
    UserError: the weights exceed MAX_BYTES, or `regularisation` is not above 0.
  """
  if not regularisation > 0:
    raise UserError(
      f"ease cannot invert its counts with regularisation {regularisation}; "
      "give a number above 0 (200 suits sparse logs)"
    )
  return _build(Ease(regularisation=regularisation), num_items)


def _build(system: ItemItem, num_items: int) -> Built:
  """Builds a system for I items; raises a UserError if weights exceed MAX_BYTES."""
  size = 4 * num_items**2
  if size > MAX_BYTES:
    raise UserError(
      f"{system.name} keeps a weight for every pair of items: {num_items:,} × "
      f"{num_items:,} float32 are {size / 2**30:.1f} GiB, over its limit of "
      f"{MAX_BYTES / 2**30:.0f} GiB; choose config.system pop, bpr_mf, sasrec or "
      "item_decoder"
    )
  return in_catalogue_order(system, (), num_items)


def _co_occurrence(train: Interactions) -> np.ndarray:
  """Returns how many users interacted with both items of a pair, [I, I] float32."""
  users_UI = graph.distinct_purchases(train).astype(np.float32)
  items_IU = users_UI.T.tocsr()
  count_II = np.empty((train.num_items, train.num_items), np.float32)
  for start in range(0, train.num_items, ROWS_AT_ONCE):
    rows = slice(start, start + ROWS_AT_ONCE)
    (items_IU[rows] @ users_UI).toarray(out=count_II[rows])
  return count_II


def _invert(matrix_II: np.ndarray) -> None:
  """Inverts a symmetric positive definite float32 matrix in place, by Cholesky."""
  # LAPACK is column-major: the transposed view is the same symmetric matrix, and its
  # lower triangle is the upper one of `matrix_II`.
  factor_II, failed = spotrf(matrix_II.T, lower=1, clean=0, overwrite_a=1)
  if failed:
    raise UserError(
      f"ease: the item counts are not positive definite at item {failed - 1} in "
      "float32; give a larger regularisation"
    )
  inverse_II, _ = spotri(factor_II, lower=1, overwrite_c=1)
  if not np.shares_memory(inverse_II, matrix_II):
    matrix_II[:] = inverse_II.T
  for start in range(0, len(matrix_II), ROWS_AT_ONCE):
    end = start + ROWS_AT_ONCE
    matrix_II[end:, start:end] = matrix_II[start:end, end:].T
    square = matrix_II[start:end, start:end]
    square[:] = np.triu(square) + np.triu(square, 1).T
