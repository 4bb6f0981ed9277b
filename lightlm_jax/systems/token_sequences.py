"""LightLM's token sequences: ids, with or without the words of the paper's prompt.

A source has one of two forms. *Sequential*: the user's id and the ids of the last
items. *Direct*: the user's id in the prompt of LightLM (arXiv 2310.17488), "Given the
user_{id}, predict which item will be bought by the user?", answered by "item_{id}".
Every token has a word number, for the whole-word embedding.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch

PAD, START = 0, 1
NUM_SPECIALS = 2

# Spaces separate the prompt's words, | the tokens of a word; ID stands for the id.
_PROMPT = "Given the user_|ID|, predict which item will be bought by the user|?"
_SENTENCE = tuple(word.split("|") for word in _PROMPT.split())
_ITEM, _CLOSING = "item_", "</s>"
_WORDS = {token for word in _SENTENCE for token in word} - {"ID"}
_VOCABULARY = sorted(_WORDS | {_ITEM, _CLOSING})
END = NUM_SPECIALS + _VOCABULARY.index(_CLOSING)  # ends the prompt and the answer
NUM_PROMPT_WORDS = 1 + len(_SENTENCE)  # END has the word number 0


class Source(NamedTuple):
  """The encoder's input, int32, right-aligned."""

  token_BS: jax.Array
  word_BS: jax.Array  # each token's word number
  segment_BS: jax.Array  # each token's example in its row, from 1; 0 = padding


def first_code_token(prompt: bool) -> int:
  """Returns the lowest token number of ids.

  Lower numbers are special tokens and, with `prompt`, words of the paper's prompt.
  """
  return NUM_SPECIALS + (len(_VOCABULARY) if prompt else 0)


def shift(code: np.ndarray, prompt: bool) -> np.ndarray:
  """Adds `first_code_token` to all tokens but the padding, -1; returns int32."""
  return np.where(code >= 0, code + first_code_token(prompt), -1).astype(np.int32)


def answer(code_IL: np.ndarray) -> np.ndarray:
  """Returns each item's answer, [I, L + 2] int32: the word "item_", its code, END."""
  framed = np.pad(code_IL, ((0, 0), (1, 1)), constant_values=-1)
  framed[:, 0] = _token(_ITEM)
  length_I = (code_IL >= 0).sum(axis=1)
  framed[np.arange(len(framed)), 1 + length_I] = END
  return framed


def write_prompt(user_code_UL: jax.Array, batch: Batch) -> Source:
  """Returns each user's prompt, without id tokens if the user is unknown."""
  user_BL = codes_of(user_code_UL, batch.user_B)
  B, L = user_BL.shape
  parts, words = [], []
  for number, word in enumerate(_SENTENCE, start=1):
    for token in word:
      parts.append(user_BL if token == "ID" else jnp.full((B, 1), _token(token)))
      words += [number] * (L if token == "ID" else 1)
  token_BS = jnp.concatenate([*parts, jnp.full((B, 1), END)], axis=1)
  word_BS = jnp.broadcast_to(jnp.array([*words, 0])[None], token_BS.shape)
  return _close_holes(token_BS, word_BS, jnp.ones_like(token_BS))


