"""LightLM (arXiv 2310.17488): writes the next item's id token by token under a trie.

What it reads and writes is in text.py: the user and the last items, or with
`input.history = 0` the user alone, which is the paper's task. There the target of an
example is drawn from all that the user bought, because nothing in the source says
when.
"""

from collections.abc import Callable
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from lightlm_jax.data import packing
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.decoding import beam, exact, trie
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.models import encoder_decoder
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_scores
from lightlm_jax.systems import token_sequences as text
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


def build(
  config: ml_collections.ConfigDict, codes: CodeBook, train: Interactions | None = None
) -> System:
  """The system of one configuration over one code book.

  Args:
    config: of a run.
    codes: of the users and the catalogue of `train`.
    train: what is learned from; where examples share rows (`train.pack`) it says how
      wide rows are. None = each has its own.

  Raises:
    UserError: see `check`.
  """
  check(config)
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
  rows = None
  most = examples_a_row(config)
  if train is not None and most > 1:
    rows = packing.rows(source_lengths(config.input, codes, train), most)
  # What all targets begin with tells none from another.
  alike = int((target_IL == target_IL[:1]).all(axis=0).argmin())
  state_of = config.decoding.state
  user_dropout = config.input.user_dropout
  label_smoothing = config.train.label_smoothing
  lengths = {
    "length_penalty": config.decoding.length_penalty,
    "length_offset": config.decoding.length_offset,
  }

  def write_source(tables: Tables, batch: Batch, width: int | None = None):
    if prompt:
      return text.write_prompt(tables.user_code_UL, batch)
    return text.write_history(
      tables.user_code_UL,
      tables.item_code_IL,
      batch,
      with_user=config.input.user,
      in_order=config.input.order == "time",
      width=width,
    )

  def init(rng):
    zero = functools.partial(jnp.zeros, dtype=jnp.int32)
    source = text.Source(zero((1, 1)), zero((1, 1)), zero((1, 1)))
    return net.init(rng, *source, zero((1, 1, 1)), zero((1, 1)))["params"]

  def loss(params, tables: Tables, batch: Batch, rng):
    """Cross-entropy averaged over a target's tokens, then over the batch."""
    user_rng, dropout_rng = jax.random.split(rng)
    user_BK, target_BK, weight_BK = (
      x.reshape(len(x), -1) for x in (batch.user_B, batch.target_B, batch.weight_B)
    )
    segment_BK = jnp.broadcast_to(
      jnp.arange(1, target_BK.shape[1] + 1)[None], target_BK.shape
    )
    has_history_BK = (batch.segment_BH[:, None] == segment_BK[..., None]).any(axis=-1)
    keep_BK = jax.random.bernoulli(user_rng, 1 - user_dropout, user_BK.shape)
    user_BK = jnp.where(keep_BK | ~has_history_BK, user_BK, -1)
    batch = batch._replace(user_B=user_BK.reshape(batch.user_B.shape))
    source = write_source(tables, batch, None if rows is None else rows.width)
    target_BKL = jnp.where(
      target_BK[..., None] >= 0, tables.target_IL[jnp.maximum(target_BK, 0)], -1
    )
    logits_BKLV = net.apply(
      {"params": params},
      *source,
      shift_right(target_BKL),
      segment_BK,
      rngs={"dropout": dropout_rng},
    )
    real_BKL = target_BKL >= 0
    cross_entropy_BKL = token_cross_entropy(logits_BKLV, target_BKL, label_smoothing)
    number_BK = jnp.maximum(real_BKL.sum(axis=-1), 1)
    per_target_BK = (cross_entropy_BKL * real_BKL).sum(axis=-1) / number_BK
    value = (per_target_BK * weight_BK).sum() / weight_BK.sum()
    weighs_BK = weight_BK > 0
    read_BK = (source.segment_BS[:, None] == segment_BK[..., None]).sum(axis=-1)
    tokens = ((read_BK + real_BKL.sum(axis=-1)) * weighs_BK).sum()
    return value, {
      "tokens": tokens,
      "places": source.token_BS.size + target_BKL.size,
    }

  def read(params, tables: Tables, batch: Batch):
    """The model as functions of tokens alone, with what it remembers of the source."""
    source = write_source(tables, batch)
    apply = functools.partial(net.apply, {"params": params})
    memory = apply(
      apply(*source, method="encode"), source.segment_BS, method="remember"
    )
    return apply, memory

  def state(params, tables: Tables, batch: Batch) -> jax.Array:
    """[B, D] float32: the source's mean, or what decides on the first token."""
    if state_of == "encoder":
      source = write_source(tables, batch)
      encoded_BSD = net.apply({"params": params}, *source, method="encode")
      real_BS1 = (source.segment_BS > 0)[..., None]
      number_B1 = jnp.maximum(real_BS1.sum(axis=1), 1)
      total_BD = jnp.where(real_BS1, encoded_BSD, 0).sum(axis=1, dtype=jnp.float32)
      return total_BD / number_B1
    apply, memory = read(params, tables, batch)
    told_L = shift_right(tables.target_IL[0, : alike + 1])
    told_B1L = jnp.broadcast_to(told_L, (len(batch.user_B), 1, alike + 1))
    segment_B1 = jnp.ones_like(told_B1L[..., 0])
    state_B1LD = apply(told_B1L, memory, segment_B1, method="states")
    return state_B1LD[:, 0, -1].astype(jnp.float32)

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
      B=batch.user_B.shape[0],
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

  def nll(params, tables: Tables, batch: Batch) -> jax.Array:
    """[B] float32: the trie is not asked, as in training."""
    apply, memory = read(params, tables, batch)
    return written_nll(apply, memory, tables.target_IL, batch.target_B)

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
    rows=rows,
    tables=tables,
    rank_I=rank_I,
    init=init,
    loss=loss,
    recommend=recommend if chunks is None else recommend_exactly,
    nll=nll,
    hallucinated=hallucinated,
    state=state,
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
    remat=m.remat,
  )


