"""LightLM's transformer: a deep and narrow T5-style encoder-decoder.

LightLM (arXiv 2310.17488), section 3.1, after T5 (Raffel et al. 2020). The module knows
arrays of tokens only; the system defines their meaning.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.models.layers import (
  Dropout,
  FeedForward,
  Projection,
  RelativeBias,
  RMSNorm,
  dense,
)

_NORMAL, _SMALL = nn.initializers.normal(1.0), nn.initializers.normal(0.02)
_UNROLLED = 8  # layers


@dataclasses.dataclass(frozen=True)
class Config:
  """LightLM's shape; its one-letter fields are also the letters of array shapes.

  Further letters: B batch, S source length, L target length, M earlier target
  positions, K beams (or targets that share one source), P the sum of K over positions.
  """

  V: int  # tokens of the vocabulary
  W: int  # word numbers that the whole-word embedding has; 0 = no such embedding
  D: int = 512  # model width
  N: int = 6  # encoder layers
  num_decoder_layers: int = 6
  H: int = 8  # attention heads
  A: int = 64  # width of a head
  F: int = 16  # feed-forward width, far below D
  dropout_rate: float = 0.1
  causal: bool = False  # whether the encoder attends to earlier positions only
  # Whether the encoded state of the newest position that a target reads is added to the
  # decoder's states: a direct path from the last item to the next one.
  residual: bool = False
  num_buckets: int = 32
  max_distance: int = 128
  embedding_init: Callable = _NORMAL
  dtype: jnp.dtype = jnp.float32
  remat: bool = False  # recompute a layer's activations in the backward pass


class CrossKV(NamedTuple):
  """Cross-attention keys and values, shared by a row's beams; N = decoder layers."""

  key_NBHAS: jax.Array
  value_NBHSA: jax.Array
  segment_BS: jax.Array
  encoded_BSD: jax.Array | None = None  # None unless `config.residual`


class Cache(NamedTuple):
  """Self-attention keys and values of the decoded positions, one array per position.

  These arrays are never reordered when beams are selected: `ancestor[m]` holds, for
  every current beam, its slot in the arrays of position m. (Copying the keys and values
  of the selected beams would cost as much memory traffic as the attention itself.)
  """

  # One entry per position:
  key: tuple[jax.Array, ...] = ()  # [N, B, H, A, K]; K may differ by position
  value: tuple[jax.Array, ...] = ()  # [N, B, H, K, A]
  ancestor: tuple[jax.Array, ...] = ()  # int32 [B, K], K of the last position


class _EncoderLayer(nn.Module):
  config: Config

  @nn.compact
  def __call__(self, x_BSD, bias_HSS, mask_BSS):
    c = self.config
    h_BSD = RMSNorm(name="attention_norm")(x_BSD)
    query, key, value = _query_key_value(c, h_BSD)
    logits_BHSS = jnp.einsum("bqha,bkha->bhqk", query, key).astype(jnp.float32)
    logits_BHSS += bias_HSS[None]
    weight_BHSS = _softmax(logits_BHSS, mask_BSS[:, None]).astype(c.dtype)
    weight_BHSS = Dropout(c.dropout_rate)(weight_BHSS)
    mixed_BSHA = jnp.einsum("bhqk,bkha->bqha", weight_BHSS, value)
    x_BSD += Dropout(c.dropout_rate)(_output(c, mixed_BSHA, "output"))
    h_BSD = RMSNorm(name="feed_forward_norm")(x_BSD)
    h_BSD = FeedForward(c.F, c.dropout_rate, c.dtype, name="feed_forward")(h_BSD)
    return x_BSD + Dropout(c.dropout_rate)(h_BSD), None


