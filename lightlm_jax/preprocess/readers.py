"""Reads all formats into rows, with ids, times and ratings unchanged."""

import ast
from collections.abc import Callable, Iterator
import contextlib
import json
import re
from typing import Any, NamedTuple
import uuid

from etils import epath
import numpy as np
import polars as pl
import pyarrow
import pyarrow.csv
import pyarrow.parquet

from lightlm_jax.preprocess import delimited as lines
from lightlm_jax.preprocess import files, nested
from lightlm_jax.preprocess.files import COLONS, FOR_COLONS, Source
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.runtime.errors import UserError, first_line

_MARK = b"\xef\xbb\xbf"  # byte order mark
# Exceptions of pyarrow for damaged Parquet files.
_DAMAGED = (pyarrow.ArrowException, ValueError, KeyError, TypeError, MemoryError)


class Piece(NamedTuple):
  """Consecutive lines of a file, or rows of a Parquet file, not yet parsed."""

  content: Any  # lines as bytes, or a pyarrow.RecordBatch of a Parquet file
  line_R: np.ndarray  # 1-based number of each row's first line (Parquet: of each row)
  tally: Tally  # of lines that were rejected before parsing
  read: int  # bytes of the file read so far


def pieces(source: Source, size: int, rows: int = 2**18) -> Iterator[Piece]:
  """Yields the pieces of a file in order.

  A piece of a text file has about `size` bytes, one of a Parquet file at most `rows`.

  Raises:
    UserError: the file cannot be read to its end.
  """
  return _batches(source, rows) if source.form == "parquet" else _texts(source, size)


def parse(source: Source, piece: Piece) -> tuple[pyarrow.Table, Tally]:
  """Returns the rows of a piece, and the tally of its rows, rejected ones included.

  The table has a column for each role ("user", "item", …), `line` (int64, the row's
  line number) and, if lines hold several rows, `place` (int32, the row's place in its
  line). Missing and unusable values are null; an empty field of delimited text is "".

  Call this only once per piece, because it adds to the piece's tally.
  """
  if isinstance(piece.content, pyarrow.RecordBatch):
    columns, line_R = {n: piece.content.column(n) for n in source.roles}, piece.line_R
    columns, line_R = nested.exploded(columns, line_R, usable)
  elif source.form == "jsonl":
    columns, line_R = _json_lines(source, piece)
  elif source.form == "sequences":
    columns, line_R = _sequences(source, piece)
  else:
    columns, line_R = _delimited(source, piece)
    columns, line_R = nested.split(source, columns, line_R)
  line = pyarrow.array(np.asarray(line_R, np.int64))
  piece.tally.rows_in += len(line)
  return pyarrow.table({**columns, "line": line}), piece.tally


def parquet_schema(path: epath.Path) -> pyarrow.Schema:
  """Returns the schema of a Parquet file.

  Raises:
    UserError: it is not a Parquet file.
  """
  try:
    with files.opened(path) as (stream, _), pyarrow.parquet.ParquetFile(stream) as file:
      return file.schema_arrow
  except _DAMAGED as error:
    raise UserError(f"{path} is no Parquet file ({first_line(error)})")


def parquet_rows(
  source: Source, convert: Callable[[pyarrow.Array], Any], most: int = 2**18
) -> Iterator[tuple[dict[str, Any], int, int]]:
  """Yields (columns, rows, bytes) for batches of rows of a Parquet file or a table.

  The columns are a dict {role: column after `convert`}; `rows` is the batch's number of
  rows, at most `most`; `bytes` is roughly how much of the file has been read so far.

  Raises:
    UserError: the file is damaged.
  """
  names = source.columns
  if source.table is not None:
    for batch in source.table.to_batches(most):
      found = {role: convert(batch.column(name)) for role, name in names.items()}
      yield found, len(batch), 0
    return
  path, number = epath.Path(source.path), 0
  size = path.stat().length
  try:
    with (
      files.opened(path) as (stream, _),
      pyarrow.parquet.ParquetFile(stream, pre_buffer=False) as file,
    ):
      rows = file.metadata.num_rows
      listed = list(dict.fromkeys(names.values()))
      for batch in file.iter_batches(most, columns=listed, use_threads=False):
        number += len(batch)
        found = {role: convert(batch.column(name)) for role, name in names.items()}
        yield found, len(batch), int(size * min(1, number / max(1, rows)))
      if number != rows:
        raise UserError(f"{path} has {number} rows of {rows}; is it whole?")
  except _DAMAGED as error:
    raise UserError(f"cannot read {path} ({first_line(error)}); is it whole?")


