"""Base class of systems that write an item's id token by token.

`lightlm` and `lite_llm4rec_beam` encode different sources. Both have a decoder that
reads the encoded source by cross-attention. It writes the id by beam search, with or
without the trie's constraint; for exact scores, all items' codes are teacher-forced.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lightlm_jax.config.model_groups import BeamDecoding
from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import beam
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.child_cross_entropy import TokenBias, child_cross_entropy
from lightlm_jax.models import encoder_decoder
from lightlm_jax.models.cross_entropy import linear_cross_entropy
from lightlm_jax.systems.base import System, apply
from lightlm_jax.systems.token_sequences import PAD, START, codes_of


class Decoder(NamedTuple):
  """A decoder with parameters and encoded sources; decodes K sequences per source."""

  apply: Callable[..., Any]  # `EncoderDecoder.apply` with its parameters
  kv: encoder_decoder.CrossKV  # cross-attention keys and values of the sources
  embedding_VD: jax.Array  # the embeddings of tokens
  bias: TokenBias | None = None  # is added to every logit of its tokens
  log_temperature_L: jax.Array | None = None  # by level; None = not calibrated

  def states(self, decoder_input_BKL: jax.Array) -> jax.Array:
    """Returns the last layer's states, [B, K, L, D], for teacher-forced tokens."""
    segment_BK = jnp.ones_like(decoder_input_BKL[..., 0])
    return self.apply(decoder_input_BKL, self.kv, segment_BK, method="states")

  def step(self, token_BK: jax.Array, parent_BK: jax.Array, cache: Any):
    """Extends each beam by one token; see the argument `step` of `beam.search`."""
    arguments = token_BK, parent_BK, self.kv, jnp.ones_like(token_BK), cache
    level = len(cache.key)
    state_BKD, cache = self.apply(*arguments, method="extend")
    return functools.partial(self.logits, state_BKD, level=level), cache

  def logits(
    self,
    state: jax.Array,
    token: jax.Array | None = None,
    *,
    level: int | None = None,
  ) -> jax.Array:
    """Returns `EncoderDecoder.logits` of states, calibrated and with bias.

    `state` [B, …, D] predicts the tokens of one level; if `level` is None, it is
    [B, K, L, D] and predicts those of all levels.
    """
    logits = self.apply(state, token, method="logits")
    if self.log_temperature_L is not None:
      factor_L = jnp.exp(-self.log_temperature_L)
      if level is None:
        logits *= factor_L[: state.shape[2]].reshape(1, 1, -1, 1)
      else:
        logits *= factor_L[level]
    if self.bias is None:
      return logits
    none_V = jnp.zeros(self.embedding_VD.shape[0])
    # Row by row, so that rows on different devices send each other nothing.
    add = jax.vmap(lambda token, value: none_V.at[token].add(value, mode="drop"))
    bias_B1V = add(*self.bias)[:, None]
    if token is not None:
      token = jnp.minimum(token, none_V.size - 1)
      if token.ndim == 1:
        return logits + bias_B1V[..., token]
      return logits + jnp.take_along_axis(bias_B1V, token, axis=2)
    return logits + jnp.expand_dims(bias_B1V, range(2, logits.ndim - 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdWriter(System):
  """A system that writes ids; `Built.tables` has the fields `target_IL` and `trie`."""

  shape: encoder_decoder.Config  # shape of the transformer that contains the decoder
  decoding: BeamDecoding  # the group `config.decoding`
  end_token: int | None = None  # see `beam.Options`
  # The tokens that compete for a place of an id: "vocabulary" (all), "children" (those
  # that the trie allows there), or "both", the sum of both losses.
  loss_kind: str = "vocabulary"
  label_smoothing: float = 0.0

  @property
  def net(self) -> encoder_decoder.EncoderDecoder:
    return encoder_decoder.EncoderDecoder(self.shape)

  def decoder(self, params: Any, tables: Any, batch: Batch) -> Decoder:
    """Encodes the sources of a batch; returns a decoder that reads them."""
    raise NotImplementedError

  def recommend(
    self, params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """Returns the K best allowed items that beam search finds."""
    return self.found(self.decoder(params, tables, batch), tables, allowed, k=k)

  def found(
    self, decoder: Decoder, tables: Any, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """Returns the result of `recommend` for the encoded sources of `decoder`."""
    beam_size = max(k, self.decoding.beam_size)
    options = self._options(beam_size, self.decoding.kind != "unconstrained")
    beams = self._search(decoder, tables, allowed, options)
    if not options.constrained:
      beams = beam.without_excluded(beams, tables.trie, allowed)
    return beam.recommendations(beams, tables.trie, options, k=k)

  def _loss_by_position(
    self, params, tables, encoded_BHD, batch, rng, bias: TokenBias | None = None
  ) -> jax.Array:
    """Returns the mean cross-entropy of the next item's id at each history position.

    The mean is over an id's tokens, then over all positions. `params` are the
    parameters of `net`, whose decoder reads the history's states, `encoded_BHD`.
    """
    code_BHL = codes_of(tables.target_IL, batch.target_B)
    arrays = encoded_BHD, batch.segment_BH, shift_right(code_BHL)
    options = {"rngs": {"dropout": rng}, "method": "states_by_position"}
    state_BHLD = apply(self.net, params, *arrays, **options)
    real_BHL = code_BHL >= 0
    weight_BH = (batch.segment_BH > 0) * batch.weight_B[:, None]
    number_BH1 = jnp.maximum(real_BHL.sum(axis=2, keepdims=True), 1)
    weight_BHL = real_BHL * weight_BH[..., None] / number_BH1
    arrays = state_BHLD, code_BHL, weight_BHL
    total = self._token_loss(params, tables, *arrays, bias)
    return total / jnp.maximum(weight_BH.sum(), 1)

  def _token_loss(self, params, tables, state, code, weight, bias=None) -> jax.Array:
    """Returns the sum over tokens of weight · cross-entropy (the one of `loss_kind`).

    `state` […, L, D] predicts the tokens `code` […, L]; -1 = no token, with weight 0.
    """
    L, D = state.shape[-2:]
    state_NLD = state.reshape(-1, L, D).astype(jnp.float32) * D**-0.5
    code_NL, weight_NL = code.reshape(-1, L), weight.reshape(-1, L)
    total: Any = 0.0
    if self.loss_kind in ("vocabulary", "both"):
      label_X = jnp.maximum(code_NL, 0).reshape(-1)
      state_XD, weight_X = state_NLD.reshape(-1, D), weight_NL.reshape(-1)
      arguments = state_XD, params["embedding"], label_X, weight_X
      found: Any = linear_cross_entropy(*arguments)
      total += found[0]
    if self.loss_kind in ("children", "both"):
      arguments = state_NLD, params["embedding"], tables.trie, code_NL
      loss_NL = child_cross_entropy(*arguments, self.label_smoothing, bias)
      total += (loss_NL * weight_NL).sum()
    return total

  def nll(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """Returns -log p(the target's code), [B] float32.

    If `loss_kind` is "vocabulary", p is a distribution over all token sequences,
    otherwise over the items of the trie.
    """
    decoder = self.decoder(params, tables, batch)
    target_B1L = tables.target_IL[jnp.maximum(batch.target_B, 0)][:, None]
    state_B1LD = decoder.states(shift_right(target_B1L))
    if self.loss_kind != "vocabulary":
      state_BLD = state_B1LD[:, 0].astype(jnp.float32) * self.shape.D**-0.5
      if decoder.log_temperature_L is not None:
        state_BLD *= jnp.exp(-decoder.log_temperature_L)[None, :, None]
      arguments = state_BLD, decoder.embedding_VD, tables.trie, target_B1L[:, 0]
      options = {"bias": decoder.bias, "bias_alone": False}
      return child_cross_entropy(*arguments, **options).sum(axis=1)
    cross_entropy_B1L = token_cross_entropy(decoder.logits(state_B1LD), target_B1L, 0.0)
    return jnp.where(target_B1L >= 0, cross_entropy_B1L, 0).sum(axis=(1, 2))

  def scores_of(
    self, decoder: Decoder, tables: Any, allowed: Allowed, items_BK: jax.Array
  ) -> jax.Array:
    """Returns the scores that `found` gives to K allowed items, [B, K] float32."""
    options = self._options(1, constrained=True)
    code_BKL = tables.target_IL[items_BK]
    arguments = encoder_decoder.Cache(), tables.trie, allowed, options, code_BKL
    return beam.scores(decoder.step, *arguments)

  def _opened(
    self, params: Any, encoded_BSD: jax.Array, segment_BS: jax.Array
  ) -> Decoder:
    """Returns a decoder that reads these encoded sources (segment 0 = padding)."""
    net = functools.partial(apply, self.net, params)
    kv = net(encoded_BSD, segment_BS, method="precompute_cross_kv")
    return Decoder(net, kv, params["embedding"])

  def _search(self, decoder: Decoder, tables, allowed, options) -> beam.Beams:
    cache = encoder_decoder.Cache()
    B = decoder.kv.segment_BS.shape[0]
    return beam.search(decoder.step, cache, tables.trie, allowed, options, B=B)

  def _options(self, beam_size: int, constrained: bool) -> beam.Options:
    return beam.Options(
      beam_size=beam_size,
      start_token=START,
      end_token=self.end_token,
      length_penalty=self.decoding.length_penalty,
      length_offset=self.decoding.length_offset,
      renormalise=self.decoding.kind == "beam_renormalised"
      or self.loss_kind != "vocabulary",
      constrained=constrained,
    )


def shift_right(target: jax.Array) -> jax.Array:
  """Returns decoder inputs […, L]: a start token, then all of `target` but the last."""
  start = jnp.full_like(target[..., :1], START)
  return jnp.concatenate([start, jnp.maximum(target[..., :-1], PAD)], axis=-1)


def token_cross_entropy(
  logits: jax.Array, target: jax.Array, label_smoothing: float
) -> jax.Array:
  """Returns each target token's cross-entropy, […, L] float32, from logits […, L, V].

  `label_smoothing` is the share of the label's probability that is spread evenly over
  all V tokens. Values at the targets' padding are meaningless: callers mask them.
  """
  label = jnp.maximum(target, 0)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  if not label_smoothing:
    return loss
  uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
  return (1 - label_smoothing) * loss + label_smoothing * uniform
