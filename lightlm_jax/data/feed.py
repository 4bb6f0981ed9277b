"""Training batches: the log on the device, and the examples of each step.

Every position of a user's row in the log is an example: its item is the target, and
the items before it are the history (see `positions`). Either all histories of a batch
have similar lengths (a bucket), or a row of the batch holds several examples, short and
long ones, with little padding. For models that learn at every position of a history, a
row holds several histories, one after the other (`packs`). Batches are a pure function
of (seed, step), so they are equal on any number of devices and after a restart.
"""

import dataclasses
import functools
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Array, Batch
from lightlm_jax.data.interactions import Interactions, concatenate_rows
from lightlm_jax.data.order import fold, permute
from lightlm_jax.data.packing import Rows, pack
from lightlm_jax.runtime.errors import UserError


class Positions(NamedTuple):
  """The training log on the device; an example is a position e of it, 0 … E - 1."""

  item_E: Array  # int32
  user_E: Array  # int32
  start_E: Array  # int32, first position of the same user
  end_E: Array  # int32, one past the last position of the same user
  # int32 positions, one array per bucket: K per row, -1 = none
  example_RK: tuple[Array, ...]


class Packs(NamedTuple):
  """The training log on the device, and its positions packed in R rows of width H."""

  item_E: Array  # int32
  user_E: Array  # int32
  position_RH: Array  # int32 position e, its target at e + 1; -1 = none


Feed = Positions | Packs


