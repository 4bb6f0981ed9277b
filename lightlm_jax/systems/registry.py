"""Systems by name."""

import ml_collections

from lightlm_jax.errors import UserError
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.systems import ease, item_knn, lightlm, popularity
from lightlm_jax.systems.base import System

NAMES = ("lightlm", "pop", "item_knn", "ease")
WRITE_IDS = ("lightlm",)
BASELINES = ("pop", "item_knn", "ease")


def build(
  name: str,
  config: ml_collections.ConfigDict,
  num_items: int,
  book: CodeBook | None,
) -> System:
  """The system `name`; only those of WRITE_IDS look into the book."""
  if name == "lightlm":
    return lightlm.build(config, book)
  if name == "pop":
    return popularity.build(num_items)
  if name == "item_knn":
    return item_knn.build(num_items)
  if name == "ease":
    return ease.build(num_items)
  raise UserError(f"there is no system {name!r}; choose one of {', '.join(NAMES)}")
