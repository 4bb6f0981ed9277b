"""What systems share that score every item by what stands at the history's last place.

The score of an item is the product of its row in the output table with what a network
makes of the history. Their losses are those of next-item prediction: `sasrec`, `bsarec`
and `item_decoder` differ in the network alone.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.models.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import System

# "full": over the catalogue; "sampled": over some of it, the same for a whole batch;
# "binary": the item against one drawn at random, as in the SASRec of 2018.
LOSSES = ("full", "sampled", "binary")


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a configuration that is not made for these systems.

  Raises:
    UserError: says what to give.
  """
  m, name = config.model, config.system
  require_fields("loss" in config.train, name)
  if not config.input.history:
    raise UserError(f"{name} reads the history; input.history is 0")
  if m.d_model % m.num_heads:
    raise UserError(
      f"model.d_model {m.d_model} does not divide over model.num_heads {m.num_heads}"
    )


def require_fields(has: bool, name: str, config_name: str | None = None) -> None:
  """Refuses another system's configuration.

  Args:
    has: whether a field is there that only this system's configuration has.
    name: `config.system`.
    config_name: the file in configs/ to start from; None = called as the system.

  Raises:
    UserError: it is not there.
  """
  if not has:
    raise UserError(
      f"config.system {name} wants fields that this config lacks; start from "
      f"--config={config_name or name}, with --config.data.name for the log"
    )


def system(
  config: ml_collections.ConfigDict,
  num_items: int,
  net: nn.Module,
  *,
  example: str = "sequence",
  tables: Any = (),
  source: Callable | None = None,
) -> System:
  """The system `config.system` over I items.

  Args:
    config: of a run.
    num_items: I.
    net: history_BH, segment_BH → hidden float32 [B, H, D], with its output table among
      the parameters: `output` [I, D], or `embedding` where there is no such.
    example: see `System`; of a "target" the last position alone learns.
    tables: see `System`.
    source: (tables, history_BH) → what the net reads in place of the history; None =
      the history.
  """
  if source is None:

    def source(tables: Any, history_BH: jax.Array):
      del tables
      return history_BH

  def init(rng: jax.Array):
    one_11 = jnp.ones((1, 1), jnp.int32)
    return net.init(rng, source(tables, one_11), one_11)["params"]

  def loss(params, tables: Any, batch: Batch, rng: jax.Array):
    """The mean over all positions that are followed by an item."""
    dropout_rng, negative_rng = jax.random.split(rng)
    hidden_BHD = net.apply(
      {"params": params},
      source(tables, batch.history_BH),
      batch.segment_BH,
      rngs={"dropout": dropout_rng},
    )
    examples = positions(hidden_BHD, batch, last=example == "target")
    value = mean_loss(config, *examples, output_table(params), negative_rng)
    return value, counts(batch)

  def scores(params, tables: Any, batch: Batch) -> jax.Array:
    """[B, I] float32; who has no history gets the same score for every item."""
    read = source(tables, batch.history_BH)
    hidden_BHD = net.apply({"params": params}, read, batch.segment_BH)
    return last_scores(hidden_BHD, batch.segment_BH, output_table(params))

  return System(
    name=config.system,
    example=example,
    max_history=config.input.history,
    tables=tables,
    rank_I=np.arange(num_items, dtype=np.int32),
    init=init,
    loss=loss,
    scores=scores,
    nll=None if config.train.loss == "binary" else item_scores.nll_of(scores),
    recommend=item_scores.recommender(scores),
  )


def positions(
  hidden_BHD: jax.Array, batch: Batch, *, last: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What learns: hidden_ND, label_N int32 and weight_N float32.

  Args:
    hidden_BHD: float32.
    batch: examples, its targets one a position [B, H], or with `last` [B].
    last: whether the last position of a row is all that learns.
  """
  weight_BH = (batch.segment_BH > 0) * batch.weight_B[:, None]
  if last:
    hidden_BHD, weight_BH = hidden_BHD[:, -1:], weight_BH[:, -1:]
  hidden_ND = hidden_BHD.reshape(-1, hidden_BHD.shape[-1])
  return hidden_ND, batch.target_B.reshape(-1), weight_BH.reshape(-1)


def mean_loss(
  config: ml_collections.ConfigDict,
  hidden_ND: jax.Array,
  label_N: jax.Array,
  weight_N: jax.Array,
  table_ID: jax.Array,
  rng: jax.Array,
) -> jax.Array:
  """The weighted mean of the loss `config.train.loss` over N positions, a scalar."""
  kind, num_items = config.train.loss, len(table_ID)
  if kind == "full":
    total = linear_cross_entropy(hidden_ND, table_ID, label_N, weight_N)
  elif kind == "sampled":
    negative_M = jax.random.randint(rng, (config.train.negatives,), 0, num_items)
    total = sampled_cross_entropy(hidden_ND, table_ID, label_N, weight_N, negative_M)
  else:
    negative_N = jax.random.randint(rng, label_N.shape, 0, num_items)
    own_N, other_N = (
      (hidden_ND * table_ID[item_N]).sum(axis=1)
      for item_N in (jnp.maximum(label_N, 0), negative_N)
    )
    loss_N = jax.nn.softplus(-own_N) + jax.nn.softplus(other_N)
    total = (weight_N * loss_N).sum()
  return total / jnp.maximum(weight_N.sum(), 1)


def counts(batch: Batch) -> dict[str, jax.Array]:
  """What `System.loss` tells of a batch."""
  real_BH = (batch.segment_BH > 0) & (batch.weight_B > 0)[:, None]
  return {"tokens": real_BH.sum(), "places": real_BH.size}


def last_scores(
  hidden_BHD: jax.Array, segment_BH: jax.Array, table_ID: jax.Array
) -> jax.Array:
  """[B, I] float32, from the last place of each row; 0 where nothing stands there."""
  known_B1 = segment_BH[:, -1:] > 0
  hidden_BD = jnp.where(known_B1, hidden_BHD[:, -1], 0)
  # A rounded product would make ties that an accelerator breaks and a CPU does not.
  return jnp.einsum("bd,id->bi", hidden_BD, table_ID, precision="highest")


def output_table(params) -> jax.Array:
  """[I, D] float32, of which each item's row makes its score."""
  return params["output"] if "output" in params else params["embedding"]
