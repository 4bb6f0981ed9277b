"""Beam search under a trie: one compiled program, exact scores, live filters."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding import filters
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.top_k import top_k
from lightlm_jax.decoding.trie import Trie


class Beams(NamedTuple):
  """K hypotheses a row, best first; empty slots score -inf."""

  state_BK: jax.Array  # int32 trie state
  log_prob_BK: jax.Array  # float32, summed over the generated tokens
  length_BK: jax.Array  # int32 generated tokens, a terminator counted, the start not
  token_BK: jax.Array  # int32, the last token
  parent_BK: jax.Array  # int32, the slot that each came from in the step before


def search(
  step: Callable[[jax.Array, jax.Array, Any], tuple[jax.Array, Any]],
  cache: Any,
  trie: Trie,
  allowed: Allowed | None,
  *,
  B: int,
  beam_size: int,
  start_token: int,
  end_token: int | None = None,
  length_penalty: float,
  length_offset: float = 0.0,
  renormalise: bool = False,
  constrained: bool = True,
) -> Beams:
  """Finds the best codes of each of B rows.

  Every step expands all open children of all beams and keeps the best by the same
  score that ranks the result: summed log-probability over `length_norm`.
  Finished beams keep their slot. The first step expands one row, not K. With as many
  beams as the trie has nodes at any level the search is exact.

  Args:
    step: (token_BK, parent_BK, cache) → (logits_BKV, cache with one more position):
      beam k continues what beam `parent[k]` was in the call before. K = 1 at first.
    cache: what the first step is given.
    trie: over the vocabulary of the logits.
    allowed: which items each row may get; None = the trie alone decides.
    beam_size: the most hypotheses that a row keeps.
    start_token: what the first step reads.
    end_token: ends a beam even where the trie knows no such item; None = leaves do.
    length_penalty: 0 = summed log-probability, 1 = its mean over the tokens.
    length_offset: see `length_norm`.
    renormalise: log-probabilities over the open children alone, not the vocabulary.
    constrained: false = any token may follow, the trie only keeps the books and
      `allowed` is not looked at.
  """
  masked = allowed is not None and allowed.prefix_MI1.shape[0] > 0
  # Shared masks count items in the order in which children are listed.
  dense = not masked
  paths = None
  if constrained and allowed is not None and allowed.excluded_BE.shape[1]:
    paths = filters.paths(trie, allowed)
  zero_B1 = jnp.zeros((B, 1), jnp.int32)
  beams = Beams(
    state_BK=zero_B1,
    log_prob_BK=zero_B1.astype(jnp.float32),
    length_BK=zero_B1,
    token_BK=jnp.full((B, 1), start_token, jnp.int32),
    parent_BK=zero_B1,
  )
  for level in range(trie.depth):
    logits_BKV, cache = step(beams.token_BK, beams.parent_BK, cache)
    state_BK = beams.state_BK
    finished_BK1 = trie.ended(state_BK, level)[..., None]
    if end_token is not None:
      finished_BK1 |= (beams.token_BK == end_token)[..., None]
    if constrained:
      token_BKC, _, open_BKC = trie.children(state_BK, level, dense)
      if masked:
        open_BKC &= filters.open_in_mask(trie, allowed, state_BK, level)
      if paths is not None:
        open_BKC = filters.without(open_BKC, trie, paths[level], state_BK, level, dense)
    else:
      token_BKC = jnp.arange(logits_BKV.shape[-1])[None, None]
      token_BKC = jnp.broadcast_to(token_BKC, logits_BKV.shape)
      open_BKC = ~finished_BK1 | (token_BKC == 0)
    logits_BKC = logits_BKV
    if constrained and not trie.by_mask(level, dense):
      here_BKC = jnp.minimum(token_BKC, trie.vocab_size - 1)
      logits_BKC = jnp.take_along_axis(logits_BKV, here_BKC, axis=2)
    if renormalise:
      within_BKC = jnp.where(open_BKC, logits_BKC, -jnp.inf)
      total_BK1 = jax.nn.logsumexp(within_BKC, axis=2, keepdims=True)
    else:
      total_BK1 = jax.nn.logsumexp(logits_BKV, axis=2, keepdims=True)

    # A finished beam has one child, itself, which costs nothing.
    gain_BKC = jnp.where(finished_BK1, 0.0, logits_BKC - total_BK1)
    length_BK1 = jnp.where(finished_BK1, beams.length_BK[..., None], level + 1)
    log_prob_BKC = beams.log_prob_BK[..., None] + gain_BKC
    key_BKC = log_prob_BKC / length_norm(length_BK1, length_penalty, length_offset)
    key_BKC = jnp.where(open_BKC, key_BKC, -jnp.inf)
    _, K, C = key_BKC.shape
    key_BK, flat_BK = top_k(key_BKC.reshape(B, K * C), min(beam_size, K * C))
    parent_BK, column_BK = flat_BK // C, flat_BK % C

    def of_parent(value_BK, parent_BK=parent_BK):
      return jnp.take_along_axis(value_BK, parent_BK, axis=1)

    token_BK = jnp.take_along_axis(token_BKC.reshape(B, K * C), flat_BK, axis=1)
    if constrained:
      state_BK = trie.child(of_parent(state_BK), column_BK, level, dense)
    else:
      state_BK = trie.follow(of_parent(state_BK), token_BK, level)
    finished_BK = of_parent(finished_BK1[..., 0])
    length_BK = of_parent(length_BK1[..., 0])
    beams = Beams(
      state_BK=jnp.where(key_BK > -jnp.inf, state_BK, trie.nowhere(level + 1)),
      log_prob_BK=key_BK * length_norm(length_BK, length_penalty, length_offset),
      length_BK=length_BK,
      token_BK=jnp.where(finished_BK, of_parent(beams.token_BK), token_BK),
      parent_BK=parent_BK,
    )
  return beams


def recommendations(
  beams: Beams, trie: Trie, *, k: int, length_penalty: float, length_offset: float = 0.0
) -> Recommendations:
  """The first k beams as catalogue items; -1 where there is none."""
  norm_BK = length_norm(beams.length_BK, length_penalty, length_offset)
  score_BK = beams.log_prob_BK / norm_BK
  item_BK = trie.item_R[beams.state_BK]
  valid_BK = (item_BK >= 0) & (score_BK > -jnp.inf)
  missing = max(0, k - score_BK.shape[1])

  def first_k(value_BK, fill):
    return jnp.pad(value_BK[:, :k], ((0, 0), (0, missing)), constant_values=fill)

  return Recommendations(
    items_BK=first_k(jnp.where(valid_BK, item_BK, -1), -1),
    scores_BK=first_k(jnp.where(valid_BK, score_BK, -jnp.inf), -jnp.inf),
    valid_BK=first_k(valid_BK, False),
  )


def hallucinated(beams: Beams, trie: Trie) -> jax.Array:
  """[B, K] bool: where a beam of an unconstrained search is no item; no empty slot."""
  return (trie.item_R[beams.state_BK] < 0) & (beams.log_prob_BK > -jnp.inf)


def without_closed(beams: Beams, trie: Trie, allowed: Allowed) -> Beams:
  """Drops items that a row may not get, after a search that did not know of them.

  The others move up; beams that are no item keep their order among them.
  """
  closed_BK = trie.item_R[beams.state_BK] >= 0
  closed_BK &= ~filters.is_open(allowed, beams.state_BK)
  log_prob_BK = jnp.where(closed_BK, -jnp.inf, beams.log_prob_BK)
  order_BK = jnp.argsort(closed_BK, axis=1, stable=True)
  beams = beams._replace(log_prob_BK=log_prob_BK)
  return Beams(*(jnp.take_along_axis(value, order_BK, axis=1) for value in beams))


def length_norm(length: jax.Array, penalty: float, offset: float = 0.0) -> jax.Array:
  """What sums are divided by: ((offset + n) / (offset + 1))**penalty.

  Without an offset it is n**penalty: 1 for 0, the number of tokens for 1 (Hugging
  Face's). T5's own search has the offset 5 (Wu et al. 2016, equation 14).
  """
  length = jnp.maximum(length, 1).astype(jnp.float32)
  return ((offset + length) / (offset + 1)) ** penalty
