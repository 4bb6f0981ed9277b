"""Beam search under a trie: one compiled program, exact scores, live filters."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.trie import DenseTrie


class Beams(NamedTuple):
  """K hypotheses a row, best first; empty slots score -inf."""

  state_BK: jax.Array  # int32 trie state
  log_prob_BK: jax.Array  # float32, summed over the generated tokens
  length_BK: jax.Array  # int32 generated tokens, a terminator counted, the start not
  token_BK: jax.Array  # int32, the last token


def search(
  step: Callable[[jax.Array, Any], tuple[jax.Array, Any]],
  cache: Any,
  trie: DenseTrie,
  allowed: Allowed | None,
  *,
  B: int,
  beam_sizes: Sequence[int],
  start_token: int,
  end_token: int | None = None,
  length_penalty: float,
  renormalise: bool = False,
) -> Beams:
  """Finds the best codes of each of B rows.

  Every step expands all open children of all beams and keeps the best by the same
  score that ranks the result: summed log-probability over length**length_penalty.
  Finished beams keep their slot. The first step expands one row, not K. Beams as many
  as the trie has nodes at each inner level make the search exact.

  Args:
    step: (token_BK, cache) → (logits_BKV, cache with one more position).
    cache: pytree with leaves [N, B, K, …], K = 1 before the first step.
    trie: over the vocabulary of the logits.
    allowed: which items each row may get; None = the trie alone decides.
    beam_sizes: K after each step, as many as the longest code has tokens.
    start_token: what the first step reads.
    end_token: ends a beam even where the trie knows no such item; None = leaves do.
    length_penalty: 0 = summed log-probability, 1 = its mean over the tokens.
    renormalise: log-probabilities over the open children alone, not the vocabulary;
      a row's own exclusions do not count as closed there.
  """
  if allowed is not None:
    open_MTV = _open_children(trie, allowed)
    E = allowed.excluded_BE.shape[1]
  else:
    E = 0
  beams = Beams(
    state_BK=jnp.zeros((B, 1), jnp.int32),
    log_prob_BK=jnp.zeros((B, 1), jnp.float32),
    length_BK=jnp.zeros((B, 1), jnp.int32),
    token_BK=jnp.full((B, 1), start_token, jnp.int32),
  )
  for level, beam_size in enumerate(beam_sizes):
    logits_BKV, cache = step(beams.token_BK, cache)
    V = logits_BKV.shape[-1]
    row_BK = trie.row(beams.state_BK)
    finished_BK = trie.is_leaf(beams.state_BK)
    if end_token is not None:
      finished_BK |= beams.token_BK == end_token
    if allowed is None:
      open_BKV = trie.mask_TV[row_BK]
    else:
      open_BKV = open_MTV[allowed.mask_B[:, None], row_BK]
    within_BKV = open_BKV if renormalise else None
    log_prob_BKV = beams.log_prob_BK[..., None] + jnp.where(
      open_BKV, jax.nn.log_softmax(logits_BKV, where=within_BKV), -jnp.inf
    )
    # A finished beam has one continuation: itself, in the place of token 0.
    itself_V = jnp.where(jnp.arange(V) == 0, 0.0, -jnp.inf)
    log_prob_BKV = jnp.where(
      finished_BK[..., None],
      beams.log_prob_BK[..., None] + itself_V[None, None],
      log_prob_BKV,
    )
    length_BK = jnp.where(finished_BK, beams.length_BK, level + 1)
    key_BKV = log_prob_BKV / _norm(length_BK, length_penalty)[..., None]

    # A row's own exclusions can close at most E of its candidates, so the best
    # open ones are among the best beam_size + E: only those are looked up.
    K = beams.state_BK.shape[1]
    key_BJ, flat_BJ = jax.lax.top_k(
      key_BKV.reshape(B, K * V), min(beam_size + E, K * V)
    )
    parent_BJ, token_BJ = flat_BJ // V, flat_BJ % V

    def of_parent(value_BK, parent_BJ=parent_BJ):
      return jnp.take_along_axis(value_BK, parent_BJ, axis=1)

    state_BJ = jnp.where(
      of_parent(finished_BK),
      of_parent(beams.state_BK),
      trie.next_TV[of_parent(row_BK), token_BJ],
    )
    if E:
      key_BJ = jnp.where(_has_open_item(trie, allowed, state_BJ), key_BJ, -jnp.inf)
    width = min(beam_size, K * V)
    key_BK, best_BK = jax.lax.top_k(key_BJ, width)

    def of_best(value_BJ, best_BK=best_BK):
      return jnp.take_along_axis(value_BJ, best_BK, axis=1)

    length_BK = of_best(of_parent(length_BK))
    beams = Beams(
      state_BK=jnp.where(key_BK > -jnp.inf, of_best(state_BJ), trie.nowhere),
      log_prob_BK=key_BK * _norm(length_BK, length_penalty),
      length_BK=length_BK,
      token_BK=of_best(
        jnp.where(of_parent(finished_BK), of_parent(beams.token_BK), token_BJ)
      ),
    )
    parent_BK = of_best(parent_BJ)
    if level + 1 < len(beam_sizes):
      cache = jax.tree.map(
        lambda leaf, parent_BK=parent_BK: jax.vmap(
          lambda row, parent_K: row[:, parent_K], in_axes=(1, 0), out_axes=1
        )(leaf, parent_BK),
        cache,
      )
  return beams


def recommendations(
  beams: Beams, trie: DenseTrie, *, k: int, length_penalty: float
) -> Recommendations:
  """The first k beams as catalogue items; -1 where there is none."""
  score_BK = beams.log_prob_BK / _norm(beams.length_BK, length_penalty)
  valid_BK = trie.is_leaf(beams.state_BK) & (score_BK > -jnp.inf)
  item_BK = trie.item_R[trie.leaf_rank(beams.state_BK)]
  missing = max(0, k - score_BK.shape[1])

  def first_k(value_BK, fill):
    return jnp.pad(value_BK[:, :k], ((0, 0), (0, missing)), constant_values=fill)

  return Recommendations(
    items_BK=first_k(jnp.where(valid_BK, item_BK, -1), -1),
    scores_BK=first_k(jnp.where(valid_BK, score_BK, -jnp.inf), -jnp.inf),
    valid_BK=first_k(valid_BK, False),
  )


def hallucinated(beams: Beams, trie: DenseTrie) -> jax.Array:
  """[B, K] bool: where a beam of an unconstrained search is no item; no empty slot."""
  return ~trie.is_leaf(beams.state_BK) & (beams.log_prob_BK > -jnp.inf)


def without_closed(beams: Beams, trie: DenseTrie, allowed: Allowed) -> Beams:
  """Drops items that a row may not get, after a search that did not know of them.

  The others move up; beams that are no item keep their order among them.
  """
  closed_BK = trie.is_leaf(beams.state_BK)
  closed_BK &= ~_has_open_item(trie, allowed, beams.state_BK)
  log_prob_BK = jnp.where(closed_BK, -jnp.inf, beams.log_prob_BK)
  order_BK = jnp.argsort(closed_BK, axis=1, stable=True)
  beams = beams._replace(log_prob_BK=log_prob_BK)
  return Beams(*(jnp.take_along_axis(value, order_BK, axis=1) for value in beams))


def unconstrained(trie: DenseTrie) -> DenseTrie:
  """The same trie with every token open: it only keeps the books."""
  return trie._replace(mask_TV=jnp.ones_like(trie.mask_TV))


def _norm(length: jax.Array, length_penalty: float) -> jax.Array:
  return jnp.maximum(length, 1).astype(jnp.float32) ** length_penalty


def _open_children(trie: DenseTrie, allowed: Allowed) -> jax.Array:
  """bool [M, T + 1, V]: the children that hold an item open in each shared mask."""
  count_MS = allowed.prefix_MI1[:, trie.high_S] - allowed.prefix_MI1[:, trie.low_S]
  return trie.mask_TV[None] & (count_MS > 0)[:, trie.next_TV]


def _has_open_item(trie: DenseTrie, allowed: Allowed, state_BJ: jax.Array):
  """bool [B, J]: does the subtree hold an item that the row does not exclude?"""
  low_BJ, high_BJ = trie.low_S[state_BJ], trie.high_S[state_BJ]
  mask_B1 = allowed.mask_B[:, None]
  open_BJ = allowed.prefix_MI1[mask_B1, high_BJ] - allowed.prefix_MI1[mask_B1, low_BJ]
  count = jax.vmap(jnp.searchsorted)
  closed_BJ = count(allowed.excluded_BE, high_BJ) - count(allowed.excluded_BE, low_BJ)
  return open_BJ > closed_BJ
