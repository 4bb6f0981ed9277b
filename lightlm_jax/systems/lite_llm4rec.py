"""Lite-LLM4Rec (arXiv 2402.09543): items by their texts, all scored in one step.

An item encoder makes a vector of each item's text, a second transformer reads the
vectors of a history, and a projection head scores the catalogue without a search. The
head's table is learned (as in the paper), or with `model.tied` it is the items'
vectors: then an item without training interactions is scored by its text alone.
Training runs the item encoder over the unique items of a batch; after training, the
items' vectors are computed once for all requests.

`model.source="flat"` is the paper's alternative with the same head: one transformer
over the words of the whole history.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.config.model_groups import TextModel
from lightlm_jax.config.schema import LiteConfig
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.models import hierarchical
from lightlm_jax.models.cross_entropy import linear_cross_entropy
from lightlm_jax.systems import next_item
from lightlm_jax.systems.base import Built, Loss, apply, in_catalogue_order
from lightlm_jax.systems.item_scores import Softmax
from lightlm_jax.systems.next_item import NextItem

FAR = -1e9  # added to the logit of a row that holds no item


class Tables(NamedTuple):
  """The items' texts, shares of the training log and, once computed, vectors."""

  token_IT: Any  # int32 array, the items' texts, -1 = padding
  # float32, each item's share of training interactions; None = no loss needs it.
  share_I: jax.Array | None = None
  vector_ID: jax.Array | None = None  # float32; None = not computed yet, see `prepare`


