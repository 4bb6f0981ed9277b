"""LightLM (arXiv 2310.17488): writes the next item's id token by token under a trie.

token_sequences.py writes the sources and targets. A source is the user and the last
items, or with `input.history = 0` the user alone, which is the paper's task. In that
case the target of an example is drawn from all items that the user bought, because a
user's source is the same at all times.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.config import LightLMConfig
from lightlm_jax.config.data_groups import LightLMInput
from lightlm_jax.config.model_groups import Decoding
from lightlm_jax.data import packing
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.decoding import exact, trie
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.beam import invalid_beams
from lightlm_jax.decoding.child_cross_entropy import TokenBias
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder, repeats
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import next_item, token_sequences
from lightlm_jax.systems.base import Built, Loss, apply
from lightlm_jax.systems.id_writer import (
  Decoder,
  IdWriter,
  shift_right,
  token_cross_entropy,
)
from lightlm_jax.systems.item_scores import allowed_items, top_items

# Most bytes of logits in memory at once when all items are scored ("exact").
EXACT_BYTES = 2**28


class Tables(NamedTuple):
  """Codes as the model's tokens, int32 with -1 = padding, and the trie of the targets.

  The decoder writes rows of `target_IL`; the encoder reads rows of the other two code
  arrays. All three end in empty rows, for future items and users (see `with_room`).
  """

  target_IL: jax.Array
  item_code_IL: jax.Array
  user_code_UL: jax.Array
  trie: trie.Trie
  chunks: exact.Chunks | None  # None unless `decoding.kind` is "exact"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LightLM(IdWriter):
  """The system `lightlm`."""

  name: str = "lightlm"
  decoding: Decoding
  input: LightLMInput  # the group `config.input`
  levels: int  # tokens of a target's id
  repeats: bool  # whether the history's items get a learned bias
  common_prefix: int  # how many tokens all targets begin with
  row_width: int | None  # tokens of a training row's source; None = room for any source

  def init(self, rng: jax.Array) -> Any:
    zero = functools.partial(jnp.zeros, dtype=jnp.int32)
    source = token_sequences.Source(zero((1, 1)), zero((1, 1)), zero((1, 1)))
    written: Any = self.net.init(rng, *source, zero((1, 1, 1)), zero((1, 1)))["params"]
    return written | (repeats.init(self.levels) if self.repeats else {})

  def loss(self, params: Any, tables: Tables, batch: Batch, rng: jax.Array) -> Loss:
    """Returns cross-entropy averaged over a target's tokens, then over the batch."""
    if self.example == "sequence":
      # Of all items, as in a request, even those that the encoder does not read.
      bias = self._repeats(params, tables, batch, by_position=True)
      if self.input.item_dropout:
        rng, item_rng = jax.random.split(rng)
        share = 1 - self.input.item_dropout
        keep_BH = jax.random.bernoulli(item_rng, share, batch.history_BH.shape)
        batch = token_sequences.without_items(batch, keep_BH)
      source = self._source(tables, batch)
      encode_rng, decode_rng = jax.random.split(rng)
      rngs = {"dropout": encode_rng}
      encoded_BHD = apply(self.net, params, *source, rngs=rngs, method="encode")
      arguments = params, tables, encoded_BHD, batch, decode_rng
      value = self._loss_by_position(*arguments, bias)
      return value, next_item.counts(batch)
    user_rng, dropout_rng = jax.random.split(rng)
    target_BK = batch.target_B.reshape(len(batch.target_B), -1)
    weight_BK = batch.weight_B.reshape(len(batch.weight_B), -1)
    segment_BK = 1 + jax.lax.broadcasted_iota(jnp.int32, target_BK.shape, 1)
    batch = self._without_some_users(user_rng, batch, segment_BK)
    source = self._source(tables, batch, self.row_width)
    target_BKL = token_sequences.codes_of(tables.target_IL, target_BK)
    real_BKL = target_BKL >= 0
    number_BK = jnp.maximum(real_BKL.sum(axis=-1), 1)
    inputs = *source, shift_right(target_BKL), segment_BK
    run = functools.partial(apply, self.net, params, rngs={"dropout": dropout_rng})
    if self.loss_kind == "vocabulary":
      cross_entropy_BKL = token_cross_entropy(
        run(*inputs), target_BKL, self.label_smoothing
      )
      per_target_BK = (cross_entropy_BKL * real_BKL).sum(axis=-1) / number_BK
      value = (per_target_BK * weight_BK).sum() / weight_BK.sum()
    else:
      state_BKLD = run(*inputs, method="forced_states")
      weight_BKL = real_BKL * (weight_BK / number_BK)[..., None]
      total = self._token_loss(params, tables, state_BKLD, target_BKL, weight_BKL)
      value = total / weight_BK.sum()
    read_BK = (source.segment_BS[:, None] == segment_BK[..., None]).sum(axis=-1)
    tokens = ((read_BK + real_BKL.sum(axis=-1)) * (weight_BK > 0)).sum()
    capacity = source.token_BS.size + target_BKL.size
    return value, {"tokens": tokens, "capacity_tokens": capacity}

  def calibration(self, params: Any) -> dict[str, jax.Array]:
    start = {"log_temperature": jnp.zeros(self.levels)}
    return start | ({"repeat_bias": params["repeat_bias"]} if self.repeats else {})

  def decoder(self, params: Any, tables: Tables, batch: Batch) -> Decoder:
    source = self._source(tables, batch)
    encoded_BSD = apply(self.net, params, *source, method="encode")
    opened = self._opened(params, encoded_BSD, source.segment_BS)
    bias = self._repeats(params, tables, batch)
    log_temperature_L = params.get("log_temperature")
    return opened._replace(bias=bias, log_temperature_L=log_temperature_L)

  def recommend(
    self, params: Any, tables: Tables, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """Returns K items by beam search or, if `tables.chunks` is set, by exact scores."""
    if tables.chunks is None:
      return super().recommend(params, tables, batch, allowed, k=k)
    decoder = self.decoder(params, tables, batch)
    item_R = tables.trie.item_R

    def force(decoder_input_QL):
      shape = (decoder.kv.segment_BS.shape[0], *decoder_input_QL.shape)
      decoder_input_BQL = jnp.broadcast_to(decoder_input_QL[None], shape)
      return decoder.logits(decoder.states(decoder_input_BQL))

    score_BR = exact.scores(
      force,
      tables.chunks,
      num_ranks=len(item_R) - 1,
      start_token=token_sequences.START,
      length_penalty=self.decoding.length_penalty,
      length_offset=self.decoding.length_offset,
      siblings_of=None if self.loss_kind == "vocabulary" else tables.trie,
    )
    allowed_BR = allowed_items(allowed, score_BR.shape[1]) & (item_R[:-1] >= 0)[None]
    best = top_items(score_BR, allowed_BR, k)
    items_BK = jnp.where(best.valid_BK, item_R[best.items_BK], -1)
    return best._replace(items_BK=items_BK)

  def invalid_beams(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """Returns which beams of an unconstrained search are no item's id, [B, K] bool."""
    options = self._options(self.decoding.beam_size, constrained=False)
    decoder = self.decoder(params, tables, batch)
    beams = self._search(decoder, tables, None, options)
    return invalid_beams(beams, tables.trie)

  def state(self, params: Any, tables: Tables, batch: Batch) -> jax.Array:
    """Returns a hidden state per request, [B, D] float32.

    If the config's `decoding.state` is "encoder", it is the mean of the encoded
    source's states; otherwise it is the decoder's state that predicts the first token
    in which the items' ids differ.
    """
    if self.decoding.state == "encoder":
      source = self._source(tables, batch)
      encoded_BSD = apply(self.net, params, *source, method="encode")
      real_BS1 = (source.segment_BS > 0)[..., None]
      number_B1 = jnp.maximum(real_BS1.sum(axis=1), 1)
      total_BD = jnp.where(real_BS1, encoded_BSD, 0).sum(axis=1, dtype=jnp.float32)
      return total_BD / number_B1
    return self.decoder_state(self.decoder(params, tables, batch), tables)

  def decoder_state(self, decoder: Decoder, tables: Tables) -> jax.Array:
    """Returns the decoder's state (see `state`) for the encoded sources it reads."""
    decoder_input_L = shift_right(tables.target_IL[0, : self.common_prefix + 1])
    shape = (decoder.kv.segment_BS.shape[0], 1, self.common_prefix + 1)
    decoder_input_B1L = jnp.broadcast_to(decoder_input_L, shape)
    state_B1LD = decoder.states(decoder_input_B1L)
    return state_B1LD[:, 0, -1].astype(jnp.float32)

  def _repeats(self, params, tables, batch, by_position=False) -> TokenBias | None:
    """Returns a bias on the tokens of the history's items (see models/repeats.py).

    The bias has a row per request or, with `by_position`, per position (B · H rows),
    for the items up to this position. Returns None if the field `repeats` is false.
    """
    if not self.repeats:
      return None
    code_BHL = token_sequences.codes_of(tables.target_IL, batch.history_BH)
    tokens, values = [], []
    for level in range(self.levels):
      arguments = params["repeat_bias"][level], code_BHL[..., level], batch.segment_BH
      bias_BQH, last_BQH = repeats.of_history(*arguments, by_position)
      token_B1H = code_BHL[:, None, :, level]
      tokens.append(jnp.where(last_BQH, token_B1H, self.shape.V))
      values.append(bias_BQH)
    stacked = (jnp.stack(x, axis=2) for x in (tokens, values))  # [B, Q, L, H]
    return TokenBias(*(x.reshape(-1, *x.shape[2:]) for x in stacked))

  def _source(
    self, tables: Tables, batch: Batch, width: int | None = None
  ) -> token_sequences.Source:
    """Returns the encoder's input: the paper's prompt, or rows of `width` id tokens."""
    if self.example == "sequence":
      return token_sequences.write_items(tables.item_code_IL, batch)
    if self.input.prompt:
      return token_sequences.write_prompt(tables.user_code_UL, batch)
    return token_sequences.write_history(
      tables.user_code_UL,
      tables.item_code_IL,
      batch,
      with_user=self.input.user,
      in_order=self.input.order == "time",
      width=width,
    )

  def _without_some_users(
    self, rng: jax.Array, batch: Batch, segment_BK: jax.Array
  ) -> Batch:
    """Returns the batch with random users set to -1, but no user without a history."""
    user_BK = batch.user_B.reshape(len(batch.user_B), -1)
    has_history_BK = (batch.segment_BH[:, None] == segment_BK[..., None]).any(axis=-1)
    keep_BK = jax.random.bernoulli(rng, 1 - self.input.user_dropout, user_BK.shape)
    user_BK = jnp.where(keep_BK | ~has_history_BK, user_BK, -1)
    return batch._replace(user_B=user_BK.reshape(batch.user_B.shape))


def build(
  config: LightLMConfig, codes: CodeBook, train: Interactions | None = None
) -> Built:
  """Builds the system for a code book.

  If examples share rows (`config.train.pack`), the width of a row is computed from the
  training log `train`. If `train` is None, each example has a row of its own.
  """
  tables, rank_I = _tables(config, codes)
  rows = None
  if train is not None and config.examples_a_row > 1:
    lengths_E = _source_lengths(config.input, codes, train)
    rows = packing.rows(lengths_E, config.examples_a_row)
  target_IL = tables.target_IL[: len(codes.items_IL)]
  if config.model.repeats and not _is_one_place_each(codes.items_IL):
    raise UserError(
      "config.model.repeats needs ids of which each token has one place in the trie; "
      "set config.ids.kind=sci and config.ids.tokens=node"
    )
  example = "target" if config.input.history else "drawn"
  if config.input.every_position:
    example = "sequence"
  system = LightLM(
    example=example,
    max_history=config.input.history,
    shape=model_config(config, tables.trie.vocab_size),
    decoding=config.decoding,
    end_token=token_sequences.END if config.input.prompt else None,
    input=config.input,
    levels=target_IL.shape[1],
    repeats=config.model.repeats,
    loss_kind=config.train.loss,
    label_smoothing=config.train.label_smoothing,
    common_prefix=int((target_IL == target_IL[:1]).all(axis=0).argmin()),
    row_width=None if rows is None else rows.width,
  )
  return Built(system, tables, rank_I, rows)


def _tables(config: LightLMConfig, codes: CodeBook) -> tuple[Tables, np.ndarray]:
  """Returns the tables as host arrays, and each item's rank in code order."""
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
    with_room(target_IL),
    with_room(item_code_IL),
    with_room(token_sequences.shift(codes.users_UL, prompt)),
    item_trie,
    chunks,
  )
  return tables, rank_I


def model_config(config: LightLMConfig, vocab_size: int) -> encoder_decoder.Config:
  """Returns the transformer's shape from the group `config.model`."""
  m, prompt = config.model, config.input.prompt
  words = token_sequences.NUM_PROMPT_WORDS if prompt else 1 + config.input.history
  first_code = token_sequences.first_code_token(prompt)
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
    causal=config.input.every_position,
    residual=m.residual,
    embedding_init=EmbeddingInit(first_code, m.id_range),
    dtype=jnp.dtype(m.dtype),
    remat=m.remat,
  )


