"""Training batches: the log on the device, and which examples step s is made of.

One example a position: the items before it are the history, the item on it is the
target (or, drawn, any item of the user is). The shape of a batch is that of its longest
row, so either examples of similar length share a batch (a bucket), or several of them
share a row, so that short and long ones meet in every batch and hardly a column is
empty. Models that learn at every position of a history at once get whole histories in
a row (a pack). Everything here is a pure function of (seed, step): the same batches on
one device or eight, after a restart or without.
"""

import dataclasses
import functools
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.order import fold, permute
from lightlm_jax.data.packing import Rows, pack
from lightlm_jax.runtime.errors import UserError

_OF_TARGETS = ("user_B", "target_B", "weight_B")  # of a Batch


class Positions(NamedTuple):
  """The training log, for the device; an example is named by its position e in it."""

  item_E: jax.Array  # int32
  user_E: jax.Array  # int32
  start_E: jax.Array  # int32, where the row of the position's user starts
  end_E: jax.Array  # int32, one past its end
  # int32 positions, an array for each bucket: K to a row, -1 = none
  example_RK: tuple[jax.Array, ...]


class Packs(NamedTuple):
  """The training log, for the device, and the positions that share a row."""

  item_E: jax.Array  # int32
  user_E: jax.Array  # int32
  position_RH: jax.Array  # int32 position e, its target at e + 1; -1 = none


@dataclasses.dataclass(frozen=True)
class Plan:
  """Which batch is trained on at which step.

  An epoch visits every batch of every bucket once, in a permuted order. Rows that are
  shared are one bucket.
  """

  seed: int
  batch_size: int  # rows
  widths: tuple[int, ...]  # history columns of each bucket
  sizes: tuple[int, ...]  # rows in each bucket
  window: int  # the last items of a history that are read
  drawn: bool = False  # the target is any item of the user, anew in every epoch

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

  def places(self, key, batch, bucket: int, xp: ModuleType = np):
    """Which rows of its bucket a batch is made of: [B] uint32, and [B] bool.

    The last batch of a bucket is filled up with rows that are not real.

    Args:
      key: from `at`.
      batch: likewise.
      bucket: likewise.
      xp: numpy or jax.numpy.
    """
    B, size = self.batch_size, self.sizes[bucket]
    place_B = batch * xp.uint32(B) + xp.arange(B, dtype=xp.uint32)
    return permute(xp.minimum(place_B, size - 1), size, key, xp), place_B < size


def positions(
  train: Interactions,
  *,
  seed: int,
  batch_size: int,
  widths: tuple[int, ...],
  drawn: bool = False,
  rows: Rows | None = None,
) -> tuple[Positions, Plan]:
  """Sorts every position of the log into its bucket by the length of its history.

  Args:
    train: at least one interaction.
    seed: of what shares a row, and of the order.
    batch_size: examples a step; a multiple of `rows.most`.
    widths: ascending history columns; longer histories are cut to their last items
      and go into the last bucket. Buckets without examples are left out.
    drawn: see `Plan`; for sources that do not tell one position from another.
    rows: how examples share rows, all of them one bucket; None = each has its own.
  """
  start_E = np.repeat(train.offset_U1[:-1], train.length_U)
  length_E = np.minimum(np.arange(len(start_E)) - start_E, widths[-1])
  window = widths[-1]
  if rows is None:
    bucket_E = np.searchsorted(widths, length_E)
    examples = [np.flatnonzero(bucket_E == b)[:, None] for b in range(len(widths))]
    widths = tuple(w for w, example in zip(widths, examples) if len(example))
    examples = [example for example in examples if len(example)]
  else:
    row_E, column_E = pack(rows.length_E, rows.width, seed, rows.most)
    widths = (int(np.bincount(row_E, weights=length_E).max()),)
    examples = [_by_row(row_E, column_E, rows.most)]
    batch_size //= rows.most
  feed = Positions(
    item_E=train.item_E,
    user_E=train.user_E,
    start_E=start_E.astype(np.int32),
    end_E=(start_E + train.length_U[train.user_E]).astype(np.int32),
    example_RK=tuple(example.astype(np.int32) for example in examples),
  )
  sizes = tuple(len(example) for example in examples)
  return feed, Plan(seed, batch_size, widths, sizes, window, drawn)


