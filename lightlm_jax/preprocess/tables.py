"""Reads a log that fits in memory: a pandas, polars or Arrow table, or files."""

import itertools
import os
from typing import Any

from etils import epath
import polars as pl
import pyarrow

from lightlm_jax.data import formats, interactions
from lightlm_jax.data.interactions import Dataset, Interactions
from lightlm_jax.preprocess import columns, files, readers, rows, sequences
from lightlm_jax.preprocess import items as items_lib
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.runtime.errors import UserError, first_line


def dataset(table: Any, items: Any | None = None) -> Dataset:
  """Returns the dataset of a table or file with one interaction per row.

  Args:
    table: pandas, polars or Arrow, or the path of anything that `prepare` reads, with
      the columns `user` and `item`, and optionally `timestamp`, or other common names.
      They are found and read as by `prepare`, but a row that cannot be read is an
      error. Without times, a user's rows keep the order of the table.
    items: a table or a path as above, with one item per row, the column `item` and at
      least one column of formats.TEXTS; None = the items have no texts.

  Raises:
    UserError: no rows, a missing column or id, or a column of the wrong type.
  """
  log = _log(table)
  if items is None:
    return Dataset(log, None, None, None, None)
  if _is_path(items):
    source = items_lib.source_of(_found(items)[0][0])
  else:
    source = _of_table(items, "the items")
  texts, attributes, _ = items_lib.texts(source, log.item_ids.tolist(), None)
  if not texts:
    raise UserError(
      f"the items have none of the columns {', '.join(formats.TEXTS)}, but "
      f"{', '.join(source.names)}; rename one of them"
    )
  titles = texts.get("title") or next(iter(texts.values()))
  joined = [" ".join(filter(None, parts)) for parts in zip(*texts.values())]
  numbers = None if attributes is None else formats.number_attributes(attributes)
  return Dataset(log, titles, None, numbers, joined)


def _log(table: Any) -> Interactions:
  options = Options("", "")
  if _is_path(table):
    sources, read = columns.decide(_found(table), options)
  else:
    source = _of_table(table, "the interactions")
    if not source.table.num_rows:
      raise UserError("the interactions are a table without rows; give at least one")
    sources, read = columns.with_roles([source], options)
  options = Options("", "", time_unit=read.unit, clock=read.clock)
  tables, tally = [rows.SCHEMA.empty_table()], Tally()
  for source in sources:
    for piece in readers.pieces(source, options.block_bytes):
      by_part, found = rows.read(source, piece, options, 1)
      tables += by_part.values()
      tally += found
  if tally.rejected:
    first = tally.first({source.index: source.path for source in sources})
    raise UserError(
      f"{tally.rejected.total():,} of {tally.rows_in:,} rows cannot be read, the "
      f"first: {first}; leave them out"
    )
  users, catalogue, _ = sequences.settle(pyarrow.concat_tables(tables), options)
  item_E = catalogue["item"].take(pyarrow.array(users.item_E)).to_pylist()
  bounds = list(itertools.pairwise(users.offset_U1.tolist()))
  seconds: Any = None if users.time_E is None else users.time_E // 10**6
  return interactions.from_sequences(
    ((user, item_E[a:b]) for user, (a, b) in zip(users.user_U.to_pylist(), bounds)),
    times=None if seconds is None else [seconds[a:b] for a, b in bounds],
  )


def _found(path: str | os.PathLike) -> list[tuple[epath.Path, str]]:
  """Returns the files of a path or glob, and their formats."""
  try:
    return files.find(os.fspath(path))
  except UserError as error:
    raise UserError(f"{error}".removeprefix("--input="))


def _is_path(value: Any) -> bool:
  return isinstance(value, str | os.PathLike)


def _of_table(table: Any, what: str) -> Source:
  """Returns a table in memory as a source; errors call it `what`."""
  try:
    if isinstance(table, pl.LazyFrame):
      table = table.collect()
    frame = pl.DataFrame(table)
  except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
    raise UserError(
      f"{what} are no table ({first_line(error)}); give pandas, polars, Arrow or a file"
    )
  names = tuple(frame.columns)
  return Source(what, 0, "parquet", names=names, header=True, table=frame.to_arrow())