@dataclasses.dataclass(frozen=True)
class Plan:
  """Says which rows form the batch of each step; a batch has rows of one bucket only.

  A bucket holds the rows of one width; packed rows form a single bucket. An epoch has
  every batch of every bucket once, in an order that changes each epoch.
  """

  seed: int
  batch_size: int  # rows
  widths: tuple[int, ...]  # history columns of each bucket
  sizes: tuple[int, ...]  # rows in each bucket
  window: int  # longest history in items
  drawn: bool = False  # targets are drawn from the user's items, anew in every epoch

  @property
  def steps_per_epoch(self) -> int:
    return sum(self.batches)

  @property
  def batches(self) -> list[int]:
    """The number of batches of each bucket in an epoch."""
    return [-(-size // self.batch_size) for size in self.sizes]

  def at(self, step: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns each step's bucket (int32), key (uint32) and batch number (uint32).

    The key permutes the bucket's rows; the batches of a bucket are numbered from 0.
    """
    epoch, place = np.divmod(step, self.steps_per_epoch)
    key = fold(fold(np.uint32(self.seed & 0xFFFFFFFF), epoch), 0)
    batch = permute(place, self.steps_per_epoch, key).astype(np.int64)
    ends = np.cumsum(self.batches)
    bucket = np.searchsorted(ends, batch, side="right")
    first = ends[bucket] - np.array(self.batches)[bucket]
    number = (batch - first).astype(np.uint32)
    return bucket.astype(np.int32), fold(key, bucket + 1), number

  def places(self, key, batch, bucket: int, xp: ModuleType = np):
    """Returns the numbers of a batch's rows, [B] uint32, and which are real, [B] bool.

    Rows are numbered within the bucket; the last batch is padded with rows that are not
    real. `key`, `batch` and `bucket` come from `at`; `xp` is numpy or jax.numpy.
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
  """Makes every position of the log an example; returns the feed and its `Plan`.

  Args:
    train: the training log, with at least one interaction.
    seed: seeds the packing, the order of examples and the drawn targets.
    batch_size: examples per step; a multiple of `rows.max_per_row` if there are `rows`.
    widths: the history columns of each bucket, ascending; empty buckets are dropped.
      Histories keep their last `widths[-1]` items. With `rows` there is one bucket.
    drawn: whether an example's target is drawn from all items of the user, anew in
      every epoch; only for systems that read the user without a history.
    rows: the layout of rows shared by several examples; None = one example per row, in
      buckets by history length.
  """
  start_E = np.repeat(train.offset_U1[:-1], train.length_U)
  length_E = np.minimum(np.arange(len(start_E)) - start_E, widths[-1])
  window = widths[-1]
  if rows is None:
    bucket_E = np.searchsorted(widths, length_E)
    filled = np.unique(bucket_E)
    examples = [np.flatnonzero(bucket_E == b)[:, None] for b in filled]
    widths = tuple(widths[b] for b in filled)
  else:
    row_E, column_E = pack(rows.length_E, rows.width, seed, rows.max_per_row)
    widths = (int(np.bincount(row_E, weights=length_E).max()),)
    examples = [_by_row(row_E, column_E, rows.max_per_row)]
    batch_size //= rows.max_per_row
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
  """Packs users' histories into rows; the target of each item is the next item.

  Returns the packed rows and the plan of their batches. Histories longer than `width`
  are cut to their last items; if `whole`, the items cut off are packed too, in pieces
  of at most `width`. `seed` seeds the packing and the order of batches; `batch_size` is
  in rows. Raises a UserError if no user has two interactions.
  """
  user_N = np.flatnonzero(train.length_U >= 2)
  if not len(user_N):
    raise UserError(
      "there is no example to train on: a history needs two training interactions"
    )
  length_N = train.length_U[user_N] - 1
  end_N = train.offset_U1[user_N + 1] - 1
  if whole:
    # The newest piece has the full width; the remainder is the oldest one.
    pieces_N = -(-length_N // width)
    later_M = pieces_N.sum() - 1 - np.arange(pieces_N.sum())
    later_M -= np.repeat(pieces_N.sum() - np.cumsum(pieces_N), pieces_N)
    end_N = np.repeat(end_N, pieces_N) - later_M * width
    length_N = np.repeat(length_N, pieces_N) - later_M * width
  length_N = np.minimum(length_N, width)
  row_N, column_N = pack(length_N, width, seed)
  row_E = np.repeat(row_N, length_N)
  column_E = concatenate_rows(np.arange(width), column_N, length_N)
  e_E = concatenate_rows(np.arange(len(train.item_E)), end_N - length_N, length_N)
  position_RH = np.full((row_N.max() + 1, width), -1, np.int32)
  position_RH[row_E, column_E] = e_E
  feed = Packs(train.item_E, train.user_E, position_RH)
  return feed, Plan(seed, batch_size, (width,), (len(position_RH),), width)


def gather(
  feed: Feed | Batch, key: jax.Array, batch: jax.Array, *, plan: Plan, bucket: int
) -> Batch:
  """Builds a batch of the feed on the device; returns `feed` itself if it is a `Batch`.

  `key`, `batch` and `bucket` come from `plan.at(step)`.
  """
  if isinstance(feed, Batch):
    return feed
  row_B, real_B = plan.places(key, batch, bucket, jnp)
  return rows_at(feed, row_B, real_B, key, plan=plan, bucket=bucket)


def rows_at(
  feed: Feed,
  row_B: jax.Array,
  real_B: jax.Array,
  key: jax.Array,
  *,
  plan: Plan,
  bucket: int,
) -> Batch:
  """Returns the rows of a bucket that have the numbers `row_B` (uint32) as a batch.

  Rows that are False in `real_B` are empty, with weight 0. If `plan.drawn`, `key` seeds
  the draw of the targets.
  """
  if isinstance(feed, Packs):
    return _sequences(feed, row_B, real_B)
  H = plan.widths[bucket]
  example_BK = feed.example_RK[bucket][row_B]
  real_BK = (example_BK >= 0) & real_B[:, None]
  example_BK = jnp.maximum(example_BK, 0)
  start_BK = feed.start_E[example_BK]
  length_BK = jnp.where(real_BK, jnp.minimum(example_BK - start_BK, plan.window), 0)
  # Histories follow each other; the last one ends with the row.
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
  one_each = ("user_B", "target_B", "weight_B")
  return found._replace(**{name: getattr(found, name)[:, 0] for name in one_each})


def _by_row(row_E: np.ndarray, column_E: np.ndarray, K: int) -> np.ndarray:
  """Returns each row's examples, sorted by column: [rows, K] int32; -1 = none."""
  order_E = np.lexsort((column_E, row_E))
  row_E = row_E[order_E]
  slot_E = np.arange(len(row_E)) - np.searchsorted(row_E, row_E)
  example_RK = np.full((row_E[-1] + 1, K), -1, np.int32)
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
