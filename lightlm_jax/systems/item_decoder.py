"""Dropping the Text (arXiv 2506.15833): an LLM's decoder with one token an item.

No text and no ids of several tokens: the vocabulary is the catalogue, and one pass
gives the scores of all items. The paper gives no sizes: they are fields of the config:
layers and widths (`model.num_layers`, `d_model`, `d_ff`), heads of keys and values
(`num_kv_heads`), an output table of its own (`tied`), dropout, the loss.
"""

import jax.numpy as jnp
import ml_collections

from lightlm_jax.models import decoder
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import next_item
from lightlm_jax.systems.base import Built, in_catalogue_order

NAME = "item_decoder"


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses heads that the width does not hold.

  Raises:
    UserError: says what to give.
  """
  next_item.check(config)
  m = config.model
  next_item.require_fields("tied" in m, config.system)
  if m.num_heads % m.num_kv_heads:
    raise UserError(
      f"model.num_heads {m.num_heads} does not divide over model.num_kv_heads "
      f"{m.num_kv_heads}"
    )
  if m.d_model // m.num_heads % 2:
    raise UserError(
      f"a head of {m.d_model // m.num_heads} numbers cannot be turned in pairs; choose "
      "model.d_model as an even multiple of model.num_heads"
    )


def build(config: ml_collections.ConfigDict, num_items: int) -> Built:
  """The system over I items."""
  net = decoder.ItemDecoder(model_config(config), num_items, tied=config.model.tied)
  system = next_item.of_run(config, next_item.ItemReader(net))
  return in_catalogue_order(system, (), num_items)


def model_config(config: ml_collections.ConfigDict) -> decoder.Config:
  """The transformer's shape from the fields `config.model.*`."""
  m = config.model
  return decoder.Config(
    D=m.d_model,
    N=m.num_layers,
    H=m.num_heads,
    G=m.num_kv_heads,
    F=m.d_ff,
    dropout_rate=m.dropout_rate,
    dtype=jnp.dtype(m.dtype),
  )
