"""Next-item prediction: every item is scored by a history's last hidden state.

The score of an item is the dot product of its row in the output table with that state.
The systems differ in their networks. `sasrec` has a loss at every position of a
user's history; `bsarec` makes an example of each prefix of the history, because its
filter is not causal (both in models/item_sequence.py). `item_decoder` is "Dropping the
Text" (arXiv 2506.15833), an LLM's decoder with one token per item; the paper gives no
sizes, so they are fields of the config (models/decoder.py).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from lightlm_jax.config.model_groups import DecoderModel
from lightlm_jax.config.schema import ItemDecoderConfig, ItemLossConfig, SASRecConfig
from lightlm_jax.data.batch import Batch
from lightlm_jax.models import cross_entropy, decoder, item_sequence
from lightlm_jax.models import repeats as repeats_lib
from lightlm_jax.systems.base import Built, Loss, Metrics, apply, in_catalogue_order
from lightlm_jax.systems.item_scores import ItemScorer, Softmax


@dataclasses.dataclass(frozen=True)
class ItemReader:
  """Reads histories with a Flax module: (history_BH, segment_BH) -> hidden_BHD."""

  net: nn.Module

  def init(self, rng: jax.Array) -> Any:
    """Returns parameters; "output" or, if absent, "embedding" is the output table."""
    one_11 = jnp.ones((1, 1), jnp.int32)
    return self.net.init(rng, one_11, one_11)["params"]

  def read(
    self, params: Any, tables: Any, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    """Returns hidden states, float32 [B, H, D]; without `rng` there is no dropout."""
    rngs = {} if rng is None else {"dropout": rng}
    return apply(self.net, params, batch.history_BH, batch.segment_BH, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextItem(ItemScorer):
  """Scores every item by the hidden state at the last position of a history."""

  reader: ItemReader
  # "full": softmax over the catalogue; "sampled": over sampled items, the same for all
  # positions of a batch; "binary": against one random item, as in SASRec's paper.
  loss_kind: str
  negatives: int  # items that a sampled loss draws
  repeats: bool = False  # whether the history's items get a learned bias

  def init(self, rng: jax.Array) -> Any:
    return self.reader.init(rng) | (repeats_lib.init(1) if self.repeats else {})

  def loss(self, params: Any, tables: Any, batch: Batch, rng: jax.Array) -> Loss:
    """Returns the mean loss over all positions that have a next item."""
    dropout_rng, negative_rng = jax.random.split(rng)
    hidden_BHD = self.reader.read(params, tables, batch, dropout_rng)
    examples = positions(hidden_BHD, batch, last=self.example == "target")
    if self.repeats:
      value = self._loss_with_repeats(params, batch, *examples)
    else:
      value = self._mean_loss(*examples, _output_table(params), negative_rng)
    return value, counts(batch)

  def scores(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """Returns the items' scores, [B, I] float32, all equal if there is no history."""
    hidden_BHD = self.reader.read(params, tables, batch)
    if "log_temperature" in params:
      hidden_BHD *= jnp.exp(-params["log_temperature"])
    scores_BI = last_scores(hidden_BHD, batch.segment_BH, _output_table(params))
    if not self.repeats:
      return scores_BI
    arguments = params["repeat_bias"][0], batch.history_BH, batch.segment_BH
    bias_B1H, last_B1H = repeats_lib.of_history(*arguments)
    item_BH = jnp.where(last_B1H[:, 0], batch.history_BH, scores_BI.shape[1])
    row_B1 = jnp.arange(scores_BI.shape[0])[:, None]
    return scores_BI.at[row_B1, item_BH].add(bias_B1H[:, 0], mode="drop")

  def _mean_loss(
    self,
    hidden_ND: jax.Array,
    label_N: jax.Array,
    weight_N: jax.Array,
    table_ID: jax.Array,
    rng: jax.Array,
  ) -> jax.Array:
    """Returns the weighted mean of the loss over N positions, a scalar."""
    num_items = len(table_ID)
    arguments = hidden_ND, table_ID, label_N, weight_N
    if self.loss_kind == "full":
      found: Any = cross_entropy.linear_cross_entropy(*arguments)
      total = found[0]
    elif self.loss_kind == "sampled":
      negative_M = jax.random.randint(rng, (self.negatives,), 0, num_items)
      total = cross_entropy.sampled_cross_entropy(*arguments, negative_M)
    else:
      negative_N = jax.random.randint(rng, label_N.shape, 0, num_items)
      own_N, other_N = (
        (hidden_ND * table_ID[item_N]).sum(axis=1)
        for item_N in (jnp.maximum(label_N, 0), negative_N)
      )
      loss_N = jax.nn.softplus(-own_N) + jax.nn.softplus(other_N)
      total = (weight_N * loss_N).sum()
    return total / jnp.maximum(weight_N.sum(), 1)

  def _loss_with_repeats(self, params, batch, hidden_ND, label_N, weight_N):
    """Returns `_mean_loss` for the full softmax, with a bias on the history's items."""
    table_ID = _output_table(params)
    arguments = hidden_ND, table_ID, label_N, weight_N
    found: Any = cross_entropy.linear_cross_entropy(*arguments)
    total, normaliser_N = found
    by_position = self.example == "sequence"
    arguments = params["repeat_bias"][0], batch.history_BH, batch.segment_BH
    bias_BQH, last_BQH = repeats_lib.of_history(*arguments, by_position)
    B, Q, _ = bias_BQH.shape
    row_BHD = table_ID[jnp.maximum(batch.history_BH, 0)]
    logits_BQH = jnp.einsum("bqd,bhd->bqh", hidden_ND.reshape(B, Q, -1), row_BHD)
    share_BQH = jnp.exp(jnp.minimum(logits_BQH - normaliser_N.reshape(B, Q, 1), 0))
    arguments = last_BQH, batch.history_BH, label_N.reshape(B, Q), share_BQH
    added_BQ = repeats_lib.added_loss(bias_BQH, *arguments)
    total += (added_BQ.reshape(-1) * weight_N).sum()
    return total / jnp.maximum(weight_N.sum(), 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextItemSoftmax(Softmax, NextItem):
  """`NextItem` with a softmax loss: its scores are logits."""

  def calibration(self, params: Any) -> dict[str, jax.Array]:
    start = {"log_temperature": jnp.zeros(())}
    return start | ({"repeat_bias": params["repeat_bias"]} if self.repeats else {})


def of_run(
  config: ItemLossConfig,
  reader: ItemReader,
  *,
  example: str = "sequence",
  repeats: bool = False,
  kind: type[NextItem] = NextItem,
  softmax: type[NextItem] = NextItemSoftmax,
) -> NextItem:
  """Builds the system `config.system` around a reader.

  `kind` is the class for the binary loss, whose scores are not logits; `softmax` is the
  class for other losses. If `example` is "target", only the last position of a row has
  a loss; if it is "sequence", every position has one.
  """
  return (kind if config.train.loss == "binary" else softmax)(
    name=config.system,
    example=example,
    max_history=config.input.history,
    reader=reader,
    loss_kind=config.train.loss,
    negatives=config.train.negatives,
    repeats=repeats,
  )


def sasrec(config: SASRecConfig, num_items: int) -> Built:
  """Builds the system `config.system`, sasrec or bsarec, for I items."""
  m = config.model
  shape = item_sequence.Config(
    I=num_items,
    P=config.input.history,
    block=config.system,
    D=m.d_model,
    N=m.num_layers,
    num_heads=m.num_heads,
    F=m.d_ff,
    dropout_rate=m.dropout_rate,
    mix=m.mix,
    low_frequencies=m.low_frequencies,
  )
  # BSARec's Fourier transform is over a whole row, which must hold one history.
  example = "target" if config.system == "bsarec" else "sequence"
  reader = ItemReader(item_sequence.ItemSequence(shape))
  system = of_run(config, reader, example=example, repeats=m.repeats)
  return in_catalogue_order(system, (), num_items)


def item_decoder(config: ItemDecoderConfig, num_items: int) -> Built:
  """Builds the system `item_decoder` for I items."""
  m = config.model
  net = decoder.ItemDecoder(decoder_shape(m), num_items, tied=m.tied)
  system = of_run(config, ItemReader(net), repeats=m.repeats)
  return in_catalogue_order(system, (), num_items)


def decoder_shape(m: DecoderModel) -> decoder.Config:
  """Returns the transformer's shape from the group `config.model`."""
  return decoder.Config(
    D=m.d_model,
    N=m.num_layers,
    H=m.num_heads,
    G=m.num_kv_heads,
    F=m.d_ff,
    dropout_rate=m.dropout_rate,
    dtype=jnp.dtype(m.dtype),
  )


def positions(
  hidden_BHD: jax.Array, batch: Batch, *, last: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns hidden_ND, label_N int32 (the next item) and weight_N float32 of a batch.

  Without `last`, N = B · H and `batch.target_B` is [B, H]. With `last`, only the last
  position of a row is used: N = B, and `batch.target_B` is [B]. Padding has weight 0.
  """
  weight_BH = (batch.segment_BH > 0) * batch.weight_B[:, None]
  if last:
    hidden_BHD, weight_BH = hidden_BHD[:, -1:], weight_BH[:, -1:]
  hidden_ND = hidden_BHD.reshape(-1, hidden_BHD.shape[-1])
  return hidden_ND, batch.target_B.reshape(-1), weight_BH.reshape(-1)


def counts(batch: Batch) -> Metrics:
  """Counts a batch's items, as "tokens", and its positions, as "capacity_tokens"."""
  real_BH = (batch.segment_BH > 0) & (batch.weight_B > 0)[:, None]
  return {"tokens": real_BH.sum(), "capacity_tokens": real_BH.size}


def last_scores(
  hidden_BHD: jax.Array, segment_BH: jax.Array, table_ID: jax.Array
) -> jax.Array:
  """Returns scores [B, I] float32 from the last position's state; 0 for padding."""
  known_B1 = segment_BH[:, -1:] > 0
  hidden_BD = jnp.where(known_B1, hidden_BHD[:, -1], 0)
  # With reduced precision scores would tie on an accelerator, but not on a CPU.
  return jnp.einsum("bd,id->bi", hidden_BD, table_ID, precision="highest")


def _output_table(params) -> jax.Array:
  """Returns the output table [I, D] float32."""
  return params["output"] if "output" in params else params["embedding"]
