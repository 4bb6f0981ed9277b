"""Next-item transformers that score every item: `sasrec` and `bsarec`.

The score of an item is the product of its row in the embedding table with what the
model makes of the history's last position. SASRec learns at every position of a user's
history at once, BSARec from each beginning of it as an example of its own, because its
filter reads both ways. The block is in models/item_sequence.py.
"""

from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.errors import UserError
from lightlm_jax.models.cross_entropy import linear_cross_entropy
from lightlm_jax.models.item_sequence import BLOCKS, Config, ItemSequence
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import System

# "full": over the catalogue; "binary": the item against one drawn at random, as in
# the SASRec of 2018.
LOSSES = ("full", "binary")
NAMES = BLOCKS


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a configuration that is not made for these systems.

  Raises:
    UserError: says what to give.
  """
  m = config.model
  if "loss" not in config.train:
    raise UserError(
      f"config.system {config.system} wants fields that this config lacks; start from "
      f"--config={config.system}, with --config.data.name for the log"
    )
  if not config.input.history:
    raise UserError(f"{config.system} reads the history; input.history is 0")
  if m.d_model % m.num_heads:
    raise UserError(
      f"model.d_model {m.d_model} does not divide over model.num_heads {m.num_heads}"
    )


def build(config: ml_collections.ConfigDict, num_items: int) -> System:
  """The system `config.system`, sasrec or bsarec, over I items."""
  m = config.model
  name = config.system
  net = ItemSequence(
    Config(
      I=num_items,
      P=config.input.history,
      block=name,
      D=m.d_model,
      N=m.num_layers,
      num_heads=m.num_heads,
      F=m.d_ff,
      dropout_rate=m.dropout_rate,
      mix=m.mix,
      low_frequencies=m.low_frequencies,
    )
  )

  def init(rng: jax.Array):
    one_11 = jnp.ones((1, 1), jnp.int32)
    return net.init(rng, one_11, one_11)["params"]

  def loss(params, tables: Any, batch: Batch, rng: jax.Array):
    """The mean over all positions that are followed by an item."""
    del tables
    dropout_rng, negative_rng = jax.random.split(rng)
    hidden_BHD = net.apply(
      {"params": params},
      batch.history_BH,
      batch.segment_BH,
      rngs={"dropout": dropout_rng},
    )
    weight_BH = (batch.segment_BH > 0) * batch.weight_B[:, None]
    if name == "bsarec":
      hidden_BHD, weight_BH = hidden_BHD[:, -1:], weight_BH[:, -1:]
    hidden_ND = hidden_BHD.reshape(-1, hidden_BHD.shape[-1])
    label_N, weight_N = batch.target_B.reshape(-1), weight_BH.reshape(-1)
    if config.train.loss == "full":
      total = linear_cross_entropy(hidden_ND, params["embedding"], label_N, weight_N)
    else:
      negative_N = jax.random.randint(negative_rng, label_N.shape, 0, num_items)
      own_N, other_N = (
        (hidden_ND * params["embedding"][item_N]).sum(axis=1)
        for item_N in (jnp.maximum(label_N, 0), negative_N)
      )
      loss_N = jax.nn.softplus(-own_N) + jax.nn.softplus(other_N)
      total = (weight_N * loss_N).sum()
    value = total / jnp.maximum(weight_N.sum(), 1)
    real_BH = (batch.segment_BH > 0) & (batch.weight_B > 0)[:, None]
    return value, {"tokens": real_BH.sum(), "places": real_BH.size}

  def scores(params, tables: Any, batch: Batch) -> jax.Array:
    """[B, I] float32; who has no history gets the same score for every item."""
    del tables
    hidden_BHD = net.apply({"params": params}, batch.history_BH, batch.segment_BH)
    known_B1 = batch.segment_BH[:, -1:] > 0
    hidden_BD = jnp.where(known_B1, hidden_BHD[:, -1], 0)
    # A rounded product would make ties that an accelerator breaks and a CPU does not.
    return jnp.einsum("bd,id->bi", hidden_BD, params["embedding"], precision="highest")

  return System(
    name=name,
    example="sequence" if name == "sasrec" else "target",
    max_history=config.input.history,
    tables=(),
    rank_I=np.arange(num_items, dtype=np.int32),
    init=init,
    loss=loss,
    scores=scores,
    recommend=item_scores.recommender(scores),
  )