def write_history(
  user_code_UL: jax.Array,
  item_code_IL: jax.Array,
  batch: Batch,
  *,
  with_user: bool,
  in_order: bool = True,
  width: int | None = None,
) -> Source:
  """Returns the codes of the user (word 0) and of the history's items, newest last.

  The k-th item from the end has the word number k. Unless `in_order`, items are sorted
  by catalogue index, which says nothing about time. `width` is S, the number of
  columns. No row may have more tokens; None = room for any history. The examples of a
  packed row follow one another.
  """
  history_BH, segment_BH = batch.history_BH, batch.segment_BH
  B, H = history_BH.shape
  item_L = item_code_IL.shape[1]
  if not in_order:
    order_BH = jnp.lexsort((history_BH, segment_BH), axis=1)
    history_BH, segment_BH = (
      jnp.take_along_axis(x_BH, order_BH, axis=1) for x_BH in (history_BH, segment_BH)
    )
  token_BS = codes_of(item_code_IL, history_BH).reshape(B, H * item_L)
  word_BH = _from_the_end(segment_BH)
  word_BS, segment_BS = (jnp.repeat(x, item_L, axis=1) for x in (word_BH, segment_BH))
  if with_user:
    user_BK = batch.user_B.reshape(B, -1)
    user_BKL = codes_of(user_code_UL, user_BK)
    _, K, L = user_BKL.shape
    of_BS = jnp.broadcast_to(jnp.repeat(jnp.arange(1, K + 1), L)[None], (B, K * L))
    token_BS = jnp.concatenate([user_BKL.reshape(B, K * L), token_BS], axis=1)
    word_BS = jnp.concatenate([jnp.zeros_like(of_BS), word_BS], axis=1)
    segment_BS = jnp.concatenate([of_BS, segment_BS], axis=1)
  source = _close_holes(token_BS, word_BS, segment_BS)
  if width is None:
    return source
  return Source(*(value_BS[:, -width:] for value_BS in source))


def write_items(item_code_IL: jax.Array, batch: Batch) -> Source:
  """Returns a position of L tokens for each history item: `token_BS` is [B, H, L].

  The k-th item from the end of its history has the word number k.
  """
  token_BHL = jnp.maximum(codes_of(item_code_IL, batch.history_BH), PAD)
  return Source(token_BHL, _from_the_end(batch.segment_BH), batch.segment_BH)


def without_items(batch: Batch, keep_BH: jax.Array) -> Batch:
  """Returns a batch that has a target at every position, with the kept items only.

  A kept item's target is the next kept item or, if none follows, the target of its
  history's last item. Items stay at their places, so that distances do not change.
  """
  segment_BH, H = batch.segment_BH, batch.segment_BH.shape[1]
  keep_BH = keep_BH & (segment_BH > 0)

  def nearest(is_it_BH):
    """Returns, for each place, the first marked place at or after it, or H if none."""
    place_BH = jnp.where(is_it_BH, jnp.arange(H)[None], H)
    return jax.lax.cummin(place_BH, axis=1, reverse=True)

  ahead = ((0, 0), (0, 1))
  end_BH = nearest(segment_BH != jnp.pad(segment_BH[:, 1:], ahead))
  next_BH = jnp.pad(nearest(keep_BH)[:, 1:], ahead, constant_values=H)
  item_BH, last_BH = (
    jnp.take_along_axis(x_BH, jnp.minimum(place_BH, H - 1), axis=1)
    for x_BH, place_BH in ((batch.history_BH, next_BH), (batch.target_B, end_BH))
  )
  target_BH = jnp.where(next_BH <= end_BH, item_BH, last_BH)
  return batch._replace(
    history_BH=jnp.where(keep_BH, batch.history_BH, -1),
    segment_BH=jnp.where(keep_BH, segment_BH, 0),
    target_B=jnp.where(keep_BH, target_BH, -1),
  )


def _from_the_end(segment_BH: jax.Array) -> jax.Array:
  """Counts, for each item, itself and the newer items of its segment, [B, H] int32."""
  return jnp.triu(segment_BH[:, :, None] == segment_BH[:, None, :]).sum(axis=2)


def _token(word: str) -> int:
  return NUM_SPECIALS + _VOCABULARY.index(word)


def codes_of(code_NL: jax.Array, number: jax.Array) -> jax.Array:
  """Returns codes of items or users, […, L] int32; -1 = padding, or `number` is -1."""
  code = jnp.asarray(code_NL)[jnp.maximum(number, 0)]
  return jnp.where(number[..., None] >= 0, code, -1)


def _close_holes(token_BS: jax.Array, word_BS: jax.Array, segment_BS) -> Source:
  """Returns rows sorted by segment, with padding (tokens -1) as zeros on the left."""
  real_BS = token_BS >= 0
  source = [jnp.where(real_BS, x_BS, 0) for x_BS in (token_BS, word_BS, segment_BS)]
  order_BS = jnp.argsort(source[2], axis=1, stable=True)
  return Source(*(jnp.take_along_axis(x_BS, order_BS, axis=1) for x_BS in source))
