"""Readers of all formats: rows with ids, times and ratings as the file has them."""

from collections.abc import Iterator, Mapping
import itertools
import json
from typing import Any, NamedTuple

from etils import epath
import numpy as np
import pyarrow
import pyarrow.csv

from lightlm_jax.preprocess import delimited as lines
from lightlm_jax.preprocess import files
from lightlm_jax.preprocess import parquet_rows as parquet
from lightlm_jax.preprocess.tally import Rejected

COLONS = "::"  # between the columns of MovieLens' .dat files
_FOR_COLONS = "\x1f"  # a single byte for the parser, absent from texts
_MARK = b"\xef\xbb\xbf"  # byte order mark


class Source(NamedTuple):
  """A file of a log, and how to read it.

  Attributes:
    path: as text.
    index: position among the files, which orders rows of equal times.
    form: one of files.FORMATS.
    names: all columns, in order.
    roles: the column index of every role that the log has.
    delimiter: between columns; one byte, or COLONS.
    header: whether the first line has the columns' names.
  """

  path: str
  index: int
  form: str
  names: tuple[str, ...] = ()
  roles: Mapping[str, int] = {}
  delimiter: str = ""
  header: bool = False

  @property
  def has_quotes(self) -> bool:
    """Whether a field may be quoted, `"…"`."""
    return self.form == "csv" and self.delimiter != COLONS

  @property
  def between(self) -> str:
    """The byte between columns that the parser gets."""
    return _FOR_COLONS if self.delimiter == COLONS else self.delimiter


class Piece(NamedTuple):
  """A part of a file, not yet parsed.

  Attributes:
    content: lines, or rows of a Parquet file.
    line_R: the line or row number of each row.
    rejected: lines that were rejected before parsing.
    read: bytes of the file read so far.
  """

  content: Any  # bytes, or pyarrow.RecordBatch
  line_R: np.ndarray
  rejected: Rejected
  read: int


class Parsed(NamedTuple):
  """The rows of a piece.

  Attributes:
    table: columns by role, `line` int64, and `place` int32 within the line if a line
      holds several rows. Missing and unusable values are null.
    rejected: the rejected rows.
    rows: the number of rows, rejected ones included.
  """

  table: pyarrow.Table
  rejected: Rejected
  rows: int


def pieces(source: Source, size: int) -> Iterator[Piece]:
  """Yields the parts of a file, in order.

  Raises:
    UserError: the file cannot be read to its end.
  """
  return _batches(source) if source.form == "parquet" else _texts(source, size)


def parse(source: Source, piece: Piece) -> Parsed:
  """Returns the rows of a piece; each row is either in the table or rejected.

  Parse a piece only once: this adds to its `rejected`.
  """
  rejected = piece.rejected
  before = rejected.total()
  if isinstance(piece.content, pyarrow.RecordBatch):
    batch = piece.content
    columns = {role: batch.column(role) for role in source.roles}
    table, rows = _table(columns, piece.line_R), len(piece.line_R)
  elif source.form == "jsonl":
    table, rows = _json_lines(source, piece, rejected)
  elif source.form == "sequences":
    table, rows = _sequences(piece, rejected)
  else:
    table, rows = _delimited(source, piece, rejected)
  return Parsed(table, rejected, rows + before)


def _texts(source: Source, size: int) -> Iterator[Piece]:
  rest, number, wants_header = b"", 1, source.header and bool(source.delimiter)
  for block in files.blocks(epath.Path(source.path), size):
    content, rest = rest + (b"" if block.too_long else block.content), b""
    while wants_header and content:
      line, end, content = content.partition(b"\n")
      number += bool(end)
      wants_header = not line.strip(b" ")
    if source.delimiter == COLONS:
      content = content.replace(COLONS.encode(), _FOR_COLONS.encode())
    if source.delimiter:
      seen = lines.screen(
        content,
        number,
        source.between,
        quotes=source.has_quotes,
        columns=len(source.names),
        last=block.last or block.too_long,
      )
      rest, number = seen.rest, number + seen.lines
      yield Piece(seen.content, seen.line_R, seen.rejected, block.read)
    else:
      count = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
      yield Piece(content, np.arange(number, number + count), Rejected(), block.read)
      number += count
    if block.too_long:
      text = block.content.decode(errors="replace")
      rejected = Rejected()
      rejected.add("too_long", number, text)
      yield Piece(b"", np.zeros(0, np.int64), rejected, block.read)
      number += 1


