"""Training batches: the log on the device, and which examples step s is made of.

One example a position: the items before it are the history, the item on it is the
target (or, drawn, any item of the user is). Examples of similar length share a batch (a
bucket), because the shape of a batch is that of its longest example. Models that learn
at every position of a history at once get many histories in one row instead (a pack),
so that short and long ones meet in every batch and hardly a column is empty. Everything
here is a pure function of (seed, step): the same batches on one device or eight, after
a restart or without.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.order import fold, permute
from lightlm_jax.data.packing import pack
from lightlm_jax.errors import UserError


class Positions(NamedTuple):
  """The training log on the device; an example is named by its position e in it."""

  item_E: jax.Array  # int32
  user_E: jax.Array  # int32
  start_E: jax.Array  # int32, where the row of the position's user starts
  end_E: jax.Array  # int32, one past its end
  bucket_examples: tuple[jax.Array, ...]  # int32 positions, one array a bucket


class Packs(NamedTuple):
  """The training log on the device, and the positions that share a row."""

  item_E: jax.Array  # int32
  user_E: jax.Array  # int32
  position_RH: jax.Array  # int32 position e, its target at e + 1; -1 = none


@dataclasses.dataclass(frozen=True)
class Plan:
  """Which batch is trained on at which step.

  An epoch visits every batch of every bucket once, in a permuted order. Packs are one
  bucket, and a row is an example.
  """

  seed: int
  batch_size: int
  widths: tuple[int, ...]  # history columns of each bucket
  sizes: tuple[int, ...]  # examples in each bucket
  drawn: bool  # the target is any item of the user, drawn anew in every epoch

  @property
  def steps_per_epoch(self) -> int:
    return sum(self.batches)

  @property
  def batches(self) -> list[int]:
    """Batches of each bucket in an epoch."""
    return [-(-size // self.batch_size) for size in self.sizes]

  def at(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps → bucket int32, key of its order in this epoch, batch in it, both uint32.

    Args:
      step: int, of any shape; so are the answers.
    """
    epoch, place = np.divmod(step, self.steps_per_epoch)
    key = fold(fold(np.uint32(self.seed & 0xFFFFFFFF), epoch), 0)
    batch = permute(place, self.steps_per_epoch, key).astype(np.int64)
    ends = np.cumsum(self.batches)
    bucket = np.searchsorted(ends, batch, side="right")
    first = ends[bucket] - np.array(self.batches)[bucket]
    return (
      bucket.astype(np.int32),
      fold(key, bucket + 1),
      (batch - first).astype(np.uint32),
    )

  def examples(self, bucket: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """How many examples such batches hold; the last of a bucket holds fewer."""
    left = np.array(self.sizes)[bucket] - batch.astype(np.int64) * self.batch_size
    return np.minimum(left, self.batch_size)


def positions(
  train: Interactions,
  *,
  seed: int,
  batch_size: int,
  widths: tuple[int, ...],
  drawn: bool = False,
) -> tuple[Positions, Plan]:
  """Sorts every position of the log into its bucket by the length of its history.

  Args:
    train: at least one interaction.
    seed: of the order.
    batch_size: examples a step.
    widths: ascending history columns; longer histories are cut to their last items
      and go into the last bucket. Buckets without examples are left out.
    drawn: see `Plan`; for sources that do not tell one position from another.
  """
  start_E = np.repeat(train.offset_U1[:-1], train.length_U)
  length_E = np.minimum(np.arange(len(start_E)) - start_E, widths[-1])
  bucket_E = np.searchsorted(widths, length_E)
  examples = [np.flatnonzero(bucket_E == b) for b in range(len(widths))]
  used = [b for b, example in enumerate(examples) if len(example)]
  feed = Positions(
    item_E=jnp.asarray(train.item_E),
    user_E=jnp.asarray(train.user_E),
    start_E=jnp.asarray(start_E.astype(np.int32)),
    end_E=jnp.asarray((start_E + train.length_U[train.user_E]).astype(np.int32)),
    bucket_examples=tuple(jnp.asarray(examples[b].astype(np.int32)) for b in used),
  )
  plan = Plan(
    seed=seed,
    batch_size=batch_size,
    widths=tuple(widths[b] for b in used),
    sizes=tuple(len(examples[b]) for b in used),
    drawn=drawn,
  )
  return feed, plan


def packs(
  train: Interactions, *, seed: int, batch_size: int, width: int
) -> tuple[Packs, Plan]:
  """Packs every user's history into rows; each item but a user's last has a target.

  Args:
    train: users with one interaction teach nothing.
    seed: of what is packed together, and of the order.
    batch_size: rows a step.
    width: columns of a row; a longer history is cut to its last items.

  Raises:
    UserError: no user has two interactions.
  """
  user_N = np.flatnonzero(train.length_U >= 2)
  if not len(user_N):
    raise UserError(
      "there is no example to train on: a history wants two training interactions"
    )
  length_N = np.minimum(train.length_U[user_N] - 1, width)
  first_N = train.offset_U1[user_N + 1] - 1 - length_N
  row_N, column_N = pack(length_N, width, seed)
  position_RH = np.full((row_N.max() + 1, width), -1, np.int32)
  # The j-th of each history, for all histories at once.
  j_E = np.arange(length_N.sum()) - np.repeat(np.cumsum(length_N) - length_N, length_N)
  row_E, column_E, first_E = (
    np.repeat(x, length_N) for x in (row_N, column_N, first_N)
  )
  position_RH[row_E, column_E + j_E] = first_E + j_E
  feed = Packs(*(jnp.asarray(x) for x in (train.item_E, train.user_E, position_RH)))
  return feed, Plan(seed, batch_size, (width,), (len(position_RH),), drawn=False)


def gather(
  feed: Positions | Packs, key: jax.Array, batch: jax.Array, *, plan: Plan, bucket: int
) -> Batch:
  """Makes a batch on the device; `key` and `batch` come from `plan.at(step)`.

  The last batch of a bucket is filled up with examples of weight 0.
  """
  B, H, size = plan.batch_size, plan.widths[bucket], plan.sizes[bucket]
  place_B = batch * jnp.uint32(B) + jnp.arange(B, dtype=jnp.uint32)
  real_B = place_B < size
  place_B = permute(jnp.minimum(place_B, size - 1), size, key, jnp)
  if isinstance(feed, Packs):
    return _rows(feed, place_B, real_B.astype(jnp.float32))
  position_B = feed.bucket_examples[bucket][place_B]
  position_BH = position_B[:, None] + jnp.arange(-H, 0)[None, :]
  start_B = feed.start_E[position_B]
  known_BH = position_BH >= start_B[:, None]
  target_B = position_B
  if plan.drawn:
    length_B = (feed.end_E[position_B] - start_B).astype(jnp.uint32)
    draw_B = fold(fold(key, 0, jnp), position_B, jnp) % length_B
    target_B = start_B + draw_B.astype(jnp.int32)
  return Batch(
    user_B=feed.user_E[position_B],
    history_BH=jnp.where(known_BH, feed.item_E[jnp.maximum(position_BH, 0)], -1),
    segment_BH=known_BH.astype(jnp.int32),
    target_B=feed.item_E[target_B],
    weight_B=real_B.astype(jnp.float32),
  )


def _rows(feed: Packs, row_B: jax.Array, weight_B: jax.Array) -> Batch:
  position_BH = feed.position_RH[row_B]
  known_BH = position_BH >= 0
  here_BH = jnp.maximum(position_BH, 0)
  user_BH = jnp.where(known_BH, feed.user_E[here_BH], -1)
  begins_BH = user_BH != jnp.pad(user_BH[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  return Batch(
    user_B=jnp.full_like(position_BH[:, 0], -1),
    history_BH=jnp.where(known_BH, feed.item_E[here_BH], -1),
    segment_BH=jnp.where(known_BH, jnp.cumsum(begins_BH, axis=1), 0),
    target_B=jnp.where(known_BH, feed.item_E[here_BH + 1], -1),
    weight_B=weight_B,
  )
