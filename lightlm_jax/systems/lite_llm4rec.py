"""Lite-LLM4Rec (arXiv 2402.09543): items by their texts, all scored in one step.

An item encoder makes a vector of each item's text, a second transformer reads the
vectors of a history, and a projection head scores the catalogue without a search. The
head's table is its own (the paper's), or the items' vectors themselves
(`model.tied`): then an item that training never saw is scored by its text alone.

Training runs the item encoder over the unique items of a batch, and no others. After
it, the items' vectors are made once for all requests: see `SharesWork.prepare`.

`model.source="flat"` is the paper's comparison, under the same head: one transformer
over the words of the whole history, one behind the other.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.config.schema import LiteBeamConfig, LiteConfig
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.models import flat_text, hierarchical
from lightlm_jax.models.cross_entropy import linear_cross_entropy
from lightlm_jax.systems import item_decoder, next_item
from lightlm_jax.systems.base import Built, Metrics, apply, in_catalogue_order
from lightlm_jax.systems.item_scores import Softmax
from lightlm_jax.systems.next_item import NextItem

NAME = "lite_llm4rec"
SOURCES = ("hierarchical", "flat")
FAR = -1e9  # added to the logit of a row that holds no item


class Tables(NamedTuple):
  """The system's tables.

  Attributes:
    token_IT: int32, the items' texts, -1 = padding.
    share_I: float32, each item's share of the training interactions; None where no
      loss needs it.
    vector_ID: float32, the items' vectors; None = the item encoder makes them.
  """

  token_IT: jax.Array
  share_I: jax.Array | None = None
  vector_ID: jax.Array | None = None


class BatchItems(NamedTuple):
  """The unique items of a batch.

  Attributes:
    item_U: int32, ascending; behind them I throughout.
    vector_UD: float32, their vectors; 0 where there is no item.
    places: for the history, and for each other array of items, int32 [B, H]: the row of
      each item in these (any row, where there is no item).
  """

  item_U: jax.Array
  vector_UD: jax.Array
  places: tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class TextReader:
  """Reads histories by their items' vectors, which an item encoder makes of texts."""

  net: hierarchical.Hierarchical

  def init(self, rng: jax.Array) -> Any:
    """Untrained parameters."""
    one_11 = jnp.ones((1, 1), jnp.int32)
    return self.net.init(rng, one_11, 0 * one_11, one_11)["params"]

  def read(
    self, params: Any, tables: Tables, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    """See `next_item.Reader`."""
    if rng is not None:
      return self.read_batch(params, tables, batch, rng)[0]
    vector_ID = self.with_vectors(params, tables).vector_ID
    assert vector_ID is not None
    vector_BHD = vector_ID[jnp.maximum(batch.history_BH, 0)]
    return self._read(params, vector_BHD, batch.segment_BH)

  def read_batch(
    self,
    params: Any,
    tables: Tables,
    batch: Batch,
    rng: jax.Array,
    others: tuple[jax.Array, ...] = (),
  ) -> tuple[jax.Array, BatchItems]:
    """Training's hidden_BHD float32, with the items that were encoded for it.

    Args:
      batch: rows of histories.
      rng: of the dropout.
      others: int32 [B, H] each, items that are encoded beside the history.
    """
    item_rng, history_rng = jax.random.split(rng)
    known_BH = batch.segment_BH > 0
    items = (batch.history_BH, *others)
    item_U, places = unique_items(items, known_BH, len(tables.token_IT))
    token_UT = _texts_of(item_U, tables)
    vector_UD = hierarchical.item_vectors(self.net, params, token_UT, item_rng)
    hidden_BHD = self._read(
      params,
      vector_UD[places[0]],
      batch.segment_BH,
      rngs={"dropout": history_rng},
    )
    return hidden_BHD, BatchItems(item_U, vector_UD, places)

  def with_vectors(self, params: Any, tables: Tables) -> Tables:
    """The tables with every item's vector, which they may have already."""
    if tables.vector_ID is not None:
      return tables
    vector_ID = hierarchical.item_vectors(self.net, params, tables.token_IT)
    return tables._replace(vector_ID=vector_ID)

  def _read(
    self, params: Any, vector_BHD: jax.Array, segment_BH: jax.Array, **options: Any
  ) -> jax.Array:
    args = vector_BHD, segment_BH
    return apply(self.net, params, *args, method="read", **options)


@dataclasses.dataclass(frozen=True)
class WordReader:
  """Reads the words of a history one behind the other: `model.source="flat"`."""

  net: flat_text.FlatText

  def init(self, rng: jax.Array) -> Any:
    """Untrained parameters."""
    one_11 = jnp.ones((1, 1), jnp.int32)
    return self.net.init(rng, one_11[..., None], one_11)["params"]

  def read(
    self, params: Any, tables: Tables, batch: Batch, rng: jax.Array | None = None
  ) -> jax.Array:
    """See `next_item.Reader`."""
    token_BHT = words(tables, batch.history_BH)
    rngs = {} if rng is None else {"dropout": rng}
    return apply(self.net, params, token_BHT, batch.segment_BH, rngs=rngs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4Rec(NextItem):
  """Histories by the vectors of texts, under a head of its own."""

  reader: TextReader

  def prepare(self, params: Any, tables: Tables) -> Tables:
    """The tables with every item's vector."""
    return self.reader.with_vectors(params, tables)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4RecSoftmax(Softmax, LiteLlm4Rec):
  """`LiteLlm4Rec` whose loss makes its scores logits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4RecTied(LiteLlm4RecSoftmax):
  """Likewise, with the items' vectors for a head."""

  def loss(
    self, params: Any, tables: Tables, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """The mean over all positions that are followed by an item.

    The softmax is over the items of the batch, each weighed by how often a batch holds
    it: see `batch_loss`.
    """
    read_rng, _ = jax.random.split(rng)
    hidden_BHD, items = self.reader.read_batch(
      params, tables, batch, read_rng, (batch.target_B,)
    )
    hidden_ND, _, weight_N = next_item.positions(hidden_BHD, batch)
    often_U = _often(items.item_U, batch.segment_BH > 0, tables)
    label_N = items.places[1].reshape(-1)
    value = batch_loss(hidden_ND, items.vector_UD, label_N, weight_N, often_U)
    return value, next_item.counts(batch)

  def scores(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """[B, I] float32; a user without history gets the same score for every item."""
    tables = self.prepare(params, tables)
    assert tables.vector_ID is not None
    hidden_BHD = self.reader.read(params, tables, batch)
    return next_item.last_scores(hidden_BHD, batch.segment_BH, head(tables.vector_ID))


def build(config: LiteConfig, train: Interactions, texts: Tokens) -> Built:
  """The system over the catalogue of `train`, item i written as `texts.token_IT[i]`."""
  num_items = train.num_items
  if config.model.source == "flat":
    shape = item_decoder.model_config(config)
    flat = WordReader(flat_text.FlatText(texts.vocab_size, num_items, shape))
    tables = host_tables(texts)
    return in_catalogue_order(next_item.of_run(config, flat), tables, num_items)
  bought_I = np.bincount(train.item_E, minlength=num_items)
  share_I: Any = (bought_I / max(len(train.item_E), 1)).astype(np.float32)
  tied = config.model.tied
  reader = TextReader(network(config, texts.vocab_size, None if tied else num_items))
  softmax = LiteLlm4RecTied if tied else LiteLlm4RecSoftmax
  system = next_item.of_run(config, reader, kind=LiteLlm4Rec, softmax=softmax)
  tables = host_tables(texts)._replace(share_I=share_I)
  return in_catalogue_order(system, tables, num_items)


def host_tables(texts: Tokens) -> Tables:
  """Tables of the texts alone, as host arrays."""
  token_IT: Any = texts.token_IT
  return Tables(token_IT)


def words(tables: Tables, history_BH: jax.Array) -> jax.Array:
  """The texts of a history's items, int32 [B, H, T], -1 = padding."""
  return jnp.asarray(tables.token_IT)[jnp.maximum(history_BH, 0)]


def network(
  config: LiteConfig | LiteBeamConfig, vocab_size: int, num_items: int | None
) -> hierarchical.Hierarchical:
  """The module of a run; without `num_items` it has no head."""
  m = config.model
  history = item_decoder.model_config(config)
  item = dataclasses.replace(
    history, N=m.num_item_layers, dropout_rate=m.item_dropout_rate, causal=False
  )
  return hierarchical.Hierarchical(vocab_size, num_items, item, history)


def head(vector_ID: jax.Array) -> jax.Array:
  """The items' vectors as an output table, scaled so that logits start near 1."""
  return vector_ID * vector_ID.shape[1] ** -0.5


def unique_items(
  items: tuple[jax.Array, ...], known_BH: jax.Array, num_items: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """The unique items of a batch, in as many rows as it could ever need.

  Args:
    items: int32 [B, H] each.
    known_BH: bool, where there is an item.
    num_items: I.

  Returns:
    item_U int32, ascending, behind them I throughout; and for each of `items` int32
    [B, H], the row of each in it (any row, where there is no item).
  """
  item_ABH = jnp.where(known_BH[None], jnp.stack(items), num_items)
  size = min(num_items + 1, item_ABH.size)
  item_U, place_N = jnp.unique(
    item_ABH.reshape(-1), size=size, fill_value=num_items, return_inverse=True
  )
  return item_U, tuple(place_N.reshape(item_ABH.shape))


def batch_loss(
  hidden_ND: jax.Array,
  vector_UD: jax.Array,
  label_N: jax.Array,
  weight_N: jax.Array,
  often_U: jax.Array,
) -> jax.Array:
  """The mean cross-entropy among the items of a batch, as if all had been there.

  A popular item is in nearly every batch, a rare one in few: each logit is corrected by
  the logarithm of how often a batch holds the item (Yi et al. 2019, "Sampling-bias-
  corrected neural modeling"), so that the model learns the softmax over the
  catalogue. Where every batch holds every item, it is that softmax.

  Args:
    hidden_ND, weight_N: float32, see `next_item.positions`.
    vector_UD: float32, the items' vectors.
    label_N: int32 in [0, U).
    often_U: float32, the share of batches that hold an item; 0 = no item.
  """
  bias_U = jnp.where(often_U > 0, -jnp.log(jnp.maximum(often_U, 1e-30)), FAR)
  # The bias is one more column, so that no logits are held at once.
  table_UE = jnp.concatenate([head(vector_UD), bias_U[:, None]], axis=1)
  hidden_NE = jnp.pad(hidden_ND, ((0, 0), (0, 1)), constant_values=1)
  total: Any = linear_cross_entropy(hidden_NE, table_UE, label_N, weight_N)
  return total / jnp.maximum(weight_N.sum(), 1)


def _texts_of(item_U: jax.Array, tables: Tables) -> jax.Array:
  """[U, T], padding where there is no item."""
  is_item_U1 = (item_U < len(tables.token_IT))[:, None]
  return jnp.where(is_item_U1, jnp.take(tables.token_IT, item_U, 0, mode="clip"), -1)


def _often(item_U: jax.Array, known_BH: jax.Array, tables: Tables) -> jax.Array:
  """[U]: the probability that a batch, drawn by popularity, holds the item."""
  assert tables.share_I is not None
  share_U = jnp.take(tables.share_I, item_U, mode="fill", fill_value=0)
  # log1p(-1) is no number to multiply; an item of all interactions is in every batch.
  share_U = jnp.clip(share_U, 0, 1 - 1e-6)
  return -jnp.expm1(known_BH.sum() * jnp.log1p(-share_U))