def _texts(source: Source, size: int) -> Iterator[Piece]:
  rest, number, wants_header = b"", 1, source.header and bool(source.delimiter)
  for block in files.blocks(epath.Path(source.path), size, source.encoding):
    content, rest = rest + (b"" if block.too_long else block.content), b""
    tally = Tally()
    while wants_header and content:
      line, end, content = content.partition(b"\n")
      number += bool(end)
      wants_header = not line.strip(b" ")
    if source.delimiter == COLONS:
      content = content.replace(COLONS.encode(), FOR_COLONS.encode())
    if source.delimiter:
      is_last = block.last or block.too_long
      content, line_R, rest, number = lines.screen(
        source, content, number, is_last, tally
      )
    else:
      line_R = np.arange(number, number + files.count_lines(content))
      number += len(line_R)
    if block.too_long:
      text = block.content.decode(errors="replace")
      tally.reject("too_long", source.index, number, text)
      number += 1
    yield Piece(content, line_R, tally, block.read)


def _batches(source: Source, most: int) -> Iterator[Piece]:
  number = 1
  for columns, rows, read in parquet_rows(source, usable, most):
    batch = pyarrow.RecordBatch.from_pydict(columns)
    yield Piece(batch, np.arange(number, number + rows), Tally(), read)
    number += rows


def _delimited(source: Source, piece: Piece) -> tuple[dict[str, Any], np.ndarray]:
  if not len(piece.line_R):
    return dict.fromkeys(
      source.roles, pyarrow.array([], pyarrow.string())
    ), piece.line_R
  bad = []

  def refuse(row) -> str:
    bad.append(row.number - 1)
    if row.text.strip(" "):
      text = row.text.replace(source.between, source.delimiter)
      piece.tally.reject("columns", source.index, int(piece.line_R[bad[-1]]), text)
    return "skip"

  names = [f"{n}" for n in range(len(source.names))]
  wanted = [names[place] for place in source.roles.values()]
  content = piece.content
  if content.startswith(_MARK):
    content = _MARK + content  # the parser strips one, even in the middle of a file
  table = pyarrow.csv.read_csv(
    pyarrow.BufferReader(content),
    read_options=pyarrow.csv.ReadOptions(
      use_threads=False, block_size=len(content) + 1, column_names=names
    ),
    parse_options=pyarrow.csv.ParseOptions(
      delimiter=source.between,
      quote_char='"' if source.quotes else False,
      newlines_in_values=True,
      ignore_empty_lines=False,
      invalid_row_handler=refuse,
    ),
    convert_options=pyarrow.csv.ConvertOptions(
      column_types=dict.fromkeys(wanted, pyarrow.string()),
      include_columns=wanted,
      strings_can_be_null=False,
      check_utf8=False,  # already checked
    ),
  )
  line_R = np.delete(piece.line_R, bad)
  if len(line_R) != len(table):
    raise RuntimeError(
      f"{source.path} from line {piece.line_R[0]}: {len(piece.line_R)} rows, of which "
      f"the parser made {len(table)} and refused {len(bad)}"
    )
  return dict(zip(source.roles, table.columns)), line_R


