"""What LightLM reads and writes: ids, bare or in the words of the paper's prompt.

Two forms of source. *Sequential*: the user's id and the ids of the last items.
*Direct*: the user's id alone, in the sentence of LightLM (arXiv 2310.17488), "Given
the user_{id}, predict which item will be bought by the user?", answered by
"item_{id}". Every token also tells which word it is of.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch

PAD, START = 0, 1
NUM_SPECIALS = 2

# The prompt, a group of tokens for each word; None is where the id goes.
_SENTENCE = (
  ("Given",),
  ("the",),
  ("user_", None, ","),
  ("predict",),
  ("which",),
  ("item",),
  ("will",),
  ("be",),
  ("bought",),
  ("by",),
  ("the",),
  ("user", "?"),
)
_ITEM, _CLOSING = "item_", "</s>"
_VOCABULARY = sorted({t for word in _SENTENCE for t in word if t} | {_ITEM, _CLOSING})
END = NUM_SPECIALS + _VOCABULARY.index(_CLOSING)  # closes sentence and answer
NUM_PROMPT_WORDS = 1 + len(_SENTENCE)  # the end of the sentence is word 0


class Source(NamedTuple):
  """What the encoder reads, right-aligned; segment 0 is padding."""

  token_BS: jax.Array
  word_BS: jax.Array
  segment_BS: jax.Array


def first_code_token(prompt: bool) -> int:
  """Where the codes' tokens begin: behind the specials and the prompt's words."""
  return NUM_SPECIALS + (len(_VOCABULARY) if prompt else 0)


def shift(code: np.ndarray, prompt: bool) -> np.ndarray:
  """Code tokens → the model's tokens; padding stays -1."""
  return np.where(code >= 0, code + first_code_token(prompt), -1).astype(np.int32)


def answer(code_IL: np.ndarray) -> np.ndarray:
  """Item codes (the model's tokens) as the prompt's answer: [I, L + 2] int32."""
  framed = np.pad(code_IL, ((0, 0), (1, 1)), constant_values=-1)
  framed[:, 0] = _token(_ITEM)
  length_I = (code_IL >= 0).sum(axis=1)
  framed[np.arange(len(framed)), 1 + length_I] = END
  return framed


def write_prompt(user_code_UL: jax.Array, batch: Batch) -> Source:
  """The direct task's sentence about each user; nothing stands for an unknown one."""
  user_BL = _user_codes(user_code_UL, batch)
  B, L = user_BL.shape
  parts, words = [], []
  for number, word in enumerate(_SENTENCE, start=1):
    for token in word:
      parts.append(user_BL if token is None else jnp.full((B, 1), _token(token)))
      words += [number] * (L if token is None else 1)
  token_BS = jnp.concatenate([*parts, jnp.full((B, 1), END)], axis=1)
  return _close_holes(token_BS, jnp.array([*words, 0]), jnp.ones_like(token_BS))


def write_history(
  user_code_UL: jax.Array, item_code_IL: jax.Array, batch: Batch, *, with_user: bool
) -> Source:
  """The codes of the user (word 0) and of the k-th last items (word k), newest last."""
  B, H = batch.history_BH.shape
  item_L = item_code_IL.shape[1]
  known_BH1 = batch.history_BH[..., None] >= 0
  code_BHL = jnp.where(known_BH1, item_code_IL[jnp.maximum(batch.history_BH, 0)], -1)
  token_BS = code_BHL.reshape(B, H * item_L)
  word_S = jnp.repeat(jnp.arange(H, 0, -1), item_L)
  segment_BS = jnp.repeat(batch.segment_BH, item_L, axis=1)
  if with_user:
    user_BL = _user_codes(user_code_UL, batch)
    token_BS = jnp.concatenate([user_BL, token_BS], axis=1)
    word_S = jnp.concatenate([jnp.zeros(user_BL.shape[1], jnp.int32), word_S])
    segment_BS = jnp.concatenate([jnp.ones_like(user_BL), segment_BS], axis=1)
  return _close_holes(token_BS, word_S, segment_BS)


def _token(word: str) -> int:
  return NUM_SPECIALS + _VOCABULARY.index(word)


def _user_codes(user_code_UL: jax.Array, batch: Batch) -> jax.Array:
  """[B, L] int32, -1 throughout for a user of -1."""
  known_B1 = batch.user_B[:, None] >= 0
  return jnp.where(known_B1, user_code_UL[jnp.maximum(batch.user_B, 0)], -1)


def _close_holes(token_BS: jax.Array, word_S: jax.Array, segment_BS) -> Source:
  """Moves padding (-1) to the left of each row, where it becomes 0."""
  real_BS = token_BS >= 0
  order_BS = jnp.argsort(real_BS, axis=1, stable=True)
  word_BS = jnp.broadcast_to(word_S[None], token_BS.shape)
  return Source(
    *(
      jnp.take_along_axis(jnp.where(real_BS, value_BS, 0), order_BS, axis=1)
      for value_BS in (token_BS, word_BS, segment_BS)
    )
  )
