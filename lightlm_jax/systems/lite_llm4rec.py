"""Lite-LLM4Rec (arXiv 2402.09543): items by their texts, all scored in one step.

An item encoder makes a vector of each item's text, a second transformer reads the
vectors of a history, and a projection head scores the catalogue without a search. The
head's table is its own (the paper's), or the items' vectors themselves
(`model.tied`): then an item that training never saw is scored by its text alone.

Training runs the item encoder over the different items of a batch, and no others. When
it is over, the items' vectors are made once for all requests: see `System.prepare`.

`model.source="flat"` is what the paper compares with, as far as its head lets it: one
transformer over the words of the whole history, one behind the other.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.models import flat_text, hierarchical
from lightlm_jax.models.cross_entropy import linear_cross_entropy
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_decoder, item_scores, next_item
from lightlm_jax.systems.base import System

NAME = "lite_llm4rec"
SOURCES = ("hierarchical", "flat")
FAR = -1e9  # what a place that holds no item adds to its logit


class Tables(NamedTuple):
  """What stands beside the parameters.

  Attributes:
    token_IT: int32, the items' texts, -1 = padding.
    share_I: float32, each item's share of the training interactions; None where no
      loss asks.
    vector_ID: float32, what the item encoder makes of the texts; None = it is asked.
  """

  token_IT: jax.Array
  share_I: jax.Array | None = None
  vector_ID: jax.Array | None = None


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a configuration that is not made for this system.

  Raises:
    UserError: says what to give.
  """
  next_item.require_fields("text_tokens" in config.input, config.system, NAME)
  item_decoder.check(config)
  if config.model.tied and config.model.source == "flat":
    raise UserError(
      "config.model.source is 'flat', which makes no vectors of items that "
      "config.model.tied could score by; set config.model.tied=False"
    )
  if config.model.tied and config.train.loss != "full":
    raise UserError(
      f"config.train.loss is {config.train.loss!r}, and with config.model.tied the "
      "items of a batch are all that is compared; set config.train.loss=full"
    )


def build(
  config: ml_collections.ConfigDict, train: Interactions, texts: Tokens
) -> System:
  """The system over the catalogue of `train`, item i written as `texts.token_IT[i]`."""
  if config.model.source == "flat":
    return _flat(config, train.num_items, texts)
  tied, num_items = config.model.tied, train.num_items
  bought_I = np.bincount(train.item_E, minlength=num_items)
  share_I = (bought_I / max(len(train.item_E), 1)).astype(np.float32)
  net = network(config, texts.vocab_size, None if tied else num_items)

  def init(rng: jax.Array):
    return initial(net, rng)

  def loss(params, tables: Tables, batch: Batch, rng: jax.Array):
    """The mean over all positions that are followed by an item.

    The softmax is over the catalogue, or with `tied` over the items of the batch, each
    weighed by how often a batch holds it: see `batch_loss`.
    """
    read_rng, negative_rng = jax.random.split(rng)
    wanted = (batch.target_B,) if tied else ()
    hidden_BHD, seen = read_batch(net, params, tables, batch, read_rng, wanted)
    hidden_ND, label_N, weight_N = next_item.positions(hidden_BHD, batch)
    if tied:
      often_U = _often(seen.item_U, batch.segment_BH > 0, tables)
      label_N = seen.places[1].reshape(-1)
      value = batch_loss(hidden_ND, seen.vector_UD, label_N, weight_N, often_U)
    else:
      examples = hidden_ND, label_N, weight_N
      value = next_item.mean_loss(config, *examples, params["output"], negative_rng)
    return value, next_item.counts(batch)

  def scores(params, tables: Tables, batch: Batch) -> jax.Array:
    """[B, I] float32; who has no history gets the same score for every item."""
    tables = prepare(params, tables)
    hidden_BHD = read_cached(net, params, tables, batch)
    table_ID = head(tables.vector_ID) if tied else params["output"]
    return next_item.last_scores(hidden_BHD, batch.segment_BH, table_ID)

  def prepare(params, tables: Tables) -> Tables:
    return with_vectors(net, params, tables)

  return System(
    name=NAME,
    example="sequence",
    max_history=config.input.history,
    tables=Tables(texts.token_IT, share_I),
    rank_I=np.arange(num_items, dtype=np.int32),
    init=init,
    loss=loss,
    scores=scores,
    nll=None if config.train.loss == "binary" else item_scores.nll_of(scores),
    recommend=item_scores.recommender(scores),
    prepare=prepare,
  )


def _flat(config: ml_collections.ConfigDict, num_items: int, texts: Tokens) -> System:
  """One transformer over the words of the history, under a head of its own."""
  shape = item_decoder.model_config(config)
  net = flat_text.FlatText(texts.vocab_size, num_items, shape)
  tables = Tables(texts.token_IT)
  return next_item.system(config, num_items, net, tables=tables, source=words)


def words(tables: Tables, history_BH: jax.Array) -> jax.Array:
  """The texts of a history's items, int32 [B, H, T], -1 = padding."""
  return jnp.asarray(tables.token_IT)[jnp.maximum(history_BH, 0)]


class Seen(NamedTuple):
  """The different items of a batch.

  Attributes:
    item_U: int32, ascending; behind them I throughout.
    vector_UD: float32, what the item encoder makes of them; 0 where no item stands.
    places: for the history, and for each other array of items, int32 [B, H]: where in
      these it stands (anywhere, where nothing does).
  """

  item_U: jax.Array
  vector_UD: jax.Array
  places: tuple[jax.Array, ...]


