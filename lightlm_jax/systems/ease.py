"""EASE: linear item-item weights in closed form (Steck 2019, arXiv 1905.03375)."""

import dataclasses

import jax
import numpy as np
from scipy.linalg.lapack import spotrf, spotri  # pyright: ignore[reportAttributeAccessIssue]

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_item
from lightlm_jax.systems.base import Built

ROWS_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ease(item_item.ItemItem):
  """The baseline `ease`.

  Attributes:
    regularisation: λ > 0.
  """

  name: str = "ease"
  regularisation: float = 200.0

  def fit(self, train: Interactions) -> jax.Array:
    """B = I - P diag(P)^-1 with P = (XᵀX + λI)^-1, X binary; its diagonal is zero.

    Everything happens in one [I, I] float32 array: λ keeps the condition number small.

    Returns:
      [I, I] float32; row i is added to all scores for an item i in the history.
    """
    weights_II = item_item.co_occurrence(train)
    weights_II[np.diag_indices_from(weights_II)] += self.regularisation
    _invert(weights_II)
    weights_II /= -weights_II.diagonal()
    np.fill_diagonal(weights_II, 0)
    return jax.device_put(weights_II)


def build(num_items: int, *, regularisation: float = 200.0) -> Built:
  """The baseline `ease` over I items; refuses catalogues too large to be dense."""
  if not regularisation > 0:
    raise UserError(
      f"ease cannot invert its counts with regularisation {regularisation}; "
      "give a number above 0 (200 suits sparse logs)"
    )
  return item_item.build(Ease(regularisation=regularisation), num_items)


def _invert(matrix_II: np.ndarray) -> None:
  """Inverts a symmetric positive definite float32 matrix in place, by Cholesky."""
  # LAPACK reads columns first: the transposed view is the same symmetric matrix, and
  # its lower triangle is the upper one here.
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
