"""Reads a log from a pandas, polars or Arrow table, or from a table's file."""

import functools
from typing import Any

from etils import epath
import polars

from lightlm_jax.data import formats, interactions
from lightlm_jax.data.interactions import Dataset
from lightlm_jax.runtime.errors import UserError, first_line

# Ids are read as strings: 007 is not 7.
_IDS: Any = dict.fromkeys(("user", "item"), polars.String)
_READERS = {
  ".parquet": polars.read_parquet,
  ".csv": functools.partial(polars.read_csv, schema_overrides=_IDS),
  ".tsv": functools.partial(polars.read_csv, schema_overrides=_IDS, separator="\t"),
  ".jsonl": polars.read_ndjson,
}


def dataset(table: Any, items: Any | None = None) -> Dataset:
  """Returns the dataset of a table with one interaction per row.

  Args:
    table: pandas, polars or Arrow, or the path of a .parquet, .csv, .tsv or .jsonl
      file, with the columns `user` and `item` (strings or integers) and optionally
      `timestamp` (a date, or whole seconds since 1970). A user's rows are sorted by
      time; without times, or at equal times, they keep the order of the table.
    items: a table or a path as above, with one item per row, the column `item` and at
      least one column of formats.TEXTS; None = the items have no texts.

  Raises:
    UserError: no rows, a missing column or id, or a column of the wrong type.
  """
  given = _frame(table, "interactions")
  times = "timestamp" in given.columns
  rows = polars.DataFrame([_ids(given, n, "interactions") for n in ("user", "item")])
  if rows.is_empty():
    raise UserError("the interactions are a table without rows; give at least one")
  if times:
    rows = rows.with_columns(_seconds(given["timestamp"]))
    rows = rows.sort("timestamp", maintain_order=True)
  users = rows.group_by("user", maintain_order=True).agg(polars.exclude("user"))
  log = interactions.from_sequences(
    zip(users["user"].to_list(), users["item"].to_list()),
    times=users["timestamp"].to_list() if times else None,
  )
  titles = texts = None
  if items is not None:
    titles, texts = _texts(_frame(items, "items"), log.item_ids.tolist())
  return Dataset(log, titles, None, None, texts)


def _frame(table: Any, what: str) -> polars.DataFrame:
  """Returns a table, or the content of its file, as polars; errors call it `what`."""
  if isinstance(table, polars.LazyFrame):
    return table.collect()
  try:
    if not isinstance(table, str) and not hasattr(table, "__fspath__"):
      return polars.DataFrame(table)
    path = epath.Path(table)
    if path.suffix not in _READERS:
      known = f"ends with none of {', '.join(_READERS)}"
      raise UserError(
        f"{path} {known if path.exists() else 'does not exist'}; give such a file, a "
        "table, or a folder: `python -m lightlm_jax.prepare` makes one of logs of many "
        "forms"
      )
    with path.open("rb") as file:
      return _READERS[path.suffix](file.read())
  except OSError as error:
    raise UserError(f"cannot read {path}: {first_line(error)}")
  except (polars.exceptions.PolarsError, TypeError, ValueError) as error:
    raise UserError(
      f"the {what} are no table ({first_line(error)}); give pandas, polars, Arrow "
      "or a file"
    )


def _ids(rows: polars.DataFrame, name: str, what: str) -> polars.Series:
  if name not in rows.columns:
    raise UserError(
      f"the {what} have no column {name!r}, but {', '.join(rows.columns) or 'none'}; "
      "rename one of them"
    )
  column = rows[name]
  texts = (polars.String, polars.Categorical, polars.Enum)
  if not column.dtype.is_integer() and column.dtype not in texts:
    raise UserError(
      f"column {name!r} of the {what} is of type {column.dtype}; ids are texts or "
      "whole numbers"
    )
  column = column.cast(polars.String)
  bad = column.is_null() | (column == "") | column.str.contains("\0", literal=True)
  if (lost := bad.fill_null(True)).any():
    raise UserError(
      f"column {name!r} of the {what} has no id in {lost.sum():,} rows, first in row "
      f"{lost.arg_max()} (from 0); leave them out"
    )
  return column


def _seconds(column: polars.Series) -> polars.Series:
  """Returns a column of times as whole seconds since 1970, int64."""
  if column.dtype == polars.String:
    try:
      column = column.str.to_datetime()
    except polars.exceptions.PolarsError:
      pass  # it stays a string, which is refused below
  if column.dtype in (polars.Date, polars.Datetime):
    column = column.dt.epoch("s")
  most = 10**formats.MOST_DIGITS
  if not column.dtype.is_integer() or column.null_count() or (column >= most).any():
    raise UserError(
      f"column 'timestamp' is of type {column.dtype}, from {column.min()} to "
      f"{column.max()}, {column.null_count():,} missing; give dates, or whole seconds "
      "since 1970, in every row, or no such column"
    )
  return column.cast(polars.Int64)


def _texts(items: polars.DataFrame, catalogue: list[str]):
  """Returns an iterable of two lists, titles and texts of `catalogue`; "" = unknown."""
  names = [name for name in items.columns if name in formats.TEXTS]
  if not names:
    raise UserError(
      f"the items have none of the columns {', '.join(formats.TEXTS)}, but "
      f"{', '.join(items.columns)}; rename one of them"
    )
  ids = _ids(items, "item", "items").to_list()
  columns = items.select(polars.col(names).cast(polars.String).fill_null(""))
  texts = dict(zip(ids, map(" ".join, columns.iter_rows())))
  title = "title" if "title" in names else names[0]
  titles = dict(zip(ids, columns[title].to_list()))
  return ([of.get(item, "") for item in catalogue] for of in (titles, texts))
