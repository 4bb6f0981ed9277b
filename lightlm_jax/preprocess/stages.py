"""The steps of a preparation; most work on one part of the log in the work folder.

A step on one part gets the part's number and writes files with that number. An engine
may run the parts in any order, on any machine with access to the folder, and repeat
them after a failure. Memory holds one part (or shard) and the catalogue (id, hash,
number of rows), but no rows or users of other parts.
"""

import io
import itertools
import logging
from typing import IO, Any, NamedTuple

from etils import epath
import numpy as np
import polars as pl
import pyarrow
import pyarrow.ipc

from lightlm_jax.data.interactions import hash_order
from lightlm_jax.preprocess import sequences
from lightlm_jax.preprocess import shards_out as output
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.storage import atomic

logger = logging.getLogger(__name__)

_COMPRESSED = pyarrow.ipc.IpcWriteOptions(compression="lz4")


class Layout(NamedTuple):
  """The work folder of a preparation, and its numbers of parts and shards."""

  folder: str  # all workers have access to it
  parts: int  # of the log, by a hash of the user
  shards: int = 0  # of the output

  def path(self, name: str, number: int | None = None) -> epath.Path:
    tail = "" if number is None else f"-{number:05d}"
    return epath.Path(self.folder) / f"{name}{tail}.arrow"


def settle(layout: Layout, part: int, rows: pyarrow.Table, options: Options) -> Tally:
  """Groups a part's rows by user; writes its users and items, returns the tally."""
  users, items, tally = sequences.settle(rows, options)
  write(layout.path("users", part), users.table())
  write(layout.path("items", part), items)
  return tally


def catalogue(layout: Layout) -> pl.DataFrame:
  """Returns a table of the log's items in hash order: `item` (raw id), `rows` (count).

  An item's number is its index in this table. Tables of parts are added to a sum as
  soon as they outgrow it, so that memory does not hold an item once for each part.
  """
  schema: Any = {"item": pl.String, "rows": pl.Int64}
  total, waiting, size = pl.DataFrame(schema=schema), [], 0
  for part in range(layout.parts):
    waiting.append(pl.DataFrame(read(layout.path("items", part))).cast(schema))
    size += len(waiting[-1])
    if size > max(2**20, len(total)):
      total, waiting, size = _sum([total, *waiting]), [], 0
  total = _sum([total, *waiting])
  return total[hash_order(total["item"])]


def number(layout: Layout, part: int) -> None:
  """Rewrites a part with catalogue item numbers, a record batch per output shard."""
  items = pl.DataFrame(read(layout.path("items", part)).select(["item"]))
  catalogue = pl.DataFrame(read(layout.path("catalogue"))).select(
    "item", number=pl.int_range(pl.len(), dtype=pl.Int32)
  )
  joined = items.join(catalogue, on="item", how="left", maintain_order="left")
  users = sequences.users_of(read(layout.path("users", part)))
  users = users._replace(item_E=joined["number"].to_numpy()[users.item_E])
  table, bounds = users.table(), sequences.shard_bounds(users, layout.shards)
  slices = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
  write(layout.path("numbered", part), *slices)


def count(layout: Layout, part: int, allowed_name: str, min_len: int) -> None:
  """Writes a part's number of rows per item, for one round of `core`.

  Rows of items that the file `allowed_name` does not allow are left out, and so are all
  rows of users with fewer than `min_len` rows of allowed items.
  """
  allowed_I = np.asarray(read(layout.path(allowed_name))["allowed"])
  users = sequences.users_of(read(layout.path("numbered", part)))
  keep_E = sequences.remaining(users, allowed_I, min_len)
  rows_I = np.bincount(users.item_E[keep_E], minlength=len(allowed_I))
  write(layout.path("counts", part), pyarrow.table({"rows": rows_I}))


def core(layout: Layout, engine, items: int, min_len: int, min_rows: int) -> np.ndarray:
  """Computes the k-core of a log with I = `items` items.

  Returns the number of rows left of each item, [I] int64, 0 = dropped.

  Users with fewer than `min_len` rows and items with fewer than `min_rows` are dropped
  until none is left to drop. In every round the engine passes over all parts once; one
  flag per item is kept between rounds.
  """
  allowed_I, before, rounds = np.ones(items, bool), -1, 0
  while True:
    rounds += 1
    name = f"allowed-{rounds}"
    write(layout.path(name), pyarrow.table({"allowed": allowed_I}))
    options = {"allowed_name": name, "min_len": min_len}
    engine.each(count, layout, title="core", number=layout.parts, **options)
    rows_I = np.zeros(items, np.int64)
    for part in range(layout.parts):
      rows_I += np.asarray(read(layout.path("counts", part))["rows"])
    rows = int(rows_I.sum())
    if max(min_len, min_rows) > 1:
      logger.info(f"round {rounds}: {rows:,} rows, {(rows_I > 0).sum():,} items")
    still_I = rows_I >= max(min_rows, 1)
    # Without a minimum for items one pass suffices: users are independent.
    if min_rows <= 1 or rows in (0, before) or (still_I == allowed_I).all():
      write(layout.path("allowed"), pyarrow.table({"allowed": still_I}))
      return np.where(still_I, rows_I, 0)
    allowed_I, before = still_I, rows


def shard(layout: Layout, number: int, min_len: int) -> dict:
  """Writes shard `number` of the rows that `core` kept; returns its manifest entry."""
  allowed_I = np.asarray(read(layout.path("allowed"))["allowed"])
  batches = []
  for part in range(layout.parts):
    with layout.path("numbered", part).open("rb") as file:
      batches.append(pyarrow.ipc.open_file(file).get_batch(number))
  table = pl.DataFrame(pyarrow.Table.from_batches(batches)).sort("high", "low")
  users = sequences.users_of(table.to_arrow())
  users = sequences.cut(users, sequences.remaining(users, allowed_I, min_len))
  number_I = (np.cumsum(allowed_I) - 1).astype(np.int32)
  users = users._replace(item_E=number_I[users.item_E])
  return output.write_shard(epath.Path(layout.folder), number, layout.shards, users)


def write(path: epath.Path, *tables: pyarrow.Table) -> None:
  """Writes tables of the same schema to one Arrow file atomically, each as a batch."""
  sink = io.BytesIO()
  with pyarrow.ipc.new_file(sink, tables[0].schema, options=_COMPRESSED) as writer:
    for table in tables:
      columns = [column.combine_chunks() for column in table.columns]
      writer.write(pyarrow.RecordBatch.from_arrays(columns, schema=table.schema))
  atomic.write_own(path, sink.getbuffer())


def write_stream(file: IO[bytes], table: pyarrow.Table) -> None:
  with pyarrow.ipc.new_stream(file, table.schema, options=_COMPRESSED) as writer:
    writer.write_table(table)


def read(path: epath.Path) -> pyarrow.Table:
  return pyarrow.ipc.open_file(pyarrow.BufferReader(path.read_bytes())).read_all()


def _sum(frames: list[pl.DataFrame]) -> pl.DataFrame:
  return pl.concat(frames).group_by("item").agg(pl.col("rows").sum())