class _DecoderLayer(nn.Module):
  config: Config

  @nn.compact
  def __call__(self, x_BKLD, past, source, bias, mask, mask_BKS):
    c = self.config
    h_BKLD = RMSNorm(name="self_norm")(x_BKLD)
    query, key, value = _query_key_value(c, h_BKLD)
    piece = None
    if past is None:
      logits = jnp.einsum("bnqha,bnkha->bnhqk", query, key).astype(jnp.float32)
      weight = _softmax(logits + bias[None, None], mask[None, None, None])
      weight = Dropout(c.dropout_rate)(weight.astype(c.dtype))
      mixed = jnp.einsum("bnhqk,bnkha->bnqha", weight, value)
    else:
      query_BHKA = query[:, :, 0].swapaxes(1, 2)
      piece = (key[:, :, 0].transpose(0, 2, 3, 1), value[:, :, 0].swapaxes(1, 2))
      pieces = [*zip(*past), piece]
      logits = [jnp.einsum("bhka,bhap->bhkp", query_BHKA, k) for k, _ in pieces]
      logits_BHKP = jnp.concatenate(logits, axis=-1).astype(jnp.float32)
      weight_BHKP = _softmax(logits_BHKP + bias[None], mask[:, None]).astype(c.dtype)
      ends = np.cumsum([k.shape[-1] for k, _ in pieces])[:-1]
      weights = jnp.split(weight_BHKP, ends, axis=-1)
      mixed = [
        jnp.einsum("bhkp,bhpa->bhka", weight_BHKP, v)
        for weight_BHKP, (_, v) in zip(weights, pieces)
      ]
      total: Any = sum(mixed)
      mixed = total.swapaxes(1, 2)[:, :, None]
    x_BKLD += Dropout(c.dropout_rate)(_output(c, mixed, "self_output"))

    h_BKLD = RMSNorm(name="cross_norm")(x_BKLD)
    query = Projection(c.H, c.A, (c.D * c.A) ** -0.5, c.dtype, name="cross_query")
    source_key_BHAS, source_value_BHSA = source
    # All beams of a row have the same keys: one matrix product with K * L queries.
    B, K, L, _ = x_BKLD.shape
    query_BHQA = query(h_BKLD).reshape(B, K * L, c.H, c.A).swapaxes(1, 2)
    logits = jnp.einsum("bhqa,bhas->bhqs", query_BHQA, source_key_BHAS)
    mask_BQS = jnp.repeat(mask_BKS, L, axis=1)
    weight = _softmax(logits.astype(jnp.float32), mask_BQS[:, None]).astype(c.dtype)
    # A target without a source gets zeros, not the row's other sources.
    weight = jnp.where(mask_BQS.any(axis=-1)[:, None, :, None], weight, 0)
    weight = Dropout(c.dropout_rate)(weight)
    mixed = jnp.einsum("bhqs,bhsa->bhqa", weight, source_value_BHSA)
    mixed = mixed.swapaxes(1, 2).reshape(B, K, L, c.H, c.A)
    x_BKLD += Dropout(c.dropout_rate)(_output(c, mixed, "cross_output"))

    h_BKLD = RMSNorm(name="feed_forward_norm")(x_BKLD)
    h_BKLD = FeedForward(c.F, c.dropout_rate, c.dtype, name="feed_forward")(h_BKLD)
    return x_BKLD + Dropout(c.dropout_rate)(h_BKLD), piece


class _CrossKVLayer(nn.Module):
  """Projects the encoded source to cross-attention keys and values of one layer."""

  config: Config

  @nn.compact
  def __call__(self, carry, encoded_BSD):
    c = self.config
    init = c.D**-0.5
    key = Projection(c.H, c.A, init, c.dtype, name="cross_key")(encoded_BSD)
    value = Projection(c.H, c.A, init, c.dtype, name="cross_value")(encoded_BSD)
    return carry, (key.transpose(0, 2, 3, 1), value.swapaxes(1, 2))


