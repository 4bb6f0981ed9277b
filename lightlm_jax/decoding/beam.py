"""Beam search over the items of a trie, with filters per request, as one program."""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.decoding import candidates, filters
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.decoding.trie import Trie

LOWEST = float(jnp.finfo(jnp.float32).min)


class Beams(NamedTuple):
  """K hypotheses a row, best first; empty slots have the log-probability -inf."""

  state_BK: jax.Array  # int32 trie state
  log_prob_BK: jax.Array  # float32, summed over the generated tokens
  length_BK: jax.Array  # int32 generated tokens, with the terminator, without the start
  token_BK: jax.Array  # int32, the last token
  parent_BK: jax.Array  # int32, the slot in the previous step that each continues


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """Options of a beam search."""

  beam_size: int  # most hypotheses kept per row
  start_token: int  # the first step's input
  # In an unconstrained search, this token ends a beam even if the trie has no such
  # item; None = beams end at leaves alone, as they do in a constrained search.
  end_token: int | None = None
  length_penalty: float  # 0 = summed log-probability, 1 = its mean over the tokens
  length_offset: float = 0.0  # see `length_norm`
  renormalise: bool = False  # log-probabilities are normalised over open children only
  # False = any token may follow, and excluded items are not filtered: the trie only
  # finds which item a beam is.
  constrained: bool = True

  def __post_init__(self):
    if self.start_token == self.end_token:
      raise ValueError(f"token {self.start_token} starts every beam and ends it")


def search(
  step: Callable[[jax.Array, jax.Array, Any], tuple[candidates.Logits, Any]],
  cache: Any,
  trie: Trie,
  allowed: Allowed | None,
  options: Options,
  *,
  B: int,
) -> Beams:
  """Finds the best codes of each of B rows; returns them as beams.

  Every step extends all beams by all their open children and keeps the best by the
  final score: summed log-probability divided by `length_norm`. Finished beams compete
  with unchanged scores. The first step has one beam per row, not K. A constrained
  search is exact if no level of the trie but the last has more than `beam_size` nodes.

  Args:
    step: maps (token_BK, parent_BK, cache) to (`Logits`, cache with one position more);
      beam k continues beam parent_BK[b, k] of the previous call. K = 1 at first.
    cache: input of the first call.
    trie: all item codes, over the vocabulary of the logits.
    allowed: which items each row may get; None = all items of the trie.
    options: beam size, scores and constraint.
    B: number of rows.
  """
  paths = _paths(trie, allowed, options)
  zero_B1 = jnp.zeros((B, 1), jnp.int32)
  beams = Beams(
    state_BK=zero_B1,
    log_prob_BK=zero_B1.astype(jnp.float32),
    length_BK=zero_B1,
    token_BK=jnp.full((B, 1), options.start_token, jnp.int32),
    parent_BK=zero_B1,
  )
  for level in range(trie.depth):
    logits, cache = step(beams.token_BK, beams.parent_BK, cache)
    beams = _extended(beams, logits, trie, level, allowed, paths[level], options)
  return beams


def scores(
  step: Callable[[jax.Array, jax.Array, Any], tuple[candidates.Logits, Any]],
  cache: Any,
  trie: Trie,
  allowed: Allowed | None,
  options: Options,
  code_BKL: jax.Array,
) -> jax.Array:
  """Returns the scores that `search` gives to K codes a row, [B, K] float32.

  `code_BKL` are codes of the trie, int32, padded with -1; `allowed` must allow all of
  these codes. The other arguments are those of `search`.
  """
  B, K, _ = code_BKL.shape
  paths = _paths(trie, allowed, options)
  state_BK = parent_BK = jnp.zeros((B, 1), jnp.int32)
  token_BK = jnp.full((B, 1), options.start_token, jnp.int32)
  log_prob_BK: Any = 0.0
  for level in range(trie.depth):
    given, cache = step(token_BK, parent_BK, cache)
    next_BK = code_BKL[..., level]
    # One beam has K continuations on the first level, each of K beams one below it.
    next_BKC = jnp.maximum(next_BK.reshape(B, state_BK.shape[1], -1), 0)
    open_children = candidates.children(trie, level, state_BK, allowed, paths[level])
    logits = _needed(given, open_children, options)
    if options.renormalise:
      total_BK = jax.nn.logsumexp(open_children.logits(logits), axis=2)
      # Filters close children of the first of equal states alone.
      same_BKK = state_BK[:, :, None] == state_BK[:, None]
      total_BK = jnp.take_along_axis(total_BK, same_BKK.argmax(axis=2), axis=1)
    else:
      total_BK = jax.nn.logsumexp(logits, axis=2)
    if isinstance(logits, jax.Array):
      chosen_BKC = jnp.take_along_axis(logits, next_BKC, axis=2)
    else:
      chosen_BKC = logits(next_BKC)
    gain_BK = (chosen_BKC - total_BK[..., None]).reshape(B, K)
    log_prob_BK += jnp.where(next_BK >= 0, gain_BK, 0.0)
    every_BK = jnp.broadcast_to(state_BK, (B, K))
    state_BK = trie.follow(every_BK, next_BK, level)
    token_BK = jnp.maximum(next_BK, 0)
    parent_BK = jnp.broadcast_to(jnp.arange(K)[None] * (level > 0), (B, K))
  length_BK = (code_BKL >= 0).sum(axis=2)
  penalty = options.length_penalty, options.length_offset
  return log_prob_BK / length_norm(length_BK, *penalty)


