"""A learned bias on the logits of the tokens of a history's items.

It depends on how recently and how often the history has the token, on how many of its
items are repeats, and on its length.

Where nobody buys an item twice, the bias learns to rule seen items out; elsewhere, to
raise them. The model itself learns from the loss without the bias, so that seen items
stay competitors. On Toys a model that learned from the loss with the bias over-fitted
sooner (results/accuracy).
"""

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.models.layers import relative_position_bucket

RECENCIES = 16  # buckets of a token's distance from the end of the history
TIMES = 4  # how often the history has the token: 1, 2, 3, or at least 4
HABITS = 4  # how many of its items repeat a token: 0, 1, 2, or at least 3
LENGTHS = (2, 4, 8, 16, 32)  # each is where a bucket of the number of items begins
NUMBER = RECENCIES + TIMES + HABITS + len(LENGTHS) + 1


def init(levels: int) -> dict[str, jax.Array]:
  """Returns the bias's parameters, which are added to those of the model.

  `levels` is the number of tokens of an item's id; each level has its own bias.
  """
  return {"repeat_bias": jnp.zeros((levels, NUMBER))}


def of_history(
  bias_P: jax.Array,
  token_BH: jax.Array,
  segment_BH: jax.Array,
  by_position: bool = False,
) -> tuple[jax.Array, jax.Array]:
  """Returns the bias of each token of a history, and where it counts.

  Args:
    bias_P: float32 [NUMBER], a level's parameters. A token's bias is the sum of four:
      by the place where the history has it last, by how often it has it, by how many of
      the history's items repeat a token, and by the number of items.
    token_BH: int32, the tokens of the history's items at this level, -1 = none.
    segment_BH: int32, the history that a column belongs to, 0 = padding.
    by_position: whether there is a prediction after each column (Q = H), which reads
      the columns of its history up to this one. Otherwise there is one prediction,
      after the last column (Q = 1).

  Returns:
    The bias, float32 [B, Q, H], which is 0 where it does not count; and where it
    counts, bool [B, Q, H]: at the last of the columns read that have the token.
  """
  ends = np.cumsum([RECENCIES, TIMES, HABITS])
  recency_P, times_P, habit_P, length_P = jnp.split(bias_P, ends)
  H = token_BH.shape[1]
  at_H = jnp.arange(H)
  at_Q = at_H if by_position else at_H[-1:]
  real_BH = (segment_BH > 0) & (token_BH >= 0)
  same_BHH = token_BH[:, :, None] == token_BH[:, None]
  same_BHH &= (segment_BH[:, :, None] == segment_BH[:, None]) & real_BH[:, None]
  times_BH = jnp.tril(same_BHH).sum(axis=2)  # up to and with this column
  next_BH = jnp.where(jnp.triu(same_BHH, 1), at_H[None, None], H).min(axis=2)
  back_1QH = (at_Q[:, None] - at_H[None])[None]
  read_BQH = segment_BH[:, at_Q, None] == segment_BH[:, None]
  read_BQH &= (segment_BH > 0)[:, None] & (back_1QH >= 0)
  length_BQ = jnp.searchsorted(
    np.array(LENGTHS), read_BQH.sum(axis=2), side="right", method="compare_all"
  )
  read_BQH &= real_BH[:, None]
  habit_BQ = (read_BQH & (times_BH > 1)[:, None]).sum(axis=2)
  options = {"bidirectional": False, "num_buckets": RECENCIES}
  bucket_1QH = relative_position_bucket(-back_1QH, max_distance=128, **options)
  bias_BQH = recency_P[bucket_1QH] + times_P[jnp.clip(times_BH, 1, TIMES) - 1][:, None]
  bias_BQH += habit_P[jnp.minimum(habit_BQ, HABITS - 1)][..., None]
  bias_BQH += length_P[length_BQ][..., None]
  last_BQH = read_BQH & (next_BH[:, None] > at_Q[None, :, None])
  return jnp.where(last_BQH, bias_BQH, 0.0), last_BQH


def added_loss(
  bias_BQH: jax.Array,
  last_BQH: jax.Array,
  item_BH: jax.Array,
  target_BQ: jax.Array,
  share_BQH: jax.Array,
) -> jax.Array:
  """Returns what the bias adds to the cross-entropy of each target, [B, Q] float32.

  `bias_BQH` and `last_BQH` are the results of `of_history` for items. `share_BQH` are
  the items' probabilities without the bias; they get no gradient.
  """
  share_BQH = jnp.where(last_BQH, jax.lax.stop_gradient(share_BQH), 0)
  change_BQ = (jnp.expm1(bias_BQH) * share_BQH).sum(axis=2)
  own_BQ = jnp.where(item_BH[:, None] == target_BQ[..., None], bias_BQH, 0).sum(axis=2)
  # Rounding may leave nothing of the sum of all probabilities.
  return jnp.log1p(jnp.maximum(change_BQ, 1e-6 - 1)) - own_BQ
