"""Systems by name."""

import ml_collections

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.decoding import latent
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

NAMES = (
  "lightlm",
  "item_decoder",
  "lite_llm4rec",
  "lite_llm4rec_beam",
  "pop",
  "recent_pop",
  "item_knn",
  "ease",
  "bpr_mf",
  "sasrec",
  "bsarec",
)
WRITE_IDS = ("lightlm", "lite_llm4rec_beam")
READ_TEXTS = ("lite_llm4rec", "lite_llm4rec_beam")
WITHOUT_BEAMS = ("exact", *latent.DECODINGS)  # values of decoding.kind
# Every position of a row of histories.
LEARN_SEQUENCES = ("item_decoder", *READ_TEXTS, "sasrec")
BASELINES = ("pop", "recent_pop", "item_knn", "ease")


def build(
  name: str,
  config: ml_collections.ConfigDict,
  train: Interactions,
  book: CodeBook | None,
  texts: Tokens | None = None,
) -> Built:
  """The system `name` for the users and the catalogue of `train`.

  Nothing is learned here, only counted. Those of WRITE_IDS alone look into the book,
  those of READ_TEXTS into the texts.
  """
  if name == "lightlm":
    return lightlm.build(config, book, train)
  if name == item_decoder.NAME:
    return item_decoder.build(config, train.num_items)
  if name == lite_llm4rec.NAME:
    return lite_llm4rec.build(config, train, texts)
  if name == lite_llm4rec_beam.NAME:
    return lite_llm4rec_beam.build(config, texts, book)
  if name == "pop":
    return popularity.build(train.num_items)
  if name == "recent_pop":
    return popularity.build_recent(train.num_items)
  if name == "item_knn":
    return item_knn.build(train.num_items)
  if name == "ease":
    return ease.build(train.num_items)
  if name == "bpr_mf":
    return bpr_mf.build(config, train.num_users, train.num_items)
  if name in sasrec.NAMES:
    return sasrec.build(config, train.num_items)
  raise UserError(f"there is no system {name!r}; choose one of {', '.join(NAMES)}")