def _batches(source: Source) -> Iterator[Piece]:
  number = 1
  names = {role: source.names[place] for role, place in source.roles.items()}
  path = epath.Path(source.path)
  for columns, rows, read in parquet.read(path, names, parquet.usable):
    batch = pyarrow.RecordBatch.from_pydict(columns)
    yield Piece(batch, np.arange(number, number + rows), Rejected(), read)
    number += rows


def _delimited(source: Source, piece: Piece, rejected: Rejected):
  if not len(piece.line_R):
    return _nothing(source)
  blank = 0

  def refuse(row) -> str:
    nonlocal blank
    if row.text.strip(" "):
      line = int(piece.line_R[row.number - 1])
      rejected.add("columns", line, row.text.replace(source.between, source.delimiter))
    else:
      blank += 1
    bad.append(row.number - 1)
    return "skip"

  bad = []
  names = [f"{n}" for n in range(len(source.names))]
  wanted = [names[place] for place in source.roles.values()]
  quote = '"' if source.has_quotes else False
  content = piece.content
  if content.startswith(_MARK):
    content = _MARK + content  # the parser strips one, even here inside a file
  table = pyarrow.csv.read_csv(
    pyarrow.BufferReader(content),
    read_options=pyarrow.csv.ReadOptions(
      use_threads=False, block_size=len(content) + 1, column_names=names
    ),
    parse_options=pyarrow.csv.ParseOptions(
      delimiter=source.between,
      quote_char=quote,
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
  table = table.rename_columns(list(source.roles))
  table = table.append_column("line", pyarrow.array(line_R))
  return table, len(piece.line_R) - blank


def _json_lines(source: Source, piece: Piece, rejected: Rejected):
  line_R = []
  columns = {role: [] for role in source.roles}
  names = {role: source.names[place] for role, place in source.roles.items()}
  rows = 0
  for line, raw in zip(piece.line_R.tolist(), piece.content.split(b"\n")):
    if not raw.strip():
      continue
    rows += 1
    try:
      value = json.loads(raw)
    except UnicodeDecodeError:
      rejected.add("not_utf8", line, lines.shown(raw))
      continue
    except (ValueError, RecursionError):
      value = None
    if not isinstance(value, dict):
      rejected.add("not_json", line, raw[:80].decode(errors="replace"))
      continue
    line_R.append(line)
    for role, column in columns.items():
      column.append(_scalar(value.get(names[role])))
  columns = {role: pyarrow.array(c, pyarrow.string()) for role, c in columns.items()}
  return _table(columns, line_R), rows


def _sequences(piece: Piece, rejected: Rejected):
  users, items, line_R, length_L = [], [], [], []
  rows = 0
  for line, raw in zip(piece.line_R.tolist(), piece.content.split(b"\n")):
    try:
      fields = raw.decode().split()
    except UnicodeDecodeError:
      rows += 1
      rejected.add("not_utf8", line, lines.shown(raw))
      continue
    if not fields:
      continue
    rows += max(1, len(fields) - 1)
    if len(fields) == 1:
      rejected.add("no_item", line, fields[0])
      continue
    users.append(fields[0])
    items += fields[1:]
    line_R.append(line)
    length_L.append(len(fields) - 1)
  place = itertools.chain.from_iterable(map(range, length_L))
  columns = {
    "user": pyarrow.array(
      np.repeat(np.array(users, object), length_L), pyarrow.string()
    ),
    "item": pyarrow.array(items, pyarrow.string()),
    "place": pyarrow.array(np.fromiter(place, np.int32, len(items))),
  }
  return _table(columns, np.repeat(line_R, length_L)), rows


def _table(columns: Mapping[str, Any], line_R) -> pyarrow.Table:
  line = pyarrow.array(np.asarray(line_R, np.int64))
  return pyarrow.table({**columns, "line": line})


def _nothing(source: Source) -> tuple[pyarrow.Table, int]:
  empty = pyarrow.array([], pyarrow.string())
  return _table(dict.fromkeys(source.roles, empty), []), 0


def _scalar(value: Any) -> str | None:
  """Returns a JSON text or number as text; None for any other value."""
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
