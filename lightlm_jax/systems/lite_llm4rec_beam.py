"""Lite-LLM4Rec's encoders under LightLM's decoder: the search that the head replaces.

The claim of Lite-LLM4Rec (arXiv 2402.09543) is that a beam search gives nothing here.
This is its other arm: the same texts, encoders and rows as in `lite_llm4rec`
(`model.source` "hierarchical" or "flat"), but the item is written as an id, token by
token under the trie, by LightLM's decoder, which reads what stands at the history's
items.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.texts import Tokens
from lightlm_jax.decoding import beam, trie
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder, flat_text
from lightlm_jax.models.cross_entropy import linear_cross_entropy
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_decoder, lite_llm4rec, next_item
from lightlm_jax.systems import token_sequences as text
from lightlm_jax.systems.base import System
from lightlm_jax.systems.lightlm import shift_right, written_nll

NAME = "lite_llm4rec_beam"


class Tables(NamedTuple):
  """The items' texts, their ids in the model's tokens (-1 = padding), and the trie."""

  items: lite_llm4rec.Tables
  target_IL: jax.Array
  trie: trie.Trie


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a configuration that is not made for this system.

  Raises:
    UserError: says what to give.
  """
  lite_llm4rec.check(config)
  if config.model.tied or config.train.loss != "full":
    raise UserError(
      f"{NAME} has no head that config.model.tied or config.train.loss could be of; "
      "set config.model.tied=False and config.train.loss=full"
    )
  if config.decoding.kind != "beam":
    raise UserError(
      f"config.decoding.kind is {config.decoding.kind!r}, and {NAME} has a beam search "
      "alone; set config.decoding.kind=beam"
    )


