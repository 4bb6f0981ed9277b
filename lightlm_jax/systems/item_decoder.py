"""Dropping the Text (arXiv 2506.15833): an LLM's decoder with one token an item.

No text and no ids of several tokens: the vocabulary is the catalogue, and one pass
gives the scores of all items. The paper gives no sizes: they are fields of the config:
layers and widths (`model.num_layers`, `d_model`, `d_ff`), heads of keys and values
(`num_kv_heads`), an output table of its own (`tied`), dropout, the loss.
"""

import jax.numpy as jnp

from lightlm_jax.config.schema import ItemDecoderConfig, LiteBeamConfig, LiteConfig
from lightlm_jax.models import decoder
from lightlm_jax.systems import next_item
from lightlm_jax.systems.base import Built, in_catalogue_order

NAME = "item_decoder"


def build(config: ItemDecoderConfig, num_items: int) -> Built:
  """The system over I items."""
  net = decoder.ItemDecoder(model_config(config), num_items, tied=config.model.tied)
  system = next_item.of_run(config, next_item.ItemReader(net))
  return in_catalogue_order(system, (), num_items)


def model_config(
  config: ItemDecoderConfig | LiteConfig | LiteBeamConfig,
) -> decoder.Config:
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
