"""LightLM (arXiv 2310.17488): writes the next item's id token by token under a trie.

What it reads and writes is in text.py: the user and the last items, or with
`input.history = 0` the user alone, which is the paper's task. There the target of an
example is drawn from all that the user bought, because nothing in the source says
when.
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import beam, exact, trie
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.errors import UserError
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems import item_scores, text
from lightlm_jax.systems.base import System

# What the logits of a chunk of forced prefixes may take, all users of a batch together.
EXACT_BYTES = 2**28
DECODINGS = ("beam", "beam_renormalised", "exact", "unconstrained")


class Tables(NamedTuple):
  """Codes in the model's vocabulary (-1 = padding) and the trie of the targets.

  All are padded to the trie's capacity (users likewise): see `trie.capacity`.
  """

  target_IL: jax.Array
  item_code_IL: jax.Array
  user_code_UL: jax.Array
  trie: trie.Trie
  chunks: exact.Chunks | None  # of `decoding.kind = "exact"`


def build(config: ml_collections.ConfigDict, codes: CodeBook) -> System:
  """The system of one configuration over one code book.

  Raises:
    UserError: the source would be empty, or the prompt has no place for a history.
  """
  check_input(config.input)
  prompt = config.input.prompt
  vocab_size = text.first_code_token(prompt) + codes.vocab_size
  item_code_IL = text.shift(codes.items_IL, prompt)
  target_IL = text.answer(item_code_IL) if prompt else item_code_IL
  item_trie, rank_I = trie.build(target_IL, vocab_size, config.decoding.trie_bytes)
  chunks = None
  if config.decoding.kind == "exact":
    a_prefix = config.train.eval_batch_size * target_IL.shape[1] * vocab_size * 4
    in_order_RL = target_IL[item_trie.item_R[: len(target_IL)]]
    chunks = exact.chunks(in_order_RL, max(1, EXACT_BYTES // a_prefix))
  tables = Tables(
    *(_with_room(code) for code in (target_IL, item_code_IL)),
    _with_room(text.shift(codes.users_UL, prompt)),
    item_trie,
    chunks,
  )
  net = encoder_decoder.EncoderDecoder(model_config(config, vocab_size))
  user_dropout = config.input.user_dropout
  label_smoothing = config.train.label_smoothing
  lengths = {
    "length_penalty": config.decoding.length_penalty,
    # Runs from before there was an offset have none in their config.json.
    "length_offset": config.decoding.get("length_offset", 0.0),
  }

  def write_source(tables: Tables, batch: Batch) -> text.Source:
    if prompt:
      return text.write_prompt(tables.user_code_UL, batch)
    return text.write_history(
      tables.user_code_UL, tables.item_code_IL, batch, with_user=config.input.user
    )

  def init(rng):
    zero = functools.partial(jnp.zeros, dtype=jnp.int32)
    source = text.Source(zero((1, 1)), zero((1, 1)), zero((1, 1)))
    return net.init(rng, *source, zero((1, 1, 1)), zero((1, 1)))["params"]

  def loss(params, tables: Tables, batch: Batch, rng):
    """Cross-entropy averaged over a target's tokens, then over the batch."""
    user_rng, dropout_rng = jax.random.split(rng)
    keep_B = jax.random.bernoulli(user_rng, 1 - user_dropout, batch.user_B.shape)
    keep_B |= (batch.history_BH < 0).all(axis=1)
    batch = batch._replace(user_B=jnp.where(keep_B, batch.user_B, -1))
    source = write_source(tables, batch)
    target_BL = tables.target_IL[batch.target_B]
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
    token_B = (source.segment_BS > 0).sum(axis=1) + real_BL.sum(axis=1)
    places = source.token_BS.size + target_BL.size
    return value, {"tokens": (token_B * (batch.weight_B > 0)).sum(), "places": places}

  def read(params, tables: Tables, batch: Batch):
    """The model as functions of tokens alone, with what it remembers of the source."""
    source = write_source(tables, batch)
    apply = functools.partial(net.apply, {"params": params})
    memory = apply(
      apply(*source, method="encode"), source.segment_BS, method="remember"
    )
    return apply, memory

  def search(params, tables: Tables, batch: Batch, allowed, beam_size, constrained):
    apply, memory = read(params, tables, batch)

    def step(token_BK, parent_BK, cache):
      segment_BK = jnp.ones_like(token_BK)
      return apply(token_BK, parent_BK, memory, segment_BK, cache, method="extend")

    return beam.search(
      step,
      encoder_decoder.Cache(),
      tables.trie,
      allowed,
      B=len(batch.user_B),
      beam_size=beam_size,
      start_token=text.START,
      end_token=text.END if prompt else None,
      **lengths,
      renormalise=config.decoding.kind == "beam_renormalised",
      constrained=constrained,
    )

  def recommend(
    params, tables: Tables, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    beam_size = max(k, config.decoding.beam_size)
    constrained = config.decoding.kind != "unconstrained"
    beams = search(params, tables, batch, allowed, beam_size, constrained)
    if not constrained:
      beams = beam.without_closed(beams, tables.trie, allowed)
    return beam.recommendations(beams, tables.trie, k=k, **lengths)

  def hallucinated(params, tables: Tables, batch: Batch) -> jax.Array:
    """[B, K] bool: the beams of a search without the trie that are no item."""
    beam_size = config.decoding.beam_size
    beams = search(params, tables, batch, None, beam_size, constrained=False)
    return beam.hallucinated(beams, tables.trie)

  def scores(params, tables: Tables, batch: Batch) -> jax.Array:
    """[B, R] float32 by rank; what stands behind the last item means nothing."""
    apply, memory = read(params, tables, batch)
    B = len(batch.user_B)

    def force(told_QL):
      told_BQL = jnp.broadcast_to(told_QL[None], (B, *told_QL.shape))
      return apply(told_BQL, memory, jnp.ones_like(told_BQL[..., 0]), method="decode")

    return exact.scores(
      force,
      tables.chunks,
      num_ranks=len(tables.trie.item_R) - 1,
      start_token=text.START,
      **lengths,
    )

  def recommend_exactly(
    params, tables: Tables, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    score_BR = scores(params, tables, batch)
    open_BR = item_scores.open_items(allowed, score_BR.shape[1])
    open_BR &= (tables.trie.item_R[:-1] >= 0)[None]
    best = item_scores.top_items(score_BR, open_BR, k)
    items_BK = jnp.where(best.valid_BK, tables.trie.item_R[best.items_BK], -1)
    return best._replace(items_BK=items_BK)

  return System(
    name="lightlm",
    example="target" if config.input.history else "drawn",
    max_history=config.input.history,
    tables=tables,
    rank_I=rank_I,
    init=init,
    loss=loss,
    recommend=recommend if chunks is None else recommend_exactly,
    hallucinated=hallucinated,
  )


def model_config(
  config: ml_collections.ConfigDict, vocab_size: int
) -> encoder_decoder.Config:
  """The transformer's shape from the fields `config.model.*`."""
  m = config.model
  words = text.NUM_PROMPT_WORDS if config.input.prompt else 1 + config.input.history
  first_code = text.first_code_token(config.input.prompt)
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
    embedding_init=functools.partial(
      init_embedding, first_code=first_code, id_range=m.id_range
    ),
    dtype=jnp.dtype(m.dtype),
  )


def init_embedding(rng, shape, dtype=jnp.float32, *, first_code: int, id_range: float):
  """[V, D]: normal, std 1; the ids' rows uniform in ±`id_range` if it is not 0."""
  table_VD = nn.initializers.normal(1.0)(rng, shape, dtype)
  if not id_range:
    return table_VD
  ids_VD = jax.random.uniform(rng, shape, dtype, -id_range, id_range)
  return jnp.where(jnp.arange(shape[0])[:, None] < first_code, table_VD, ids_VD)


def shift_right(target_BL: jax.Array) -> jax.Array:
  """The decoder's input: the start token, then the target without its last."""
  start_B1 = jnp.full((len(target_BL), 1), text.START, jnp.int32)
  return jnp.concatenate([start_B1, jnp.maximum(target_BL[:, :-1], text.PAD)], axis=1)


def token_cross_entropy(logits_BLV, target_BL, label_smoothing: float) -> jax.Array:
  """[B, L] float32; where the target is padding the value means nothing."""
  label_BL = jnp.maximum(target_BL, 0)
  loss_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, label_BL)
  if not label_smoothing:
    return loss_BL
  uniform_BL = -jax.nn.log_softmax(logits_BLV).mean(axis=-1)
  return (1 - label_smoothing) * loss_BL + label_smoothing * uniform_BL


def check_input(config: ml_collections.ConfigDict) -> None:
  """Refuses a source that would be empty, and a prompt with no place for a history.

  Args:
    config: the group `config.input`.
  """
  if not config.history and not config.user:
    raise UserError(
      "config.input.history is 0 and config.input.user false: there is nothing to "
      "read; set one of them"
    )
  if config.prompt and (config.history or not config.user):
    raise UserError(
      "config.input.prompt writes the paper's sentence about a user; it wants "
      "config.input.history=0 and config.input.user=True"
    )


def _with_room(code_NL: np.ndarray) -> np.ndarray:
  """`code_NL` with rows of padding up to its capacity."""
  room = trie.capacity(len(code_NL) + 1) - len(code_NL)
  return np.pad(code_NL, ((0, room), (0, 0)), constant_values=-1)