def build(
  config: ml_collections.ConfigDict,
  train: Interactions,
  texts: Tokens,
  book: CodeBook,
) -> System:
  """The system over the catalogue of `train`, in the tokens of texts and of ids."""
  is_flat = config.model.source == "flat"
  vocab_size = text.first_code_token(False) + book.vocab_size
  target_IL = text.shift(book.items_IL, False)
  item_trie, rank_I = trie.build(target_IL, vocab_size, config.decoding.trie_bytes)
  reader = (
    flat_text.FlatText(texts.vocab_size, None, item_decoder.model_config(config))
    if is_flat
    else lite_llm4rec.network(config, texts.vocab_size, None)
  )
  writer = encoder_decoder.EncoderDecoder(_writer_config(config, vocab_size))
  lengths = {
    "length_penalty": config.decoding.length_penalty,
    "length_offset": config.decoding.length_offset,
  }

  def init(rng: jax.Array):
    read_rng, write_rng = jax.random.split(rng)
    one_11 = jnp.ones((1, 1), jnp.int32)
    hidden_11D = jnp.zeros((1, 1, config.model.d_model))
    params = (
      reader.init(read_rng, one_11[..., None], one_11)["params"]
      if is_flat
      else lite_llm4rec.initial(reader, read_rng)
    )
    written = writer.init(
      write_rng, hidden_11D, one_11, one_11[..., None], method=_forced
    )
    return params | {"writer": written["params"]}

  def read(params, tables: Tables, batch: Batch, rng: jax.Array | None = None):
    """What stands at the history's items, float32 [B, H, D]."""
    params = {name: part for name, part in params.items() if name != "writer"}
    if is_flat:
      token_BHT = lite_llm4rec.words(tables.items, batch.history_BH)
      rngs = {} if rng is None else {"dropout": rng}
      return reader.apply({"params": params}, token_BHT, batch.segment_BH, rngs=rngs)
    if rng is None:
      items = lite_llm4rec.with_vectors(reader, params, tables.items)
      return lite_llm4rec.read_cached(reader, params, items, batch)
    return lite_llm4rec.read_batch(reader, params, tables.items, batch, rng)[0]

  def loss(params, tables: Tables, batch: Batch, rng: jax.Array):
    """Cross-entropy averaged over an id's tokens, then over all positions."""
    read_rng, write_rng = jax.random.split(rng)
    hidden_BHD = read(params, tables, batch, read_rng)
    known_BH1 = batch.target_B[..., None] >= 0
    target_BHL = jnp.where(
      known_BH1, jnp.asarray(tables.target_IL)[jnp.maximum(batch.target_B, 0)], -1
    )
    state_BHLD = writer.apply(
      {"params": params["writer"]},
      hidden_BHD,
      batch.segment_BH,
      shift_right(target_BHL),
      rngs={"dropout": write_rng},
      method=_forced,
    )
    real_BHL = target_BHL >= 0
    weight_BH = (batch.segment_BH > 0) * batch.weight_B[:, None]
    number_BH1 = jnp.maximum(real_BHL.sum(axis=2, keepdims=True), 1)
    weight_BHL = real_BHL * weight_BH[..., None] / number_BH1
    D = state_BHLD.shape[-1]
    state_ND = state_BHLD.reshape(-1, D).astype(jnp.float32) * D**-0.5
    label_N = jnp.maximum(target_BHL, 0).reshape(-1)
    total = linear_cross_entropy(
      state_ND, params["writer"]["embedding"], label_N, weight_BHL.reshape(-1)
    )
    return total / jnp.maximum(weight_BH.sum(), 1), next_item.counts(batch)

  def prepare(params, tables: Tables) -> Tables:
    params = {name: part for name, part in params.items() if name != "writer"}
    items = lite_llm4rec.with_vectors(reader, params, tables.items)
    return tables._replace(items=items)

  def remember(params, tables: Tables, batch: Batch):
    """The decoder as a function of tokens alone, with what it remembers of a source."""
    apply = functools.partial(writer.apply, {"params": params["writer"]})
    hidden_BHD = read(params, tables, batch)
    return apply, apply(hidden_BHD, batch.segment_BH, method="remember")

  def nll(params, tables: Tables, batch: Batch) -> jax.Array:
    apply, memory = remember(params, tables, batch)
    return written_nll(apply, memory, tables.target_IL, batch.target_B)

  def recommend(
    params, tables: Tables, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    apply, memory = remember(params, tables, batch)

    def step(token_BK, parent_BK, cache):
      segment_BK = jnp.ones_like(token_BK)
      return apply(token_BK, parent_BK, memory, segment_BK, cache, method="extend")

    beams = beam.search(
      step,
      encoder_decoder.Cache(),
      tables.trie,
      allowed,
      B=batch.user_B.shape[0],
      beam_size=max(k, config.decoding.beam_size),
      start_token=text.START,
      end_token=None,
      **lengths,
      renormalise=False,
      constrained=True,
    )
    return beam.recommendations(beams, tables.trie, k=k, **lengths)

  return System(
    name=NAME,
    example="sequence",
    max_history=config.input.history,
    tables=Tables(lite_llm4rec.Tables(texts.token_IT), target_IL, item_trie),
    rank_I=rank_I,
    init=init,
    loss=loss,
    recommend=recommend,
    nll=nll,
    prepare=None if is_flat else prepare,
  )


def _forced(writer, hidden_BHD: jax.Array, segment_BH: jax.Array, told_BHL: jax.Array):
  """The decoder's states [B, H, L, D]; what is told at a place knows no later one."""
  memory = writer.remember(hidden_BHD, segment_BH)
  place_BH = jnp.broadcast_to(jnp.arange(segment_BH.shape[1])[None], segment_BH.shape)
  return writer.states(told_BHL, memory, segment_BH, place_BH)


def _writer_config(config: ml_collections.ConfigDict, vocab_size: int):
  m = config.model
  return encoder_decoder.Config(
    V=vocab_size,
    W=0,
    D=m.d_model,
    N=1,  # of an encoder that is never asked
    num_decoder_layers=m.num_decoder_layers,
    H=m.num_heads,
    A=m.d_model // m.num_heads,
    F=m.d_ff,
    dropout_rate=m.dropout_rate,
    dtype=jnp.dtype(m.dtype),
    remat=m.remat,
  )