def _json_lines(source: Source, piece: Piece) -> tuple[dict[str, Any], list[int]]:
  place_R, line_R = [], []
  columns: dict[str, Any] = {role: [] for role in source.columns}
  for line, raw in zip(piece.line_R.tolist(), piece.content.split(b"\n")):
    if not raw.strip():
      continue
    value = json_object(raw)
    if value is None:
      text = files.decoded(raw)
      reason = "not_utf8" if text is None else "not_json"
      text = lines.shown(raw) if text is None else text
      piece.tally.reject(reason, source.index, line, text)
      continue
    found = nested.objects(value, source)
    if not found:
      text = raw[:80].decode(errors="replace")
      piece.tally.reject("no_item", source.index, line, text)
    for role, name in source.columns.items():
      columns[role] += [_scalar(row.get(name)) for row in found]
    place_R += range(len(found))
    line_R += [line] * len(found)
  columns = {r: pyarrow.array(c, pyarrow.string()) for r, c in columns.items()}
  return columns | {nested.PLACE: pyarrow.array(place_R, pyarrow.int32())}, line_R


def json_object(raw: bytes) -> dict[str, Any] | None:
  """Returns the object on a line, of JSON or as Python writes a dict; None if none."""
  try:
    value = json.loads(raw)
  except (ValueError, RecursionError):
    value = None
    if re.match(rb"\s*\{\s*u?'", raw):
      with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        value = ast.literal_eval(raw.decode())
  return value if isinstance(value, dict) else None


def _sequences(source: Source, piece: Piece) -> tuple[dict[str, Any], list[int]]:
  users, items, place_R, line_R = [], [], [], []
  for line, raw in zip(piece.line_R.tolist(), piece.content.split(b"\n")):
    text = files.decoded(raw)
    if text is None:
      piece.tally.reject("not_utf8", source.index, line, lines.shown(raw))
      continue
    fields = text.split()
    if len(fields) == 1:
      piece.tally.reject("no_item", source.index, line, fields[0])
    rows = max(0, len(fields) - 1)
    users += fields[:1] * rows
    items += fields[1:]
    place_R += range(rows)
    line_R += [line] * rows
  columns = {
    "user": pyarrow.array(users, pyarrow.string()),
    "item": pyarrow.array(items, pyarrow.string()),
    "place": pyarrow.array(place_R, pyarrow.int32()),
  }
  return columns, line_R


def _scalar(value: Any) -> str | None:
  """Returns a JSON string or number as a string, 12.0 as 12; None for other values."""
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, str):
    try:
      value.encode()
    except UnicodeEncodeError:  # a lone surrogate, such as "\ud800"
      return None
    return value
  is_number = isinstance(value, int | float) and not isinstance(value, bool)
  return str(value) if is_number else None


def may_be_ids(kind: pyarrow.DataType) -> bool:
  """Whether columns of a type, or lists of it, can hold ids."""
  t = pyarrow.types
  if t.is_list(kind) or t.is_large_list(kind):
    return may_be_ids(kind.value_type)
  return not (t.is_boolean(kind) or t.is_temporal(kind) or t.is_nested(kind))


def usable(column: pyarrow.Array) -> pyarrow.Array:
  """Converts a column of strings, numbers, times or lists of them; else nulls."""
  if pyarrow.types.is_dictionary(column.type):
    column = column.dictionary_decode()
  kind, t = column.type, pyarrow.types
  if isinstance(kind, pyarrow.UuidType):
    return _as_text(column.storage)
  if t.is_list(kind) or t.is_large_list(kind):
    return column  # see nested.exploded
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
  """Converts strings or bytes to strings; 16 bytes that are no text are a UUID."""
  is_uuid = column.type == pyarrow.binary(16)
  column = column.cast(pyarrow.large_binary())
  try:
    texts = column.cast(pyarrow.large_string())
    if not is_uuid or pl.Series(texts).str.contains(r"^[[:print:]]*$").all():
      return texts
  except pyarrow.ArrowInvalid:
    pass
  raw_N = column.to_pylist()
  texts = [None if raw is None else _decoded(raw, is_uuid) for raw in raw_N]
  return pyarrow.array(texts, pyarrow.large_string())


def _decoded(raw: bytes, is_uuid: bool) -> str | None:
  text = files.decoded(raw)
  if is_uuid and (text is None or not text.isprintable()):
    return str(uuid.UUID(bytes=raw))
  return text
