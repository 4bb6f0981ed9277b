"""LightLM (arXiv 2310.17488): writes the next item's id token by token under a trie.

The source is the user's id and the ids of the last items; each source token also
gets the embedding of its word (0 = the user, k = the k-th last item). The target is
the id of the item that followed.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import beam, trie
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems.base import System

PAD, START = 0, 1
NUM_SPECIALS = 2


class Tables(NamedTuple):
  """Codes in the model's vocabulary (-1 = padding) and the trie of the items."""

  item_code_IL: jax.Array
  user_code_UL: jax.Array
  trie: trie.DenseTrie


class Source(NamedTuple):
  """What the encoder reads, right-aligned; segment 0 is padding."""

  token_BS: jax.Array
  word_BS: jax.Array
  segment_BS: jax.Array


def build(config: ml_collections.ConfigDict, codes: CodeBook) -> System:
  """The system of one configuration over one code book."""
  vocab_size = NUM_SPECIALS + codes.vocab_size
  item_code_IL = shift(codes.items_IL)
  item_trie, rank_I = trie.build_dense(
    item_code_IL, vocab_size, config.decoding.trie_bytes
  )
  tables = Tables(item_code_IL, shift(codes.users_UL), item_trie)
  net = encoder_decoder.EncoderDecoder(model_config(config, vocab_size))
  user_dropout = config.input.user_dropout
  label_smoothing = config.train.label_smoothing

  def init(rng):
    zero = functools.partial(jnp.zeros, dtype=jnp.int32)
    source = Source(zero((1, 1)), zero((1, 1)), zero((1, 1)))
    return net.init(rng, *source, zero((1, 1, 1)), zero((1, 1)))["params"]

  def loss(params, tables: Tables, batch: Batch, rng):
    """Cross-entropy averaged over a target's tokens, then over the batch."""
    user_rng, dropout_rng = jax.random.split(rng)
    keep_B = jax.random.bernoulli(user_rng, 1 - user_dropout, batch.user_B.shape)
    keep_B |= (batch.history_BH < 0).all(axis=1)
    batch = batch._replace(user_B=jnp.where(keep_B, batch.user_B, -1))
    source = write_source(tables, batch, with_user=config.input.user)
    target_BL = tables.item_code_IL[batch.target_B]
    logits_BLV = net.apply(
      {"params": params},
      *source,
      shift_right(target_BL)[:, None],
      jnp.ones((len(target_BL), 1), jnp.int32),
      rngs={"dropout": dropout_rng},
    )[:, 0]
    real_BL = target_BL >= 0
    cross_entropy_BL = token_cross_entropy(logits_BLV, target_BL, label_smoothing)
    per_target_B = (cross_entropy_BL * real_BL).sum(1) / real_BL.sum(1)
    value = (per_target_B * batch.weight_B).sum() / batch.weight_B.sum()
    return value, {"loss": value}

  def find(params, tables: Tables, batch: Batch, item_trie, allowed, beam_size):
    B = len(batch.user_B)
    source = write_source(tables, batch, with_user=config.input.user)
    apply = functools.partial(net.apply, {"params": params})
    encoded_BSD = apply(*source, method="encode")
    memory = apply(encoded_BSD, source.segment_BS, method="remember")

    def step(token_BK, cache):
      segment_BK = jnp.ones_like(token_BK)
      logits_BK1V, cache = apply(
        token_BK[..., None], memory, segment_BK, cache, method="decode"
      )
      return logits_BK1V[:, :, 0], cache

    return beam.search(
      step,
      apply(B, 1, method="no_cache"),
      item_trie,
      allowed,
      B=B,
      depth=tables.item_code_IL.shape[1],
      beam_size=beam_size,
      start_token=START,
      length_penalty=config.decoding.length_penalty,
    )

  def recommend(
    params, tables: Tables, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    beam_size = max(k, config.decoding.beam_size)
    beams = find(params, tables, batch, tables.trie, allowed, beam_size)
    return beam.recommendations(
      beams, tables.trie, k=k, length_penalty=config.decoding.length_penalty
    )

  def hallucinated(params, tables: Tables, batch: Batch) -> jax.Array:
    """[B, K] bool: the beams of a search without the trie that are no item."""
    free = beam.unconstrained(tables.trie)
    beams = find(params, tables, batch, free, None, config.decoding.beam_size)
    return beam.hallucinated(beams, tables.trie)

  return System(
    name="lightlm",
    example="target",
    max_history=config.input.history,
    tables=tables,
    rank_I=rank_I,
    init=init,
    loss=loss,
    recommend=recommend,
    hallucinated=hallucinated,
  )


def model_config(
  config: ml_collections.ConfigDict, vocab_size: int
) -> encoder_decoder.Config:
  """The transformer's shape from the fields `config.model.*`."""
  m = config.model
  return encoder_decoder.Config(
    V=vocab_size,
    W=1 + config.input.history if m.whole_word else 0,
    D=m.d_model,
    N=m.num_layers,
    num_decoder_layers=m.num_decoder_layers,
    H=m.num_heads,
    A=m.d_kv,
    F=m.d_ff,
    dropout_rate=m.dropout_rate,
    dtype=jnp.dtype(m.dtype),
  )


def shift(code: np.ndarray) -> np.ndarray:
  """Code tokens → the model's tokens, behind the specials; padding stays -1."""
  return np.where(code >= 0, code + NUM_SPECIALS, -1).astype(np.int32)


def shift_right(target_BL: jax.Array) -> jax.Array:
  """The decoder's input: the start token, then the target without its last."""
  start_B1 = jnp.full((len(target_BL), 1), START, jnp.int32)
  return jnp.concatenate([start_B1, jnp.maximum(target_BL[:, :-1], PAD)], axis=1)


def write_source(tables: Tables, batch: Batch, *, with_user: bool) -> Source:
  """The codes of the user and of the history, holes closed, newest item last."""
  B, H = batch.history_BH.shape
  item_L = tables.item_code_IL.shape[1]
  known_BH1 = batch.history_BH[..., None] >= 0
  code_BHL = jnp.where(
    known_BH1, tables.item_code_IL[jnp.maximum(batch.history_BH, 0)], -1
  )
  token_BS = code_BHL.reshape(B, H * item_L)
  word_S = jnp.repeat(jnp.arange(H, 0, -1), item_L)
  segment_BS = jnp.repeat(batch.segment_BH, item_L, axis=1)
  if with_user:
    known_B1 = batch.user_B[:, None] >= 0
    user_BL = tables.user_code_UL[jnp.maximum(batch.user_B, 0)]
    user_BL = jnp.where(known_B1, user_BL, -1)
    token_BS = jnp.concatenate([user_BL, token_BS], axis=1)
    word_S = jnp.concatenate([jnp.zeros(user_BL.shape[1], jnp.int32), word_S])
    segment_BS = jnp.concatenate([jnp.ones_like(user_BL), segment_BS], axis=1)
  real_BS = token_BS >= 0
  order_BS = jnp.argsort(real_BS, axis=1, stable=True)
  word_BS = jnp.broadcast_to(word_S[None], token_BS.shape)
  return Source(
    *(
      jnp.take_along_axis(jnp.where(real_BS, value_BS, 0), order_BS, axis=1)
      for value_BS in (token_BS, word_BS, segment_BS)
    )
  )


def token_cross_entropy(logits_BLV, target_BL, label_smoothing: float) -> jax.Array:
  """[B, L] float32; where the target is padding the value means nothing."""
  label_BL = jnp.maximum(target_BL, 0)
  loss_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, label_BL)
  if not label_smoothing:
    return loss_BL
  uniform_BL = -jax.nn.log_softmax(logits_BLV).mean(axis=-1)
  return (1 - label_smoothing) * loss_BL + label_smoothing * uniform_BL
