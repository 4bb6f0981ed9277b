"""ItemKNN: items whose buyers are most like the buyers of the items in the history.

Deshpande & Karypis 2004: cosine between binary item columns, summed over the history.
All neighbours are kept; there is nothing to choose.
"""

import dataclasses

import jax
import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.systems import item_item
from lightlm_jax.systems.base import Built


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemKnn(item_item.ItemItem):
  """The baseline `item_knn`."""

  name: str = "item_knn"

  def fit(self, train: Interactions) -> jax.Array:
    """[I, I] float32: cosines, zero on the diagonal and for items nobody bought."""
    weights_II = item_item.co_occurrence(train)
    norm_I = np.sqrt(np.maximum(weights_II.diagonal(), 1))
    weights_II /= norm_I
    weights_II /= norm_I[:, None]
    np.fill_diagonal(weights_II, 0)
    return jax.device_put(weights_II)


def build(num_items: int) -> Built:
  """The baseline `item_knn` over I items; refuses catalogues too large to be dense."""
  return item_item.build(ItemKnn(), num_items)