class EncoderDecoder(nn.Module):
  """The transformer: call `encode`, `precompute_cross_kv`, then `states` or `extend`.

  `states` does teacher forcing, and `extend` does a step of a beam search. `logits`
  takes the states that either returns. Dropout is active if there is a "dropout" rng.
  """

  config: Config

  def setup(self):
    c = self.config
    self.embedding = self.param("embedding", c.embedding_init, (c.V, c.D))
    if c.W:
      # Places of a causal encoder start small and have no rate of their own, as in
      # SASRec: as large as T5's they lose 3 % on validation (results/accuracy).
      own = ("position", _SMALL) if c.causal else ("word_embedding", _NORMAL)
      self.word_embedding = self.param(*own, (c.W, c.D))
    bias = functools.partial(
      RelativeBias, c.H, c.num_buckets, c.max_distance, init_std=c.D**-0.5
    )
    self.encoder_bias = bias(bidirectional=True)
    self.decoder_bias = bias(bidirectional=False)
    # In training a loop over layers stores and reloads every layer's activations: 6 %
    # of a step at the paper's shape on a CPU, 14 % at `small`, so it is unrolled. In a
    # search, which runs all layers for each token, the loop only saves compile time.
    unroll = _UNROLLED if self.has_rng("dropout") and not c.remat else 1
    encoder_layer, decoder_layer = _EncoderLayer, _DecoderLayer
    if c.remat:
      # In a loop XLA cannot merge the recomputation with the first computation.
      encoder_layer, decoder_layer = (
        nn.remat(layer, prevent_cse=False) for layer in (encoder_layer, decoder_layer)
      )

    def stack(layer: Any, number: int, in_axes: Any) -> Any:
      """Stacks layers; each argument's axis is 0 (a slice per layer) or `broadcast`."""
      return nn.scan(
        layer,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=in_axes,
        length=number,
        unroll=min(unroll, number),
      )(c)

    self.encoder = stack(encoder_layer, c.N, (nn.broadcast, nn.broadcast))
    # Checkpoints store these weights under this name.
    self.memory = stack(_CrossKVLayer, c.num_decoder_layers, (nn.broadcast,))
    in_axes = (0, 0) + (nn.broadcast,) * 3
    self.decoder = stack(decoder_layer, c.num_decoder_layers, in_axes)
    self.encoder_norm = RMSNorm()
    self.decoder_norm = RMSNorm()
    self.dropout = Dropout(c.dropout_rate)

  def encode(self, token_BS, word_BS, segment_BS) -> jax.Array:
    """Encodes the source; returns encoded_BSD in `config.dtype`.

    Arguments are int32: tokens, the numbers of their words (0 to W - 1, ignored if W is
    0) and segments (0 = padding). With tokens [B, S, L] a position reads a whole item:
    the sum of the embeddings of its tokens, divided by the square root of their number
    (token 0 = none, not counted).
    Tokens attend to their own segment, which must be contiguous, because distances are
    computed from positions in the row.
    """
    S = token_BS.shape[1]
    x_BSD = self.embedding.astype(self.config.dtype)[token_BS]
    if token_BS.ndim == 3:
      real_BSL = (token_BS > 0).astype(x_BSD.dtype)
      number_BS1 = jnp.maximum(real_BSL.sum(axis=2, keepdims=True), 1)
      x_BSD = jnp.einsum("bsld,bsl->bsd", x_BSD, real_BSL) * number_BS1**-0.5
    if self.config.W:
      x_BSD += self.word_embedding.astype(self.config.dtype)[word_BS]
    mask_BSS = segment_BS[:, :, None] == segment_BS[:, None, :]
    if self.config.causal:
      mask_BSS &= jnp.tri(S, dtype=bool)[None]
    bias_HSS = self.encoder_bias(jnp.arange(S), jnp.arange(S))
    x_BSD, _ = self.encoder(self.dropout(x_BSD), bias_HSS, mask_BSS)
    return self.dropout(self.encoder_norm(x_BSD))

  def precompute_cross_kv(self, encoded_BSD, segment_BS) -> CrossKV:
    """Returns the cross-attention keys and values of all layers, computed once."""
    _, (key, value) = self.memory((), encoded_BSD)
    kept_BSD = encoded_BSD if self.config.residual else None
    return CrossKV(key, value, segment_BS, kept_BSD)

  def states(self, token_BKL, kv: CrossKV, segment_BK, until_BK=None) -> jax.Array:
    """Returns the last layer's states [B, K, L, D] of K teacher-forced targets a row.

    `token_BKL` int32 are decoder inputs: a start token, then the target. `segment_BK`
    int32 is the segment of the row's source that each target attends to, and `until_BK`
    the last position that it attends to; None = no limit. States are `config.dtype`.
    """
    position_L = jnp.arange(token_BKL.shape[2])
    mask_LL = position_L[:, None] >= position_L[None, :]
    bias_HLL = self.decoder_bias(position_L, position_L)
    options = bias_HLL, mask_LL, segment_BK, until_BK
    return self._decoder(token_BKL, None, kv, *options)[0]

  def states_by_position(self, encoded_BSD, segment_BS, token_BSL) -> jax.Array:
    """Returns `states` [B, S, L, D] for a target at each position of the source.

    `token_BSL` int32 are decoder inputs; the target at position s attends to the
    encoded states of its segment up to s.
    """
    kv = self.precompute_cross_kv(encoded_BSD, segment_BS)
    place_BS = jnp.broadcast_to(jnp.arange(segment_BS.shape[1])[None], segment_BS.shape)
    return self.states(token_BSL, kv, segment_BS, place_BS)

  def extend(
    self, token_BK, parent_BK, kv: CrossKV, segment_BK, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Extends K targets per row by a token; returns `states` [B, K, D] and the cache.

    Args:
      token_BK: int32 tokens at position len(cache.key).
      parent_BK: int32, the slot at the previous position that each target continues;
        ignored at position 0.
      kv, segment_BK: as in `states`.
      cache: all previous positions, at first `Cache()`.
    """
    K, M = token_BK.shape[1], len(cache.key)
    ancestor = [jnp.take_along_axis(a, parent_BK, axis=1) for a in cache.ancestor]
    ancestor.append(jnp.broadcast_to(jnp.arange(K)[None], token_BK.shape))
    slots = [piece.shape[-1] for piece in cache.key] + [K]
    mask = [a[..., None] == jnp.arange(P)[None, None] for a, P in zip(ancestor, slots)]
    mask_BKP = jnp.concatenate(mask, axis=-1)
    bias_H1M = self.decoder_bias(jnp.array([M]), jnp.arange(M + 1))
    bias_H1P = jnp.repeat(bias_H1M, np.array(slots), axis=-1)
    past = (cache.key, cache.value)
    x_BK1D, (key, value) = self._decoder(
      token_BK[..., None], past, kv, bias_H1P, mask_BKP, segment_BK
    )
    cache = Cache((*cache.key, key), (*cache.value, value), tuple(ancestor))
    return x_BK1D[:, :, 0], cache

  def _decoder(
    self, token_BKL, past, kv: CrossKV, bias, mask, segment_BK, until_BK=None
  ):
    c = self.config
    mask_BKS = segment_BK[:, :, None] == kv.segment_BS[:, None, :]
    if until_BK is not None:
      mask_BKS &= jnp.arange(mask_BKS.shape[2])[None, None] <= until_BK[..., None]
    x_BKLD = self.dropout(self.embedding.astype(c.dtype)[token_BKL])
    source = (kv.key_NBHAS, kv.value_NBHSA)
    x_BKLD, piece = self.decoder(x_BKLD, past, source, bias, mask, mask_BKS)
    x_BKLD = self.dropout(self.decoder_norm(x_BKLD))
    if kv.encoded_BSD is not None:
      x_BKLD += _newest(kv.encoded_BSD, mask_BKS)[:, :, None]
    return x_BKLD, piece

  def logits(self, state, token=None) -> jax.Array:
    """Returns the next token's logits […, V] of states […, D].

    With tokens [C], or [B, K, C] for states [B, K, D]: only these tokens' logits.
    """
    table, sizes = self.embedding.astype(self.config.dtype), "...d,vd->...v"
    if token is not None:
      table = table[token]
    if token is not None and token.ndim > 1:
      sizes = "bkd,bkcd->bkc"
    # Accumulated and returned in float32: rounded logits would make items tie.
    options = {"preferred_element_type": jnp.float32}
    return jnp.einsum(sizes, state * self.config.D**-0.5, table, **options)

  def __call__(self, token_BS, word_BS, segment_BS, token_BKL, segment_BK):
    """Encodes the source; returns the next tokens' logits_BKLV, of K targets a row."""
    source = token_BS, word_BS, segment_BS
    return self.logits(self.forced_states(*source, token_BKL, segment_BK))

  def forced_states(self, token_BS, word_BS, segment_BS, token_BKL, segment_BK):
    """Encodes the source; returns `states` of K targets per row, [B, K, L, D]."""
    encoded_BSD = self.encode(token_BS, word_BS, segment_BS)
    kv = self.precompute_cross_kv(encoded_BSD, segment_BS)
    return self.states(token_BKL, kv, segment_BK)


def _newest(encoded_BSD: jax.Array, mask_BKS: jax.Array) -> jax.Array:
  """Returns the state of the last position that each target reads; 0 if it has none."""
  last_BK = mask_BKS.shape[2] - 1 - jnp.argmax(mask_BKS[..., ::-1], axis=2)
  newest_BKD = jnp.take_along_axis(encoded_BSD, last_BK[..., None], axis=1)
  return jnp.where(mask_BKS.any(axis=2)[..., None], newest_BKD, 0)


def _query_key_value(c: Config, x: jax.Array):
  query = Projection(c.H, c.A, (c.D * c.A) ** -0.5, c.dtype, name="query")(x)
  key = Projection(c.H, c.A, c.D**-0.5, c.dtype, name="key")(x)
  value = Projection(c.H, c.A, c.D**-0.5, c.dtype, name="value")(x)
  return query, key, value


def _output(c: Config, mixed: jax.Array, name: str) -> jax.Array:
  """Projects the heads' results from […, H, A] to […, D]."""
  flat = mixed.reshape(*mixed.shape[:-2], c.H * c.A)
  return dense(c.D, (c.H * c.A) ** -0.5, c.dtype, name)(flat)


def _softmax(logits: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns the last axis's softmax where `mask` is true; uniform if all are false."""
  return jax.nn.softmax(jnp.where(mask, logits, -1e9), axis=-1)