def init_embedding(rng, shape, dtype=jnp.float32, *, first_code: int, id_range: float):
  """[V, D]: normal, std 1; the ids' rows uniform in ±`id_range` if it is not 0."""
  table_VD = nn.initializers.normal(1.0)(rng, shape, dtype)
  if not id_range:
    return table_VD
  ids_VD = jax.random.uniform(rng, shape, dtype, -id_range, id_range)
  return jnp.where(jnp.arange(shape[0])[:, None] < first_code, table_VD, ids_VD)


def shift_right(target: jax.Array) -> jax.Array:
  """The decoder's input [..., L]: the start token, then the target without its last."""
  start = jnp.full_like(target[..., :1], text.START)
  return jnp.concatenate([start, jnp.maximum(target[..., :-1], text.PAD)], axis=-1)


def written_nll(
  apply: Callable,
  memory: encoder_decoder.Memory,
  target_IL: jax.Array,
  target_B: jax.Array,
) -> jax.Array:
  """[B] float32: -log of how likely the decoder writes an item's whole code.

  Args:
    apply: the model as a function of tokens alone.
    memory: what it remembers of each source.
    target_IL: int32, the items' codes, -1 = padding.
    target_B: int32, which item.
  """
  target_B1L = target_IL[jnp.maximum(target_B, 0)][:, None]
  segment_B1 = jnp.ones_like(target_B1L[..., 0])
  logits_B1LV = apply(shift_right(target_B1L), memory, segment_B1, method="decode")
  cross_entropy_B1L = token_cross_entropy(logits_B1LV, target_B1L, 0.0)
  return jnp.where(target_B1L >= 0, cross_entropy_B1L, 0).sum(axis=(1, 2))


def token_cross_entropy(logits, target, label_smoothing: float) -> jax.Array:
  """[…, L] float32 of [..., L, V]; where the target is padding it means nothing."""
  label = jnp.maximum(target, 0)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  if not label_smoothing:
    return loss
  uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
  return (1 - label_smoothing) * loss + label_smoothing * uniform


def source_lengths(
  config: ml_collections.ConfigDict, codes: CodeBook, train: Interactions
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


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses a source that would be empty, and what a prompt has no place for.

  Raises:
    UserError: says what to give.
  """
  given = config.input
  if not given.history and not given.user:
    raise UserError(
      "config.input.history is 0 and config.input.user false: there is nothing to "
      "read; set one of them"
    )
  if given.prompt and (given.history or not given.user):
    raise UserError(
      "config.input.prompt writes the paper's sentence about a user; it wants "
      "config.input.history=0 and config.input.user=True"
    )


def examples_a_row(config: ml_collections.ConfigDict) -> int:
  """How many examples may share a row of a batch; 1 where there is nothing to gain.

  Without histories all sources are nearly of one length. Other systems have no such
  rows.
  """
  if config.system != "lightlm" or not config.input.history:
    return 1
  return config.train.pack


def _with_room(code_NL: np.ndarray) -> np.ndarray:
  """`code_NL` with rows of padding up to its capacity."""
  room = trie.capacity(len(code_NL) + 1) - len(code_NL)
  return np.pad(code_NL, ((0, room), (0, 0)), constant_values=-1)
