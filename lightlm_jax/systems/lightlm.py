"""LightLM (arXiv 2310.17488): writes the next item's id token by token under a trie.

Its source and its targets are written in token_sequences.py: the user and the last
items, or with `input.history = 0` the user alone, which is the paper's task. There the
target of an example is drawn from all that the user bought, because nothing in the
source says when.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.config import LightLMConfig
from lightlm_jax.config.schema import LightLMInput
from lightlm_jax.data import packing
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.decoding import exact, trie
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems import id_writer, token_sequences
from lightlm_jax.systems.base import Built, Metrics, System, apply
from lightlm_jax.systems.id_writer import (
  Decoder,
  IdWriter,
  shift_right,
  token_cross_entropy,
)

# The most bytes of logits of a chunk of forced prefixes, all users of a batch together.
EXACT_BYTES = 2**28
DECODINGS = id_writer.DECODINGS


class Tables(NamedTuple):
  """Codes in the model's vocabulary (-1 = padding) and the trie of the targets.

  All are padded to the trie's capacity (users likewise): see `trie.capacity`.
  """

  target_IL: jax.Array
  item_code_IL: jax.Array
  user_code_UL: jax.Array
  trie: trie.Trie
  chunks: exact.Chunks | None  # of `decoding.kind = "exact"`


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightLM(System):
  """The system `lightlm`.

  Attributes:
    shape: of the transformer.
    writer: of ids.
    prompt: whether users are written in the paper's sentence.
    with_user: whether users are read.
    in_order: whether histories are read in order of time.
    user_dropout: share of the examples with a history that are read without the user.
    label_smoothing: of the loss.
    state_of: "encoder" or "decoder", which makes the state of a request.
    common_prefix: how many tokens all targets begin with.
    row_width: tokens of a source row in training; None = room for any history.
  """

  name: str = "lightlm"
  shape: encoder_decoder.Config
  writer: IdWriter
  prompt: bool
  with_user: bool
  in_order: bool
  user_dropout: float
  label_smoothing: float
  state_of: str
  common_prefix: int
  row_width: int | None

  @property
  def net(self) -> encoder_decoder.EncoderDecoder:
    """The transformer."""
    return encoder_decoder.EncoderDecoder(self.shape)

  def init(self, rng: jax.Array) -> Any:
    """Untrained parameters."""
    zero = functools.partial(jnp.zeros, dtype=jnp.int32)
    source = token_sequences.Source(zero((1, 1)), zero((1, 1)), zero((1, 1)))
    return self.net.init(rng, *source, zero((1, 1, 1)), zero((1, 1)))["params"]

  def loss(
    self, params: Any, tables: Tables, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """Cross-entropy averaged over a target's tokens, then over the batch."""
    user_rng, dropout_rng = jax.random.split(rng)
    target_BK = batch.target_B.reshape(len(batch.target_B), -1)
    weight_BK = batch.weight_B.reshape(len(batch.weight_B), -1)
    segment_BK = jnp.broadcast_to(
      jnp.arange(1, target_BK.shape[1] + 1)[None], target_BK.shape
    )
    batch = self._without_some_users(user_rng, batch, segment_BK)
    source = self.write_source(tables, batch, self.row_width)
    target_BKL = jnp.where(
      target_BK[..., None] >= 0, tables.target_IL[jnp.maximum(target_BK, 0)], -1
    )
    logits_BKLV = apply(
      self.net,
      params,
      *source,
      shift_right(target_BKL),
      segment_BK,
      rngs={"dropout": dropout_rng},
    )
    real_BKL = target_BKL >= 0
    cross_entropy_BKL = token_cross_entropy(
      logits_BKLV, target_BKL, self.label_smoothing
    )
    number_BK = jnp.maximum(real_BKL.sum(axis=-1), 1)
    per_target_BK = (cross_entropy_BKL * real_BKL).sum(axis=-1) / number_BK
    value = (per_target_BK * weight_BK).sum() / weight_BK.sum()
    read_BK = (source.segment_BS[:, None] == segment_BK[..., None]).sum(axis=-1)
    tokens = ((read_BK + real_BKL.sum(axis=-1)) * (weight_BK > 0)).sum()
    return value, {
      "tokens": tokens,
      "capacity_tokens": source.token_BS.size + target_BKL.size,
    }

  def write_source(
    self, tables: Tables, batch: Batch, width: int | None = None
  ) -> token_sequences.Source:
    """The encoder's input: a history, or the prompt."""
    if self.prompt:
      return token_sequences.write_prompt(tables.user_code_UL, batch)
    return token_sequences.write_history(
      tables.user_code_UL,
      tables.item_code_IL,
      batch,
      with_user=self.with_user,
      in_order=self.in_order,
      width=width,
    )

  def decoder(self, params: Any, tables: Tables, batch: Batch) -> Decoder:
    """The decoder after it read the sources of a batch."""
    source = self.write_source(tables, batch)
    encoded_BSD = apply(self.net, params, *source, method="encode")
    return id_writer.opened(self.net, params, encoded_BSD, source.segment_BS)

  def recommend(
    self, params: Any, tables: Tables, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """The K best items."""
    decoder = self.decoder(params, tables, batch)
    if tables.chunks is None:
      return self.writer.recommend(decoder, tables, allowed, k=k)
    return self.writer.recommend_exactly(decoder, tables, tables.chunks, allowed, k=k)

  def nll(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """[B] float32, see `IdWriter.nll`."""
    decoder = self.decoder(params, tables, batch)
    return self.writer.nll(decoder, tables, batch.target_B)

  def invalid_beams(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """[B, K] bool, see `IdWriter.invalid_beams`."""
    return self.writer.invalid_beams(self.decoder(params, tables, batch), tables)

  def state(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """[B, D] float32: the source's mean, or what predicts the first token."""
    if self.state_of == "encoder":
      source = self.write_source(tables, batch)
      encoded_BSD = apply(self.net, params, *source, method="encode")
      real_BS1 = (source.segment_BS > 0)[..., None]
      number_B1 = jnp.maximum(real_BS1.sum(axis=1), 1)
      total_BD = jnp.where(real_BS1, encoded_BSD, 0).sum(axis=1, dtype=jnp.float32)
      return total_BD / number_B1
    decoder = self.decoder(params, tables, batch)
    # The first token that differs between targets is predicted behind their prefix.
    decoder_input_L = shift_right(tables.target_IL[0, : self.common_prefix + 1])
    shape = (len(batch.user_B), 1, self.common_prefix + 1)
    state_B1LD = decoder.states(jnp.broadcast_to(decoder_input_L, shape))
    return state_B1LD[:, 0, -1].astype(jnp.float32)

  def _without_some_users(
    self, rng: jax.Array, batch: Batch, segment_BK: jax.Array
  ) -> Batch:
    """Hides users at the rate `user_dropout`, but never the whole source."""
    user_BK = batch.user_B.reshape(len(batch.user_B), -1)
    has_history_BK = (batch.segment_BH[:, None] == segment_BK[..., None]).any(axis=-1)
    keep_BK = jax.random.bernoulli(rng, 1 - self.user_dropout, user_BK.shape)
    user_BK = jnp.where(keep_BK | ~has_history_BK, user_BK, -1)
    return batch._replace(user_B=user_BK.reshape(batch.user_B.shape))


def build(
  config: LightLMConfig, codes: CodeBook, train: Interactions | None = None
) -> Built:
  """The system of one configuration over one code book.

  Args:
    config: of a run.
    codes: of the users and the catalogue of `train`.
    train: the training log; where examples share rows (`train.pack`) it decides how
      wide rows are. None = each has its own.
  """
  tables, rank_I = build_tables(config, codes)
  most = config.examples_a_row
  rows = None
  if train is not None and most > 1:
    rows = packing.rows(source_lengths(config.input, codes, train), most)
  target_IL = tables.target_IL[: len(codes.items_IL)]
  prompt = config.input.prompt
  system = LightLM(
    example="target" if config.input.history else "drawn",
    max_history=config.input.history,
    shape=model_config(config, tables.trie.vocab_size),
    writer=IdWriter(
      kind=config.decoding.kind,
      beam_size=config.decoding.beam_size,
      length_penalty=config.decoding.length_penalty,
      length_offset=config.decoding.length_offset,
      end_token=token_sequences.END if prompt else None,
    ),
    prompt=prompt,
    with_user=config.input.user,
    in_order=config.input.order == "time",
    user_dropout=config.input.user_dropout,
    label_smoothing=config.train.label_smoothing,
    state_of=config.decoding.state,
    common_prefix=int((target_IL == target_IL[:1]).all(axis=0).argmin()),
    row_width=None if rows is None else rows.width,
  )
  return Built(system, tables, rank_I, rows)


def build_tables(config: LightLMConfig, codes: CodeBook) -> tuple[Tables, np.ndarray]:
  """The tables as host arrays, and each item's rank in code order."""
  prompt = config.input.prompt
  vocab_size = token_sequences.first_code_token(prompt) + codes.vocab_size
  item_code_IL = token_sequences.shift(codes.items_IL, prompt)
  target_IL = token_sequences.answer(item_code_IL) if prompt else item_code_IL
  item_trie, rank_I = trie.build(target_IL, vocab_size, config.decoding.trie_bytes)
  chunks = None
  if config.decoding.kind == "exact":
    a_prefix = config.train.eval_batch_size * target_IL.shape[1] * vocab_size * 4
    in_order_RL = target_IL[item_trie.item_R[: len(target_IL)]]
    chunks = exact.chunks(in_order_RL, max(1, EXACT_BYTES // a_prefix))
  tables = Tables(
    _with_room(target_IL),
    _with_room(item_code_IL),
    _with_room(token_sequences.shift(codes.users_UL, prompt)),
    item_trie,
    chunks,
  )
  return tables, rank_I


def model_config(config: LightLMConfig, vocab_size: int) -> encoder_decoder.Config:
  """The transformer's shape from the fields `config.model.*`."""
  m = config.model
  words = (
    token_sequences.NUM_PROMPT_WORDS
    if config.input.prompt
    else 1 + config.input.history
  )
  first_code = token_sequences.first_code_token(config.input.prompt)
  return encoder_decoder.Config(
    V=vocab_size,
    W=words if m.whole_word else 0,
    D=m.d_model,
    N=m.num_layers,
    num_decoder_layers=m.num_decoder_layers,
    H=m.num_heads,
    A=m.d_kv,
    F=m.d_ff,
    dropout_rate=m.dropout_rate,
    embedding_init=EmbeddingInit(first_code, m.id_range),
    dtype=jnp.dtype(m.dtype),
    remat=m.remat,
  )


@dataclasses.dataclass(frozen=True)
class EmbeddingInit:
  """[V, D]: normal, std 1; the ids' rows uniform in ±`id_range` if it is not 0."""

  first_code: int
  id_range: float

  def __call__(self, rng: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    table_VD = nn.initializers.normal(1.0)(rng, shape, dtype)
    if not self.id_range:
      return table_VD
    ids_VD = jax.random.uniform(rng, shape, dtype, -self.id_range, self.id_range)
    is_word_V1 = jnp.arange(shape[0])[:, None] < self.first_code
    return jnp.where(is_word_V1, table_VD, ids_VD)


def source_lengths(
  config: LightLMInput, codes: CodeBook, train: Interactions
) -> np.ndarray:
  """[E] int64: tokens of the source of the example at each position, at least 1.

  Args:
    config: the group `config.input`.
  """
  item_E = (codes.items_IL >= 0).sum(axis=1)[train.item_E]
  before_E1 = np.concatenate([[0], np.cumsum(item_E)])
  start_E = np.repeat(train.offset_U1[:-1], train.length_U)
  first_E = np.maximum(np.arange(len(start_E)) - config.history, start_E)
  length_E = before_E1[:-1] - before_E1[first_E]
  if config.user:
    length_E += (codes.users_UL >= 0).sum(axis=1)[train.user_E]
  return np.maximum(length_E, 1)


def _with_room(code_NL: np.ndarray) -> Any:
  """`code_NL` with rows of padding up to its capacity."""
  room = trie.capacity(len(code_NL) + 1) - len(code_NL)
  return np.pad(code_NL, ((0, room), (0, 0)), constant_values=-1)