@dataclasses.dataclass(frozen=True)
class TextReader(next_item.ItemReader):
  """Reads a history as its items' vectors, which an encoder computes from texts."""

  net: hierarchical.Hierarchical

  def init(self, rng: jax.Array) -> Any:
    one_11 = jnp.ones((1, 1), jnp.int32)
    return self.net.init(rng, one_11, 0 * one_11, one_11)["params"]

  def read(
    self, params: Any, tables: Tables, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    if rng is not None:
      return self.read_batch(params, tables, batch, rng)[0]
    vector_BHD = self.vectors(params, tables)[jnp.maximum(batch.history_BH, 0)]
    return apply(self.net, params, vector_BHD, batch.segment_BH, method="read")

  def read_batch(
    self,
    params: Any,
    tables: Tables,
    batch: Batch,
    rng: jax.Array,
    others: tuple[jax.Array, ...] = (),
  ) -> tuple[jax.Array, jax.Array, jax.Array, tuple[jax.Array, ...]]:
    """Returns hidden states (with dropout), the batch's unique items and their vectors.

    `others` are more items to encode, int32 [B, H] each; where the history is padding,
    they are ignored.

    Returns:
      hidden_BHD float32; item_U int32, the unique items in ascending order, padded with
      I; vector_UD float32, their vectors, 0 for padding; and a tuple with an int32
      [B, H] for the history and one for each of `others`: the row of each item in
      item_U and vector_UD (arbitrary where there is no item).
    """
    item_rng, history_rng = jax.random.split(rng)
    known_BH, I = batch.segment_BH > 0, len(tables.token_IT)
    item_ABH = jnp.where(known_BH[None], jnp.stack((batch.history_BH, *others)), I)
    item_N = item_ABH.reshape(-1)
    size = min(I + 1, item_N.size)  # as many rows as any batch could need
    item_U, place_N = jnp.unique(item_N, size=size, fill_value=I, return_inverse=True)
    places = tuple(place_N.reshape(item_ABH.shape))
    is_item_U1 = (item_U < I)[:, None]
    token_UT = jnp.take(tables.token_IT, item_U, 0, mode="clip")
    token_UT = jnp.where(is_item_U1, token_UT, -1)
    vector_UD = hierarchical.item_vectors(self.net, params, token_UT, item_rng)
    args, rngs = (vector_UD[places[0]], batch.segment_BH), {"dropout": history_rng}
    hidden_BHD = apply(self.net, params, *args, method="read", rngs=rngs)
    return hidden_BHD, item_U, vector_UD, places

  def vectors(self, params: Any, tables: Tables) -> jax.Array:
    """Returns all items' vectors, float32 [I, D]; computes them unless in `tables`."""
    if tables.vector_ID is not None:
      return tables.vector_ID
    return hierarchical.item_vectors(self.net, params, tables.token_IT)


@dataclasses.dataclass(frozen=True)
class WordReader(next_item.ItemReader):
  """Reads a history as one sequence of words: `model.source="flat"`."""

  def init(self, rng: jax.Array) -> Any:
    one_11 = jnp.ones((1, 1), jnp.int32)
    return self.net.init(rng, one_11[..., None], one_11)["params"]

  def read(
    self, params: Any, tables: Tables, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    # The texts of the history's items, -1 = padding.
    token_BHT = jnp.asarray(tables.token_IT)[jnp.maximum(batch.history_BH, 0)]
    return super().read(params, tables, batch._replace(history_BH=token_BHT), rng)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4Rec(NextItem):
  """Reads histories as vectors of texts and scores items by a learned head."""

  reader: TextReader

  def prepare(self, params: Any, tables: Tables) -> Tables:
    return tables._replace(vector_ID=self.reader.vectors(params, tables))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4RecSoftmax(Softmax, LiteLlm4Rec):
  """`LiteLlm4Rec` with a softmax loss: its scores are logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4RecTied(LiteLlm4RecSoftmax):
  """`LiteLlm4RecSoftmax` with the items' vectors in place of a learned head."""

  def loss(self, params: Any, tables: Tables, batch: Batch, rng: jax.Array) -> Loss:
    """Returns the mean in-batch softmax loss over positions that have a next item."""
    read_rng, _ = jax.random.split(rng)
    hidden_BHD, item_U, vector_UD, (_, label_BH) = self.reader.read_batch(
      params, tables, batch, read_rng, (batch.target_B,)
    )
    hidden_ND, _, weight_N = next_item.positions(hidden_BHD, batch)
    assert tables.share_I is not None
    share_U = jnp.take(tables.share_I, item_U, mode="fill", fill_value=0)
    # Below 1, because log1p(-1) is infinite; such an item is in every batch anyway.
    share_U = jnp.clip(share_U, 0, 1 - 1e-6)
    # The probability that a batch of this size holds the item.
    often_U = -jnp.expm1((batch.segment_BH > 0).sum() * jnp.log1p(-share_U))
    value = batch_loss(hidden_ND, vector_UD, label_BH.reshape(-1), weight_N, often_U)
    return value, next_item.counts(batch)

  def scores(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """Returns the items' scores, [B, I] float32, all equal if there is no history."""
    vector_ID = self.reader.vectors(params, tables)
    tables = tables._replace(vector_ID=vector_ID)
    hidden_BHD = self.reader.read(params, tables, batch)
    return next_item.last_scores(hidden_BHD, batch.segment_BH, head(vector_ID))


def build(config: LiteConfig, train: Interactions, texts: Tokens) -> Built:
  """Builds the system for the items of `train`; row i of `texts` is item i's text."""
  num_items = train.num_items
  if config.model.source == "flat":
    shape = next_item.decoder_shape(config.model)
    flat = WordReader(hierarchical.FlatText(texts.vocab_size, num_items, shape))
    system = next_item.of_run(config, flat)
    return in_catalogue_order(system, Tables(texts.token_IT), num_items)
  bought_I = np.bincount(train.item_E, minlength=num_items)
  share_I: Any = (bought_I / max(len(train.item_E), 1)).astype(np.float32)
  tied = config.model.tied
  head_items = None if tied else num_items
  reader = TextReader(network(config.model, texts.vocab_size, head_items))
  softmax = LiteLlm4RecTied if tied else LiteLlm4RecSoftmax
  system = next_item.of_run(config, reader, kind=LiteLlm4Rec, softmax=softmax)
  return in_catalogue_order(system, Tables(texts.token_IT, share_I), num_items)


def network(
  m: TextModel, vocab_size: int, num_items: int | None
) -> hierarchical.Hierarchical:
  """Returns the module for the group `config.model`; `num_items` None = no head."""
  history = next_item.decoder_shape(m)
  item = dataclasses.replace(
    history, N=m.num_item_layers, dropout_rate=m.item_dropout_rate, causal=False
  )
  return hierarchical.Hierarchical(vocab_size, num_items, item, history)


def head(vector_ID: jax.Array) -> jax.Array:
  """Returns `vector_ID` / √D, [I, D] float32, for logits of about 1 before training."""
  return vector_ID * vector_ID.shape[1] ** -0.5


def batch_loss(
  hidden_ND: jax.Array,
  vector_UD: jax.Array,
  label_N: jax.Array,
  weight_N: jax.Array,
  often_U: jax.Array,
) -> jax.Array:
  """Returns the in-batch softmax loss (cross-entropy), averaged over positions.

  A popular item is in nearly every batch, a rare one in few: each logit is reduced by
  the log-probability that a batch holds the item (Yi et al. 2019, "Sampling-bias-
  corrected neural modeling"), so that the model learns the softmax over the catalogue.

  Args:
    hidden_ND: float32, the hidden state at each of N positions.
    vector_UD: float32, the vectors of the batch's U unique items.
    label_N: int32 in [0, U), the row of the next item in `vector_UD`.
    weight_N: float32, the position's weight in the mean; 0 = ignored.
    often_U: float32, the probability that a batch holds each item; 0 = padding.
  """
  bias_U = jnp.where(often_U > 0, -jnp.log(jnp.maximum(often_U, 1e-30)), FAR)
  # The bias is one more column, because linear_cross_entropy never has all logits.
  table_UE = jnp.concatenate([head(vector_UD), bias_U[:, None]], axis=1)
  hidden_NE = jnp.pad(hidden_ND, ((0, 0), (0, 1)), constant_values=1)
  found: Any = linear_cross_entropy(hidden_NE, table_UE, label_N, weight_N)
  total = found[0]
  return total / jnp.maximum(weight_N.sum(), 1)
