"""Lite-LLM4Rec's encoders with LightLM's decoder: a beam search in place of the head.

Lite-LLM4Rec (arXiv 2402.09543) claims that beam search brings no gain. This system
tests the claim. It has the texts, the encoders (`model.source` "hierarchical" or
"flat") and the packed histories of `lite_llm4rec`. But LightLM's decoder reads the
hidden states at the history's items, and writes an id token by token under the trie.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.config.schema import LiteBeamConfig
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.texts import Tokens
from lightlm_jax.decoding import trie
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder, hierarchical
from lightlm_jax.systems import lite_llm4rec, next_item, token_sequences
from lightlm_jax.systems.base import Built, Loss
from lightlm_jax.systems.id_writer import Decoder, IdWriter


class Tables(NamedTuple):
  """Item texts, item ids as the model's tokens (-1 = padding), and the ids' trie."""

  items: lite_llm4rec.Tables
  target_IL: jax.Array
  trie: trie.Trie


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4RecBeam(IdWriter):
  """The system `lite_llm4rec_beam`."""

  name: str = "lite_llm4rec_beam"
  example: str | None = "sequence"
  reader: next_item.ItemReader  # the encoder of histories, without a head

  def init(self, rng: jax.Array) -> Any:
    """Returns untrained parameters; the decoder's are under the key "writer"."""
    read_rng, write_rng = jax.random.split(rng)
    one_11 = jnp.ones((1, 1), jnp.int32)
    hidden_11D = jnp.zeros((1, 1, self.shape.D))
    params = self.reader.init(read_rng)
    written = self.net.init(
      write_rng, hidden_11D, one_11, one_11[..., None], method="states_by_position"
    )
    return params | {"writer": written["params"]}

  def loss(self, params: Any, tables: Tables, batch: Batch, rng: jax.Array) -> Loss:
    """Returns cross-entropy averaged over an id's tokens, then history positions."""
    read_rng, write_rng = jax.random.split(rng)
    hidden_BHD = self.reader.read(_readers(params), tables.items, batch, read_rng)
    writer = params["writer"]
    value = self._loss_by_position(writer, tables, hidden_BHD, batch, write_rng)
    return value, next_item.counts(batch)

  def decoder(self, params: Any, tables: Tables, batch: Batch) -> Decoder:
    hidden_BHD = self.reader.read(_readers(params), tables.items, batch)
    return self._opened(params["writer"], hidden_BHD, batch.segment_BH)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiteLlm4RecBeamByVectors(LiteLlm4RecBeam):
  """`LiteLlm4RecBeam` that reads histories as vectors of their items."""

  reader: lite_llm4rec.TextReader

  def prepare(self, params: Any, tables: Tables) -> Tables:
    vector_ID = self.reader.vectors(_readers(params), tables.items)
    return tables._replace(items=tables.items._replace(vector_ID=vector_ID))


def build(config: LiteBeamConfig, texts: Tokens, book: CodeBook) -> Built:
  """Builds the system for a catalogue, given its texts and its code book."""
  m = config.model
  vocab_size = token_sequences.first_code_token(False) + book.vocab_size
  target_IL: Any = token_sequences.shift(book.items_IL, False)
  item_trie, rank_I = trie.build(target_IL, vocab_size, config.decoding.trie_bytes)
  if m.source == "flat":
    kind: Any = LiteLlm4RecBeam
    net = hierarchical.FlatText(texts.vocab_size, None, next_item.decoder_shape(m))
    reader: Any = lite_llm4rec.WordReader(net)
  else:
    kind = LiteLlm4RecBeamByVectors
    reader = lite_llm4rec.TextReader(lite_llm4rec.network(m, texts.vocab_size, None))
  system = kind(
    max_history=config.input.history,
    shape=encoder_decoder.Config(
      V=vocab_size,
      W=0,
      D=m.d_model,
      N=1,  # of an encoder that is not used
      num_decoder_layers=m.num_decoder_layers,
      H=m.num_heads,
      A=m.d_model // m.num_heads,
      F=m.d_ff,
      dropout_rate=m.dropout_rate,
      dtype=jnp.dtype(m.dtype),
      remat=m.remat,
    ),
    decoding=config.decoding,
    reader=reader,
  )
  items = lite_llm4rec.Tables(texts.token_IT)
  return Built(system, Tables(items, target_IL, item_trie), rank_I)


def _readers(params: Any) -> Any:
  """Returns the parameters of the encoders: all but "writer", the decoder's."""
  return {name: part for name, part in params.items() if name != "writer"}
