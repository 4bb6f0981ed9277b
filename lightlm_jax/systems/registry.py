"""Systems by name."""

from lightlm_jax.config import SYSTEMS, RunConfig, schema
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import (
  bpr_mf,
  code_books,
  item_item,
  lightlm,
  lite_llm4rec,
  lite_llm4rec_beam,
  next_item,
  popularity,
)
from lightlm_jax.systems.base import Built


def build(
  name: str,
  config: RunConfig,
  train: Interactions,
  book: CodeBook | None,
  texts: Tokens | None = None,
) -> Built:
  """Builds the untrained system `name` for the users and the catalogue of `train`.

  Only systems that write ids (`config.WritesIds`) need `book`, and only those that read
  texts (`config.ReadsTexts`) need `texts`.
  """
  num_users, num_items = train.num_users, train.num_items
  if name in ("pop", "recent_pop"):
    return popularity.build(num_items, recent=name == "recent_pop")
  if name == "item_knn":
    return item_item.item_knn(num_items)
  if name == "ease":
    return item_item.ease(num_items)
  if isinstance(config, schema.LightLMConfig):
    assert book is not None
    if config.ids.books > 1:
      return code_books.build(config, book)
    return lightlm.build(config, book, train)
  if isinstance(config, schema.LiteBeamConfig):
    assert book is not None
    assert texts is not None
    return lite_llm4rec_beam.build(config, texts, book)
  if isinstance(config, schema.LiteConfig):
    assert texts is not None
    return lite_llm4rec.build(config, train, texts)
  if isinstance(config, schema.ItemDecoderConfig):
    return next_item.item_decoder(config, num_items)
  if isinstance(config, schema.BprMfConfig):
    return bpr_mf.build(config, num_users, num_items)
  if isinstance(config, schema.SASRecConfig):
    return next_item.sasrec(config, num_items)
  raise UserError(f"there is no system {name!r}; choose one of {', '.join(SYSTEMS)}")