@dataclasses.dataclass(frozen=True)
class EmbeddingInit:
  """Initialiser of embeddings [V, D]: normal with standard deviation 1.

  If `id_range` is not 0, the rows of id tokens (from `first_code` on) are uniform in
  ±`id_range` instead.
  """

  first_code: int
  id_range: float

  def __call__(self, rng: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
    table_VD = nn.initializers.normal(1.0)(rng, shape, dtype)
    if not self.id_range:
      return table_VD
    ids_VD = jax.random.uniform(rng, shape, dtype, -self.id_range, self.id_range)
    is_word_V1 = jnp.arange(shape[0])[:, None] < self.first_code
    return jnp.where(is_word_V1, table_VD, ids_VD)


def _is_one_place_each(code_IL: np.ndarray) -> bool:
  """Returns whether each token stands at one level and always after the same prefix."""
  prefixes = 0
  for level, token_I in enumerate(code_IL.T):
    written_NL = code_IL[token_I >= 0, : level + 1]
    prefixes += len(np.unique(written_NL, axis=0))
  return prefixes == len(np.unique(code_IL[code_IL >= 0]))


def _source_lengths(
  config: LightLMInput, codes: CodeBook, train: Interactions
) -> np.ndarray:
  """Returns each training example's number of source tokens, at least 1, [E] int64."""
  item_E = (codes.items_IL >= 0).sum(axis=1)[train.item_E]
  before_E1 = np.concatenate([[0], np.cumsum(item_E)])
  start_E = np.repeat(train.offset_U1[:-1], train.length_U)
  first_E = np.maximum(np.arange(len(start_E)) - config.history, start_E)
  length_E = before_E1[:-1] - before_E1[first_E]
  if config.user:
    length_E += (codes.users_UL >= 0).sum(axis=1)[train.user_E]
  return np.maximum(length_E, 1)


def with_room(code_NL: np.ndarray) -> Any:
  """Returns `code_NL` with rows of -1 appended, up to `trie.capacity(N + 1)` rows."""
  room = trie.capacity(len(code_NL) + 1) - len(code_NL)
  return np.pad(code_NL, ((0, room), (0, 0)), constant_values=-1)