def _paths(trie: Trie, allowed: Allowed | None, options: Options):
  """Returns each level's `filters.Path`, or None if nothing is excluded."""
  if options.constrained and allowed is not None and allowed.excluded_BE.shape[1]:
    return filters.paths(trie, allowed)
  return (None,) * trie.depth


def _needed(logits: candidates.Logits, open_children: Any, options: Options) -> Any:
  """Returns logits of all tokens, or the function for some if some are all it takes."""
  some = options.renormalise and open_children.few
  return logits if some or isinstance(logits, jax.Array) else logits()


def _extended(
  beams: Beams,
  logits: Any,  # `Logits`
  trie: Trie,
  level: int,
  allowed: Allowed | None,
  path: filters.Path | None,
  options: Options,
) -> Beams:
  """Extends beams by one token and returns the best; finished beams do not change."""
  state_BK = beams.state_BK
  ended_BK = finished_BK = trie.ended(state_BK, level)
  if options.end_token is not None and not options.constrained:
    finished_BK = ended_BK | (beams.token_BK == options.end_token)
  if options.constrained:
    open_children = candidates.children(trie, level, state_BK, allowed, path)
  else:
    open_children = candidates.every_token(finished_BK, trie.vocab_size)
  logits = _needed(logits, open_children, options)
  normalised = open_children.logits(logits) if options.renormalise else logits
  length_BK = jnp.where(finished_BK, beams.length_BK, level + 1)
  # Without any open child the total is -inf, which would make keys NaN.
  total_BK = jnp.maximum(jax.nn.logsumexp(normalised, axis=2), LOWEST)
  scale = candidates.Scale(
    beams.log_prob_BK,
    total_BK,
    length_norm(length_BK, options.length_penalty, options.length_offset),
    finished_BK,
  )
  best = open_children.best(logits, scale, options.beam_size)

  def of_parent(value_BK):
    return jnp.take_along_axis(value_BK, best.parent_BK, axis=1)

  stays_BK, real_BK = of_parent(finished_BK), best.key_BK > -jnp.inf
  if options.constrained:
    state_BK = open_children.child(trie, level, of_parent(state_BK), best)
  else:
    state_BK = trie.follow(of_parent(state_BK), best.token_BK, level)
    # A beam that the end token ended without being an item gets the state `nowhere`.
    real_BK &= ~stays_BK | of_parent(ended_BK)
  return Beams(
    state_BK=jnp.where(real_BK, state_BK, trie.nowhere(level + 1)),
    log_prob_BK=best.key_BK * of_parent(scale.norm_BK),
    length_BK=of_parent(length_BK),
    token_BK=jnp.where(stays_BK, of_parent(beams.token_BK), best.token_BK),
    parent_BK=best.parent_BK,
  )


def recommendations(
  beams: Beams, trie: Trie, options: Options, *, k: int
) -> Recommendations:
  """Returns the first k beams as catalogue items; -1 where a beam is no item."""
  norm_BK = length_norm(beams.length_BK, options.length_penalty, options.length_offset)
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


def invalid_beams(beams: Beams, trie: Trie) -> jax.Array:
  """Returns which beams are not an item's code, [B, K] bool; false for empty slots."""
  return (trie.item_R[beams.state_BK] < 0) & (beams.log_prob_BK > -jnp.inf)


def without_excluded(beams: Beams, trie: Trie, allowed: Allowed) -> Beams:
  """Removes beams with an item that is not allowed, after an unconstrained search.

  The other beams, also those that are no item, keep their order; empty slots follow.
  """
  excluded_BK = trie.item_R[beams.state_BK] >= 0
  excluded_BK &= ~filters.is_allowed(allowed, beams.state_BK)
  log_prob_BK = jnp.where(excluded_BK, -jnp.inf, beams.log_prob_BK)
  order_BK = jnp.argsort(excluded_BK, axis=1, stable=True)
  beams = beams._replace(log_prob_BK=log_prob_BK)
  return Beams(*(jnp.take_along_axis(value, order_BK, axis=1) for value in beams))


def length_norm(length: jax.Array, penalty: float, offset: float = 0.0) -> jax.Array:
  """Returns the divisor of the log-probability of n = `length` tokens, float32.

  It is ((offset + n) / (offset + 1))**penalty. With offset 0 this is n**penalty, as in
  Hugging Face's library. T5's own library has offset 5 (Wu et al. 2016, equation 14).
  """
  length = jnp.maximum(length, 1).astype(jnp.float32)
  return ((offset + length) / (offset + 1)) ** penalty