def packs(
  train: Interactions, *, seed: int, batch_size: int, width: int, whole: bool = False
) -> tuple[Packs, Plan]:
  """Packs every user's history into rows; each item but a user's last has a target.

  Args:
    train: users with one interaction teach nothing.
    seed: of what is packed together, and of the order.
    batch_size: rows a step.
    width: columns of a row; a longer history is cut to its last items.
    whole: what would be cut off goes into rows of its own.

  Raises:
    UserError: no user has two interactions.
  """
  user_N = np.flatnonzero(train.length_U >= 2)
  if not len(user_N):
    raise UserError(
      "there is no example to train on: a history wants two training interactions"
    )
  length_N = train.length_U[user_N] - 1
  end_N = train.offset_U1[user_N + 1] - 1
  if whole:
    # The newest piece is as long as a request's; what is left over is the oldest.
    pieces_N = -(-length_N // width)
    later_M = pieces_N.sum() - 1 - np.arange(pieces_N.sum())
    later_M -= np.repeat(pieces_N.sum() - np.cumsum(pieces_N), pieces_N)
    end_N = np.repeat(end_N, pieces_N) - later_M * width
    length_N = np.repeat(length_N, pieces_N) - later_M * width
  length_N = np.minimum(length_N, width)
  first_N = end_N - length_N
  row_N, column_N = pack(length_N, width, seed)
  position_RH = np.full((row_N.max() + 1, width), -1, np.int32)
  # The j-th of each history, for all histories at once.
  j_E = np.arange(length_N.sum()) - np.repeat(np.cumsum(length_N) - length_N, length_N)
  row_E, column_E, first_E = (
    np.repeat(x, length_N) for x in (row_N, column_N, first_N)
  )
  position_RH[row_E, column_E + j_E] = first_E + j_E
  feed = Packs(train.item_E, train.user_E, position_RH)
  return feed, Plan(seed, batch_size, (width,), (len(position_RH),), width)


def gather(
  feed: Positions | Packs | Batch,
  key: jax.Array,
  batch: jax.Array,
  *,
  plan: Plan,
  bucket: int,
) -> Batch:
  """Makes a batch on the device; `key` and `batch` come from `plan.at(step)`.

  One that was read from disk is what it is.
  """
  if isinstance(feed, Batch):
    return feed
  row_B, real_B = plan.places(key, batch, bucket, jnp)
  return rows_at(feed, row_B, real_B, key, plan=plan, bucket=bucket)


def rows_at(
  feed: Positions | Packs,
  row_B: jax.Array,
  real_B: jax.Array,
  key: jax.Array,
  *,
  plan: Plan,
  bucket: int,
) -> Batch:
  """The rows of these numbers; nothing, of weight 0, where `real_B` is false.

  Args:
    feed: of which the rows are.
    row_B: uint32 in the bucket.
    real_B: bool.
    key: uint32, of the targets where they are drawn.
    plan: of the feed.
    bucket: of the rows.
  """
  if isinstance(feed, Packs):
    return _sequences(feed, row_B, real_B)
  H = plan.widths[bucket]
  example_BK = feed.example_RK[bucket][row_B]
  real_BK = (example_BK >= 0) & real_B[:, None]
  example_BK = jnp.maximum(example_BK, 0)
  start_BK = feed.start_E[example_BK]
  length_BK = jnp.where(real_BK, jnp.minimum(example_BK - start_BK, plan.window), 0)
  # Histories stand one behind the other, the last of them ends with the row.
  end_BK = H - length_BK.sum(axis=1, keepdims=True) + jnp.cumsum(length_BK, axis=1)
  column_H = jnp.arange(H)
  owner_BH = (column_H[None, None] >= end_BK[:, :, None]).sum(axis=1)
  owners_BH = functools.partial(jnp.take_along_axis, indices=owner_BH, axis=1)
  back_BH = owners_BH(end_BK) - column_H[None]  # 1 = the newest item
  known_BH = back_BH <= owners_BH(length_BK)
  item_BH = feed.item_E[jnp.maximum(owners_BH(example_BK) - back_BH, 0)]
  target_BK = example_BK
  if plan.drawn:
    number_BK = (feed.end_E[example_BK] - start_BK).astype(jnp.uint32)
    draw_BK = fold(fold(key, 0, jnp), example_BK, jnp) % number_BK
    target_BK = start_BK + draw_BK.astype(jnp.int32)
  found = Batch(
    user_B=jnp.where(real_BK, feed.user_E[example_BK], -1),
    history_BH=jnp.where(known_BH, item_BH, -1),
    segment_BH=jnp.where(known_BH, owner_BH + 1, 0),
    target_B=jnp.where(real_BK, feed.item_E[target_BK], -1),
    weight_B=real_BK.astype(jnp.float32),
  )
  if example_BK.shape[1] > 1:
    return found
  one_each = {name: getattr(found, name)[:, 0] for name in _OF_TARGETS}
  return found._replace(**one_each)


def _by_row(row_E: np.ndarray, column_E: np.ndarray, most: int) -> np.ndarray:
  """[R, most]: the examples of each row, by column; -1 = none."""
  order_E = np.lexsort((column_E, row_E))
  row_E = row_E[order_E]
  slot_E = np.arange(len(row_E)) - np.searchsorted(row_E, row_E)
  example_RK = np.full((row_E[-1] + 1, most), -1, np.int32)
  example_RK[row_E, slot_E] = order_E
  return example_RK


def _sequences(feed: Packs, row_B: jax.Array, real_B: jax.Array) -> Batch:
  position_BH = jnp.where(real_B[:, None], feed.position_RH[row_B], -1)
  known_BH = position_BH >= 0
  here_BH = jnp.maximum(position_BH, 0)
  user_BH = jnp.where(known_BH, feed.user_E[here_BH], -1)
  begins_BH = user_BH != jnp.pad(user_BH[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
  return Batch(
    user_B=jnp.full_like(position_BH[:, 0], -1),
    history_BH=jnp.where(known_BH, feed.item_E[here_BH], -1),
    segment_BH=jnp.where(known_BH, jnp.cumsum(begins_BH, axis=1), 0),
    target_B=jnp.where(known_BH, feed.item_E[here_BH + 1], -1),
    weight_B=real_B.astype(jnp.float32),
  )
