"""Training rows on disk, for logs that exceed device memory.

A row is what `feed.rows_at` returns: self-contained, so that a batch is read without
the log. ArrayRecord files hold a fixed number of rows each, in the order of the feed,
with random access; batches from disk equal those on the device, row by row.
"""

from collections.abc import Iterable, Iterator, Sequence
import functools
import hashlib
import os
from typing import Any

from array_record.python import array_record_module
from etils import epath
import jax
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib

ROWS_A_FILE = 2**20
# Reading slows down with the number of groups, and a group is decoded as a whole.
_WRITING = "group_size:16,uncompressed"
_AT_ONCE = 4_096  # rows computed together


class Shards:
  """The rows of a folder, by number."""

  def __init__(self, folder: epath.PathLike):
    """Opens a folder from `write`.

    Raises:
      UserError: it is missing or incomplete.
    """
    folder = epath.Path(folder)
    try:
      with folder_lib.opened(folder) as whole:
        self.about = whole.manifest
        paths = [folder / file["name"] for file in self.about["files"]]
        for path, file in zip(paths, self.about["files"]):
          if path.stat().length != file["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().length} bytes")
        self._readers = [
          array_record_module.ArrayRecordReader(
            os.fspath(path), options="readahead_buffer_size:0"
          )
          for path in paths
        ]
    except folder_lib.NotWhole as error:
      raise UserError(f"cannot read the shards in {folder}: {error}; remove them")

  def plan(self, seed: int, batch_size: int) -> feed_lib.Plan:
    """Returns the plan of a run over these rows, as over the original feed.

    Args:
      seed: of the order.
      batch_size: rows per step.
    """
    a = self.about
    return feed_lib.Plan(seed, batch_size, (a["width"],), (a["rows"],), a["window"])

  def rows(self, row_B: Sequence[int] | np.ndarray) -> Batch:
    """Returns the rows with these numbers as a numpy batch; -1 = an empty row."""
    H, K = self.about["width"], self.about["targets"]
    B = len(row_B)
    history_BH = np.full((B, H), -1, np.int32)
    segment_BH = np.zeros((B, H), np.int32)
    user_BK = np.full((B, max(K, 1)), -1, np.int32)
    target_BT = np.full((B, K or H), -1, np.int32)
    real_B = np.asarray(row_B) >= 0
    for b, row in zip(np.flatnonzero(real_B), self._read(np.asarray(row_B)[real_B])):
      row = np.frombuffer(row, np.int32)
      n = (len(row) - 2 * K) // 2 if K else len(row) // 3
      history_BH[b, H - n :], segment_BH[b, H - n :] = row[:n], row[n : 2 * n]
      if K:
        user_BK[b], target_BT[b] = row[2 * n :].reshape(2, K)
      else:
        target_BT[b] = row[2 * n :]
    one = K <= 1
    weight_BT = target_BT >= 0 if K else real_B
    return Batch(
      user_B=user_BK[:, 0] if one else user_BK,
      history_BH=history_BH,
      segment_BH=segment_BH,
      target_B=target_BT[:, 0] if K == 1 else target_BT,
      weight_B=(weight_BT[:, 0] if K == 1 else weight_BT).astype(np.float32),
    )

  def _read(self, row_N: np.ndarray) -> list[bytes]:
    file_N, place_N = np.divmod(row_N, self.about["rows_a_file"])
    found = [b""] * len(row_N)
    for file in np.unique(file_N):
      here = np.flatnonzero(file_N == file)
      records = self._readers[file].read(place_N[here].tolist())
      for n, record in zip(here, records):
        found[n] = record
    return found


def write(
  folder: epath.PathLike,
  feeds: Iterable[tuple[feed_lib.Positions | feed_lib.Packs, feed_lib.Plan]],
  *,
  rows_a_file: int = ROWS_A_FILE,
) -> dict[str, Any]:
  """Writes the rows of several feeds, completely or not at all.

  Args:
    folder: a new one.
    feeds: of blocks of users, each with a single bucket and without drawn targets.
    rows_a_file: rows of every file but the last.

  Returns:
    The manifest.

  Raises:
    UserError: the folder cannot be written.
  """
  with atomic.new_folder(epath.Path(folder), exists_ok=True) as part:
    about = _write(part, feeds, rows_a_file)
    folder_lib.write(part, {}, about)
  return about


def cached(
  root: epath.PathLike,
  feed: feed_lib.Positions | feed_lib.Packs,
  plan: feed_lib.Plan,
) -> Shards:
  """Returns the rows of a feed, written under `root` unless they are there already."""
  folder = epath.Path(root) / fingerprint(feed, plan)
  if not folder.exists():
    write(folder, [(feed, plan)])
  return Shards(folder)


def fingerprint(feed: feed_lib.Positions | feed_lib.Packs, plan: feed_lib.Plan) -> str:
  """Returns the SHA-256 of all inputs of a feed's rows, in hexadecimal."""
  sha256 = hashlib.sha256(repr((plan.widths, plan.window)).encode())
  for leaf in jax.tree.leaves(feed):
    sha256.update(np.ascontiguousarray(leaf))
  return sha256.hexdigest()


def _write(folder: epath.Path, feeds, rows_a_file: int) -> dict[str, Any]:
  files, writer = [], None
  rows = width = window = targets = 0
  for feed, plan in feeds:
    width, window = max(width, plan.widths[0]), plan.window
    is_sequence = isinstance(feed, feed_lib.Packs)
    targets = 0 if is_sequence else feed.example_RK[0].shape[1]
    for record in _records(feed, plan):
      if rows % rows_a_file == 0:
        if writer is not None:
          writer.close()
        files.append(folder / f"{len(files):05d}.array_record")
        writer = array_record_module.ArrayRecordWriter(os.fspath(files[-1]), _WRITING)
      writer.write(record)
      rows += 1
  writer.close()
  return {
    "rows": rows,
    "rows_a_file": rows_a_file,
    "width": width,
    "window": window,
    "targets": targets,  # per row; 0 = one at every position
    "files": [{"name": file.name, "bytes": file.stat().length} for file in files],
  }


def _records(
  feed: feed_lib.Positions | feed_lib.Packs, plan: feed_lib.Plan
) -> Iterator[bytes]:
  """Yields the rows as int32 bytes: history, segments, users, targets.

  Padding before a history is omitted, and so are the users of packed sequences.
  """
  assert len(plan.widths) == 1
  assert not plan.drawn
  make = jax.jit(functools.partial(feed_lib.rows_at, plan=plan, bucket=0))
  feed = jax.device_put(feed)
  for first in range(0, plan.sizes[0], _AT_ONCE):
    row_B = np.arange(first, first + _AT_ONCE)
    real_B = row_B < plan.sizes[0]
    row_B = np.minimum(row_B, plan.sizes[0] - 1).astype(np.uint32)
    batch = jax.device_get(make(feed, row_B, real_B, np.uint32(0)))
    is_sequence = batch.target_B.shape == batch.history_BH.shape
    start_B = np.zeros(_AT_ONCE, int)
    if not is_sequence:
      start_B = plan.widths[0] - (batch.segment_BH > 0).sum(axis=1)
    for b in range(real_B.sum()):
      history_segment = [x[b, start_B[b] :] for x in batch[1:3]]
      users = [] if is_sequence else [batch.user_B[b].reshape(-1)]
      row = [*history_segment, *users, batch.target_B[b].reshape(-1)]
      yield np.concatenate(row).tobytes()
