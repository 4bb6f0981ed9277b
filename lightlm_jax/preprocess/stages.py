"""The steps of a preparation, each over the parts of a log as files in a folder.

A step takes a number and leaves files of that number, so that any engine may run the
numbers of a step in any order, on any machine that sees the folder, and again after a
death. What is held in memory: one part (or one shard), and for the whole log its items
(id, hash, number of rows); never a row or a user of another part.
"""

import io
import itertools
from typing import NamedTuple

from etils import epath
import numpy as np
import polars as pl
import pyarrow
import pyarrow.ipc

from lightlm_jax.data.interactions import hash_keys
from lightlm_jax.preprocess import files, sequences
from lightlm_jax.preprocess import shards_out as output
from lightlm_jax.preprocess.sequences import Policy
from lightlm_jax.preprocess.tally import Tally

COMPRESSED = pyarrow.ipc.IpcWriteOptions(compression="lz4")


class Layout(NamedTuple):
  """Where a preparation works, and how finely.

  Attributes:
    folder: of its own, seen by all workers.
    parts: of the log, by a hash of the user.
    shards: of the output.
    block_bytes: of a file that are read at once; a line is no longer.
  """

  folder: str
  parts: int
  shards: int = 0
  block_bytes: int = files.BLOCK

  def path(self, name: str, number: int | None = None) -> epath.Path:
    tail = "" if number is None else f"-{number:05d}"
    return epath.Path(self.folder) / f"{name}{tail}.arrow"


def settle(layout: Layout, part: int, rows: pyarrow.Table, policy: Policy) -> Tally:
  """A part's rows become users, and the items that they have."""
  users, items, tally = sequences.settle(rows, policy)
  write(layout.path("users", part), users.table())
  write(layout.path("items", part), items)
  return tally


def catalogue(layout: Layout) -> pl.DataFrame:
  """All items (`item`, `rows`) in the order of their hash, as they are numbered.

  The parts' lists are added up whenever they outgrow what there is: a list that many
  parts have is not held for each of them.
  """
  schema = {"item": pl.String, "rows": pl.Int64}
  total, waiting, size = pl.DataFrame(schema=schema), [], 0
  for part in range(layout.parts):
    path = layout.path("items", part)
    if not path.exists():
      continue
    waiting.append(pl.from_arrow(read(path)).cast(schema))
    size += len(waiting[-1])
    if size > max(2**20, len(total)):
      total, waiting, size = _sum([total, *waiting]), [], 0
  total = _sum([total, *waiting])
  key_I2 = hash_keys(total["item"])
  return total[np.lexsort((key_I2[:, 1], key_I2[:, 0]))]


def number(layout: Layout, part: int) -> None:
  """Items of a part get the catalogue's numbers; its users are cut into shards."""
  items = pl.from_arrow(read(layout.path("items", part)).select(["item"]))
  catalogue = pl.from_arrow(read(layout.path("catalogue"))).select(
    "item", number=pl.int_range(pl.len(), dtype=pl.Int32)
  )
  joined = items.join(catalogue, on="item", how="left", maintain_order="left")
  users = sequences.users_of(read(layout.path("users", part)))
  users = users._replace(item_E=joined["number"].to_numpy()[users.item_E])
  table, bounds = users.table(), sequences.shard_bounds(users, layout.shards)
  slices = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
  write(layout.path("numbered", part), table.schema, slices)


def count(layout: Layout, part: int, open_name: str, min_len: int) -> dict[str, int]:
  """Rows of each item once short users are left out, as a file; rows and users."""
  open_I = np.asarray(read(layout.path(open_name))["open"])
  users = sequences.users_of(read(layout.path("numbered", part)))
  keep_E = sequences.remaining(users, open_I, min_len)
  rows_I = np.bincount(users.item_E[keep_E], minlength=len(open_I))
  write(layout.path("counts", part), pyarrow.table({"rows": rows_I}))
  return {"rows": int(keep_E.sum())}


def core(
  layout: Layout, engine, items: int, min_len: int, min_rows: int, say
) -> tuple[np.ndarray, int]:
  """Leaves out short users and rare items, over and over, until none is left.

  Every round is a pass over the parts; between rounds a flag for each item is kept.

  Args:
    layout: of numbered parts.
    engine: runs a step for every part.
    items: I, of the catalogue.
    min_len: rows of a user, at least.
    min_rows: rows of an item, at least.
    say: told of every round.

  Returns:
    The number of rows that each item is left with, 0 of those that go; and all rows.
  """
  open_I, before, rounds = np.ones(items, bool), -1, 0
  while True:
    name = f"open-{rounds}"
    write(layout.path(name), pyarrow.table({"open": open_I}))
    found = engine.each(
      count, layout, open_name=name, min_len=min_len, title="core", number=layout.parts
    )
    rows = sum(part["rows"] for part in found)
    rows_I = np.zeros(items, np.int64)
    for part in range(layout.parts):
      rows_I += np.asarray(read(layout.path("counts", part))["rows"])
    rounds += 1
    if max(min_len, min_rows) > 1:
      say(f"round {rounds}: {rows:,} rows, {(rows_I > 0).sum():,} items")
    still_I = rows_I >= max(min_rows, 1)
    # Without a minimum for items one pass is all: users are independent.
    done = not rows or rows == before or (still_I == open_I).all()
    if done or min_rows <= 1:
      write(layout.path("open"), pyarrow.table({"open": still_I}))
      return np.where(still_I, rows_I, 0), rows
    open_I, before = still_I, rows


def shard(layout: Layout, number: int, min_len: int) -> dict:
  """Gathers a shard from all parts and writes its files; says what they hold."""
  open_I = np.asarray(read(layout.path("open"))["open"])
  tables = [
    _batch(layout.path("numbered", part), number) for part in range(layout.parts)
  ]
  users = sequences.users_of(pyarrow.concat_tables(tables))
  users = sequences.cut(users, sequences.remaining(users, open_I, min_len))
  users = sequences.in_order(users)
  number_I = (np.cumsum(open_I) - 1).astype(np.int32)
  users = users._replace(item_E=number_I[users.item_E])
  return output.write_shard(epath.Path(layout.folder), number, layout.shards, users)


def write(path: epath.Path, table, batches=None) -> None:
  """Writes a table, or tables of a schema each as a batch; whole or not at all."""
  sink = io.BytesIO()
  schema = table if batches is not None else table.schema
  with pyarrow.ipc.new_file(sink, schema, options=COMPRESSED) as writer:
    for batch in [table] if batches is None else batches:
      whole = batch.combine_chunks().to_batches()
      writer.write_batch(
        whole[0] if whole else pyarrow.RecordBatch.from_pylist([], schema)
      )
  output.put(path, sink.getbuffer())


def read(path: epath.Path) -> pyarrow.Table:
  return pyarrow.ipc.open_file(pyarrow.BufferReader(path.read_bytes())).read_all()


def _batch(path: epath.Path, number: int) -> pyarrow.Table:
  with path.open("rb") as file:
    reader = pyarrow.ipc.open_file(file)
    return pyarrow.Table.from_batches([reader.get_batch(number)])


def _sum(frames: list[pl.DataFrame]) -> pl.DataFrame:
  return pl.concat(frames).group_by("item").agg(pl.col("rows").sum())
