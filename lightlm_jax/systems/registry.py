"""Systems by name."""

from lightlm_jax.config import SYSTEMS, RunConfig, schema
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import (
  bpr_mf,
  ease,
  item_decoder,
  item_knn,
  lightlm,
  lite_llm4rec,
  lite_llm4rec_beam,
  popularity,
  sasrec,
)
from lightlm_jax.systems.base import Built


def build(
  name: str,
  config: RunConfig,
  train: Interactions,
  book: CodeBook | None,
  texts: Tokens | None = None,
) -> Built:
  """The system `name` for the users and the catalogue of `train`.

  Nothing is learned here, only counted. Those that write ids (`config.WritesIds`) alone
  look into the book, those that read texts (`config.ReadsTexts`) into the texts.
  """
  num_users, num_items = train.num_users, train.num_items
  if name == "pop":
    return popularity.build(num_items)
  if name == "recent_pop":
    return popularity.build_recent(num_items)
  if name == "item_knn":
    return item_knn.build(num_items)
  if name == "ease":
    return ease.build(num_items)
  if isinstance(config, schema.LightLMConfig):
    assert book is not None
    return lightlm.build(config, book, train)
  if isinstance(config, schema.LiteBeamConfig):
    assert book is not None
    assert texts is not None
    return lite_llm4rec_beam.build(config, texts, book)
  if isinstance(config, schema.LiteConfig):
    assert texts is not None
    return lite_llm4rec.build(config, train, texts)
  if isinstance(config, schema.ItemDecoderConfig):
    return item_decoder.build(config, num_items)
  if isinstance(config, schema.BprMfConfig):
    return bpr_mf.build(config, num_users, num_items)
  if isinstance(config, schema.SASRecConfig):
    return sasrec.build(config, num_items)
  raise UserError(f"there is no system {name!r}; choose one of {', '.join(SYSTEMS)}")
