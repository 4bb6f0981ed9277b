"""Writing an item's id, token by token: shared by all systems with such a decoder.

`lightlm` and `lite_llm4rec_beam` read different sources. Both have a decoder that reads
the encoded source by cross-attention and writes the id: under the trie, with the codes
of all items teacher-forced (exact), or without a constraint.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from lightlm_jax.decoding import beam, exact
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.trie import Trie
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems import base, item_scores
from lightlm_jax.systems.item_scores import allowed_items
from lightlm_jax.systems.token_sequences import PAD, START

DECODINGS = ("beam", "beam_renormalised", "exact", "unconstrained")


class IdTables(Protocol):
  """The part of a system's tables that holds its items' ids."""

  @property
  def target_IL(self) -> Any:
    """int32, the codes in the decoder's tokens, -1 = padding."""
    ...

  @property
  def trie(self) -> Trie:
    """The trie of these codes."""
    ...


class Decoder(NamedTuple):
  """A decoder that has read its sources: functions of tokens alone, K targets a row.

  Attributes:
    apply: `EncoderDecoder.apply` with its parameters.
    kv: of the sources.
  """

  apply: Callable[..., Any]
  kv: encoder_decoder.CrossKV

  @property
  def batch_size(self) -> int:
    """B, the number of sources."""
    return self.kv.segment_BS.shape[0]

  def logits(self, decoder_input_BKL: jax.Array) -> jax.Array:
    """[B, K, L, V] float32 of the tokens that follow, teacher-forced."""
    segment_BK = jnp.ones_like(decoder_input_BKL[..., 0])
    return self.apply(decoder_input_BKL, self.kv, segment_BK, method="decode")

  def states(self, decoder_input_BKL: jax.Array) -> jax.Array:
    """[B, K, L, D], the last hidden states, teacher-forced."""
    segment_BK = jnp.ones_like(decoder_input_BKL[..., 0])
    return self.apply(decoder_input_BKL, self.kv, segment_BK, method="states")

  def step(self, token_BK: jax.Array, parent_BK: jax.Array, cache: Any):
    """One more token of each beam, as `beam.search` asks for it."""
    segment_BK = jnp.ones_like(token_BK)
    return self.apply(token_BK, parent_BK, self.kv, segment_BK, cache, method="extend")


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdWriter:
  """How ids are written.

  Attributes:
    kind: of DECODINGS.
    beam_size: the fewest beams of a search.
    length_penalty: see `beam.Options`.
    length_offset: likewise.
    end_token: likewise.
  """

  kind: str
  beam_size: int
  length_penalty: float
  length_offset: float
  end_token: int | None = None

  def recommend(
    self, decoder: Decoder, tables: IdTables, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """The K best items by a beam search."""
    options = self._options(max(k, self.beam_size), self.kind != "unconstrained")
    beams = self._search(decoder, tables.trie, allowed, options)
    if not options.constrained:
      beams = beam.without_excluded(beams, tables.trie, allowed)
    return beam.recommendations(beams, tables.trie, options, k=k)

  def recommend_exactly(
    self,
    decoder: Decoder,
    tables: IdTables,
    chunks: exact.Chunks,
    allowed: Allowed,
    *,
    k: int,
  ) -> Recommendations:
    """The K best items, the ids of all items scored.

    Args:
      chunks: the codes of `tables.target_IL`, see `exact.chunks`.
    """
    score_BR = self.exact_scores(decoder, tables, chunks)
    allowed_BR = allowed_items(allowed, score_BR.shape[1])
    allowed_BR &= (tables.trie.item_R[:-1] >= 0)[None]
    best = item_scores.top_items(score_BR, allowed_BR, k)
    items_BK = jnp.where(best.valid_BK, tables.trie.item_R[best.items_BK], -1)
    return best._replace(items_BK=items_BK)

  def exact_scores(
    self, decoder: Decoder, tables: IdTables, chunks: exact.Chunks
  ) -> jax.Array:
    """[B, R] float32 by rank; columns behind the last item mean nothing."""

    def force(decoder_input_QL):
      shape = (decoder.batch_size, *decoder_input_QL.shape)
      return decoder.logits(jnp.broadcast_to(decoder_input_QL[None], shape))

    return exact.scores(
      force,
      chunks,
      num_ranks=len(tables.trie.item_R) - 1,
      start_token=START,
      length_penalty=self.length_penalty,
      length_offset=self.length_offset,
    )

  def nll(self, decoder: Decoder, tables: IdTables, target_B: jax.Array) -> jax.Array:
    """[B] float32: -log p(the target's whole code), without the trie, as in training.

    Args:
      target_B: int32 catalogue indices.
    """
    target_B1L = tables.target_IL[jnp.maximum(target_B, 0)][:, None]
    logits_B1LV = decoder.logits(shift_right(target_B1L))
    cross_entropy_B1L = token_cross_entropy(logits_B1LV, target_B1L, 0.0)
    return jnp.where(target_B1L >= 0, cross_entropy_B1L, 0).sum(axis=(1, 2))

  def invalid_beams(self, decoder: Decoder, tables: IdTables) -> jax.Array:
    """[B, K] bool: the beams of a search without the trie that are no item."""
    options = self._options(self.beam_size, constrained=False)
    beams = self._search(decoder, tables.trie, None, options)
    return beam.invalid_beams(beams, tables.trie)

  def _search(
    self, decoder: Decoder, trie: Trie, allowed: Allowed | None, options: beam.Options
  ) -> beam.Beams:
    cache = encoder_decoder.Cache()
    return beam.search(
      decoder.step, cache, trie, allowed, options, B=decoder.batch_size
    )

  def _options(self, beam_size: int, constrained: bool) -> beam.Options:
    return beam.Options(
      beam_size=beam_size,
      start_token=START,
      end_token=self.end_token,
      length_penalty=self.length_penalty,
      length_offset=self.length_offset,
      renormalise=self.kind == "beam_renormalised",
      constrained=constrained,
    )


def opened(
  net: nn.Module, params: Any, encoded_BSD: jax.Array, segment_BS: jax.Array
) -> Decoder:
  """The decoder of `net`, an `EncoderDecoder`, after it read encoded sources."""
  apply = functools.partial(base.apply, net, params)
  kv = apply(encoded_BSD, segment_BS, method="precompute_cross_kv")
  return Decoder(apply, kv)


def shift_right(target: jax.Array) -> jax.Array:
  """The decoder's input [..., L]: the start token, then the target without its last."""
  start = jnp.full_like(target[..., :1], START)
  return jnp.concatenate([start, jnp.maximum(target[..., :-1], PAD)], axis=-1)


def token_cross_entropy(
  logits: jax.Array, target: jax.Array, label_smoothing: float
) -> jax.Array:
  """[…, L] float32 of [..., L, V]; where the target is padding it means nothing."""
  label = jnp.maximum(target, 0)
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, label)
  if not label_smoothing:
    return loss
  uniform = -jax.nn.log_softmax(logits).mean(axis=-1)
  return (1 - label_smoothing) * loss + label_smoothing * uniform