def initial(net: hierarchical.Hierarchical, rng: jax.Array):
  """Parameters that nothing has learned."""
  one_11 = jnp.ones((1, 1), jnp.int32)
  return net.init(rng, one_11, 0 * one_11, one_11)["params"]


def read_batch(
  net: hierarchical.Hierarchical,
  params,
  tables: Tables,
  batch: Batch,
  rng: jax.Array,
  others: tuple[jax.Array, ...] = (),
) -> tuple[jax.Array, Seen]:
  """Training's hidden_BHD float32, with the items that were encoded for it.

  Args:
    batch: rows of histories.
    rng: of the dropout.
    others: int32 [B, H] each, what is encoded beside the history.
  """
  item_rng, history_rng = jax.random.split(rng)
  known_BH = batch.segment_BH > 0
  items = (batch.history_BH, *others)
  item_U, places = unique_items(items, known_BH, len(tables.token_IT))
  token_UT = _texts_of(item_U, tables)
  vector_UD = hierarchical.item_vectors(net, params, token_UT, item_rng)
  hidden_BHD = net.apply(
    {"params": params},
    vector_UD[places[0]],
    batch.segment_BH,
    rngs={"dropout": history_rng},
    method="read",
  )
  return hidden_BHD, Seen(item_U, vector_UD, places)


def with_vectors(net: hierarchical.Hierarchical, params, tables: Tables) -> Tables:
  """The tables with every item's vector, which they may have already."""
  if tables.vector_ID is not None:
    return tables
  vector_ID = hierarchical.item_vectors(net, params, tables.token_IT)
  return tables._replace(vector_ID=vector_ID)


def read_cached(
  net: hierarchical.Hierarchical, params, tables: Tables, batch: Batch
) -> jax.Array:
  """hidden_BHD float32 of histories, from tables with every item's vector."""
  vector_BHD = tables.vector_ID[jnp.maximum(batch.history_BH, 0)]
  return net.apply({"params": params}, vector_BHD, batch.segment_BH, method="read")


def network(
  config: ml_collections.ConfigDict, vocab_size: int, num_items: int | None
) -> hierarchical.Hierarchical:
  """The module of a run; without `num_items` it has no head."""
  m = config.model
  history = item_decoder.model_config(config)
  item = dataclasses.replace(
    history, N=m.num_item_layers, dropout_rate=m.item_dropout_rate, causal=False
  )
  return hierarchical.Hierarchical(vocab_size, num_items, item, history)


def head(vector_ID: jax.Array) -> jax.Array:
  """The items' vectors as rows that scores are made by: logits start near 1."""
  return vector_ID * vector_ID.shape[1] ** -0.5


def unique_items(
  items: tuple[jax.Array, ...], known_BH: jax.Array, num_items: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
  """The unique items of a batch, in an array that any batch fits.

  Args:
    items: int32 [B, H] each.
    known_BH: bool, where something stands.
    num_items: I.

  Returns:
    seen_U int32, ascending, behind them I throughout; and for each of `items` int32
    [B, H], where in it each stands (anywhere, where nothing does).
  """
  item_ABH = jnp.where(known_BH[None], jnp.stack(items), num_items)
  size = min(num_items + 1, item_ABH.size)
  seen_U, place_N = jnp.unique(
    item_ABH.reshape(-1), size=size, fill_value=num_items, return_inverse=True
  )
  return seen_U, tuple(place_N.reshape(item_ABH.shape))


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
  corrected neural modeling"), so that what is learned is the softmax over the
  catalogue. Where every batch holds every item, it is that softmax.

  Args:
    hidden_ND, weight_N: float32, see `next_item.positions`.
    vector_UD: float32, the items' vectors.
    label_N: int32 in [0, U).
    often_U: float32, the share of batches that hold an item; 0 = no item stands here.
  """
  bias_U = jnp.where(often_U > 0, -jnp.log(jnp.maximum(often_U, 1e-30)), FAR)
  # The bias is one more column, so that no logits are held at once.
  table_UE = jnp.concatenate([head(vector_UD), bias_U[:, None]], axis=1)
  hidden_NE = jnp.pad(hidden_ND, ((0, 0), (0, 1)), constant_values=1)
  total = linear_cross_entropy(hidden_NE, table_UE, label_N, weight_N)
  return total / jnp.maximum(weight_N.sum(), 1)


def _texts_of(seen_U: jax.Array, tables: Tables) -> jax.Array:
  """[U, T], nothing but padding where no item stands."""
  is_item_U1 = (seen_U < len(tables.token_IT))[:, None]
  return jnp.where(is_item_U1, jnp.take(tables.token_IT, seen_U, 0, mode="clip"), -1)


def _often(seen_U: jax.Array, known_BH: jax.Array, tables: Tables) -> jax.Array:
  """[U]: how likely one of the batch's draws, by popularity, is the item."""
  share_U = jnp.take(tables.share_I, seen_U, mode="fill", fill_value=0)
  # log1p(-1) is no number to multiply; an item of all interactions is in every batch.
  share_U = jnp.clip(share_U, 0, 1 - 1e-6)
  return -jnp.expm1(known_BH.sum() * jnp.log1p(-share_U))
