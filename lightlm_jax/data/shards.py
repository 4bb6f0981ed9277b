"""Training rows on disk, for logs that exceed device memory.

A row has all that `feed.rows_at` returns for it, so batches are read without the log.
ArrayRecord files, which have random access, hold a fixed number of rows each, in the
order of the feed. A batch read from disk equals the one that the feed makes on the
device. Grain prefetches batches while the device computes. The rows of a step are a
function of (seed, step), so a run can resume at any step without a saved iterator.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import functools
import hashlib
import os
from typing import Any

from array_record.python import array_record_module
from etils import epath
import grain
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib

ROWS_A_FILE = 2**20
# Trade-off: more groups slow down reading, but a group is always decoded as a whole.
_WRITING = "group_size:16,uncompressed"
_AT_ONCE = 4_096  # rows computed together
_THREADS = 2
_DISPATCHES_AHEAD = 3


class Shards:
  """Reads the rows in a folder; raises UserError if it is missing or incomplete."""

  def __init__(self, folder: epath.PathLike):
    folder = epath.Path(folder)
    try:
      with folder_lib.opened(folder) as whole:
        self.about = whole.manifest
        self._readers = []
        for file in self.about["files"]:
          path = folder / file["name"]
          if path.stat().length != file["bytes"]:
            raise ValueError(f"{path.name} has {path.stat().length} bytes")
          self._readers.append(
            array_record_module.ArrayRecordReader(
              os.fspath(path), options="readahead_buffer_size:0"
            )
          )
    except folder_lib.NotWhole as error:
      raise UserError(f"cannot read the shards in {folder}: {error}; remove them")

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
    weight_BT = target_BT >= 0 if K else real_B
    return Batch(
      user_B=user_BK[:, 0] if K <= 1 else user_BK,
      history_BH=history_BH,
      segment_BH=segment_BH,
      target_B=target_BT[:, 0] if K == 1 else target_BT,
      weight_B=(weight_BT[:, 0] if K == 1 else weight_BT).astype(np.float32),
    )

  def _read(self, row_N: np.ndarray) -> np.ndarray:
    file_N, place_N = np.divmod(row_N, self.about["rows_a_file"])
    record_N = np.empty(len(row_N), object)  # bytes
    for file in np.unique(file_N):
      is_here_N = file_N == file
      record_N[is_here_N] = self._readers[file].read(place_N[is_here_N].tolist())
    return record_N


def batch_at(
  shards: Shards, plan: feed_lib.Plan, wanted_B: np.ndarray, step: int
) -> Batch:
  """Returns the batch of a step; rows that are False in `wanted_B` are empty."""
  bucket, key, batch = plan.at(np.array(step))
  row_B, real_B = plan.places(key, batch, int(bucket))
  return shards.rows(np.where(real_B & wanted_B, row_B.astype(int), -1))


def reader(
  shards: Shards, plan: feed_lib.Plan, mesh: Mesh, *, start: int, most: int
) -> Callable[[int], Batch]:
  """Returns a function that reads the batches of successive steps from `start` on.

  The function takes a number n of steps, at most `most` = K, and returns the next n
  batches of B rows in arrays [K, B, …] on the devices, sharded over the mesh's axis
  `data`; the last K - n batches are padding. A process reads only its devices' rows.
  """
  B = plan.batch_size
  over_rows = NamedSharding(mesh, PartitionSpec(None, "data"))
  wanted_B = np.zeros(B, bool)
  indices: Any = over_rows.addressable_devices_indices_map((most, B)).values()
  for _, rows in indices:
    wanted_B[rows] = True
  read_ahead = grain.ReadOptions(
    num_threads=_THREADS, prefetch_buffer_size=_DISPATCHES_AHEAD * most
  )
  at = functools.partial(batch_at, shards, plan, wanted_B)
  steps = grain.MapDataset.range(start, 2**31 - 1).map(at)
  batches = iter(steps.to_iter_dataset(read_ahead))

  def put(*leaves) -> jax.Array:
    leaf = np.stack(leaves)
    return jax.make_array_from_callback(leaf.shape, over_rows, leaf.__getitem__)

  def read(number: int) -> Batch:
    found = [next(batches) for _ in range(number)]
    return jax.tree.map(put, *found, *found[-1:] * (most - number))

  return read


def cached(root: epath.PathLike, feed: feed_lib.Feed, plan: feed_lib.Plan) -> Shards:
  """Opens the rows of a feed under `root`; writes them first if they are not there."""
  folder = epath.Path(root) / fingerprint(feed, plan)
  if not folder.exists():
    write(folder, [(feed, plan)])
  return Shards(folder)


def fingerprint(feed: feed_lib.Feed, plan: feed_lib.Plan) -> str:
  """Returns the SHA-256, in hexadecimal, of all that the feed's rows depend on."""
  sha256 = hashlib.sha256(repr((plan.widths, plan.window)).encode())
  for leaf in jax.tree.leaves(feed):
    sha256.update(np.ascontiguousarray(leaf))
  return sha256.hexdigest()


def write(
  folder: epath.PathLike,
  feeds: Iterable[tuple[feed_lib.Feed, feed_lib.Plan]],
  *,
  rows_a_file: int = ROWS_A_FILE,
) -> dict[str, Any]:
  """Writes the rows of several feeds, completely or not at all; returns the manifest.

  Each feed has the rows of some of the users. Its plan has a single bucket and no drawn
  targets (see `feed.Plan`). A file has `rows_a_file` rows, the last perhaps fewer.
  """
  files, writer = [], None
  rows = width = window = targets = 0
  with atomic.new_folder(epath.Path(folder), exists_ok=True) as part:
    for feed, plan in feeds:
      width, window = max(width, plan.widths[0]), plan.window
      if isinstance(feed, feed_lib.Positions):
        targets = feed.example_RK[0].shape[1]
      for record in _records(feed, plan):
        if rows % rows_a_file == 0:
          if writer is not None:
            writer.close()
          files.append(part / f"{len(files):05d}.array_record")
          writer = array_record_module.ArrayRecordWriter(os.fspath(files[-1]), _WRITING)
        writer.write(record)
        rows += 1
    writer.close()
    about = {
      "rows": rows,
      "rows_a_file": rows_a_file,
      "width": width,
      "window": window,
      "targets": targets,  # per row; 0 = one at every position
      "files": [{"name": file.name, "bytes": file.stat().length} for file in files],
    }
    folder_lib.write(part, {}, about)
  return about


def _records(feed: feed_lib.Feed, plan: feed_lib.Plan) -> Iterator[bytes]:
  """Yields the bytes of each row, int32: history, segments, users, targets.

  Rows of `Positions` lack the padding before histories; rows of `Packs` lack users.
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
    length_B = (batch.segment_BH > 0).sum(axis=1)
    for b in range(real_B.sum()):
      start = 0 if is_sequence else plan.widths[0] - length_B[b]
      row = [batch.history_BH[b, start:], batch.segment_BH[b, start:]]
      row += [] if is_sequence else [batch.user_B[b].reshape(-1)]
      yield np.concatenate([*row, batch.target_B[b].reshape(-1)]).tobytes()
