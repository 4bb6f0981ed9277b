"""Reads Parquet files in batches of rows; unusable values become null."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from etils import epath
import pyarrow
import pyarrow.parquet

from lightlm_jax.preprocess import files
from lightlm_jax.runtime.errors import UserError

_ROWS = 2**18  # at once
# Exceptions of pyarrow for damaged Parquet files.
_DAMAGED = (pyarrow.ArrowException, ValueError, KeyError, TypeError, MemoryError)


def schema(path: epath.Path) -> pyarrow.Schema:
  """Returns the schema of a Parquet file.

  Raises:
    UserError: it is not a Parquet file.
  """
  try:
    with files.opened(path) as (stream, _), pyarrow.parquet.ParquetFile(stream) as file:
      return file.schema_arrow
  except _DAMAGED as error:
    raise UserError(f"{path} is no Parquet file ({files.first_line(error)})")


def read(
  path: epath.Path, names: Mapping[str, str], convert: Callable[[pyarrow.Array], Any]
) -> Iterator[tuple[dict[str, Any], int, int]]:
  """Yields the columns of a Parquet file in batches of rows.

  Args:
    path: of the file.
    names: column names by role.
    convert: applied to every column.

  Yields:
    Columns by role, the number of rows, and bytes of the file read so far.

  Raises:
    UserError: the file is damaged.
  """
  number, size = 0, path.stat().length
  try:
    with (
      files.opened(path) as (stream, _),
      pyarrow.parquet.ParquetFile(stream, pre_buffer=False) as file,
    ):
      rows = file.metadata.num_rows
      listed = list(dict.fromkeys(names.values()))
      for batch in file.iter_batches(_ROWS, columns=listed, use_threads=False):
        number += len(batch)
        found = {role: convert(batch.column(name)) for role, name in names.items()}
        yield found, len(batch), int(size * min(1, number / max(1, rows)))
      if number != rows:
        raise UserError(f"{path} has {number} rows of {rows}; is it whole?")
  except _DAMAGED as error:
    raise UserError(f"cannot read {path} ({files.first_line(error)}); is it whole?")


def usable(column: pyarrow.Array) -> pyarrow.Array:
  """Returns a column as text, numbers or times; nulls for any other type."""
  if pyarrow.types.is_dictionary(column.type):
    column = column.dictionary_decode()
  kind, t = column.type, pyarrow.types
  texts = (t.is_string, t.is_large_string, t.is_string_view)
  texts += (t.is_binary, t.is_large_binary, t.is_fixed_size_binary)
  if any(is_kind(kind) for is_kind in texts):
    return _as_text(column)
  if t.is_integer(kind) or t.is_timestamp(kind) or t.is_date(kind):
    return column
  if t.is_decimal(kind) and kind.scale <= 0:
    return column.cast(pyarrow.large_string())
  if t.is_floating(kind) or t.is_decimal(kind):
    return column.cast(pyarrow.float64())
  return pyarrow.nulls(len(column), pyarrow.string())


def _as_text(column: pyarrow.Array) -> pyarrow.Array:
  """Returns bytes as text; null if they are not UTF-8."""
  column = column.cast(pyarrow.large_binary())
  try:
    return column.cast(pyarrow.large_string())
  except pyarrow.ArrowInvalid:
    raw_N = column.to_pylist()
    texts = [None if raw is None else files.decoded(raw) for raw in raw_N]
    return pyarrow.array(texts, pyarrow.large_string())
