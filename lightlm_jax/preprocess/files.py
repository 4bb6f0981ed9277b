"""Finds the input files of a preparation and their formats, and reads whole lines."""

from collections.abc import Iterator, Mapping
import contextlib
import gzip
import os
from typing import Any, NamedTuple
import zlib

from etils import epath

from lightlm_jax.runtime.errors import UserError, first_line

FORMATS = ("csv", "tsv", "parquet", "jsonl", "recbole", "sequences")
_ENDINGS = {
  **dict.fromkeys((".csv", ".dat"), "csv"),
  **dict.fromkeys((".tsv", ".tab"), "tsv"),
  **dict.fromkeys((".parquet", ".pq"), "parquet"),
  **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
  ".inter": "recbole",
}
_NAMES = {"sequences.txt": "sequences", "u.data": "tsv"}
_NAMES |= dict.fromkeys(
  (
    "loc-gowalla_totalCheckins.txt",
    "loc-brightkite_totalCheckins.txt",
    "dataset_TSMC2014_NYC.txt",
    "dataset_TSMC2014_TKY.txt",
  ),
  "tsv",
)
# Files beside a log that are not part of it.
BESIDE = ("items.tsv", "item_attributes.json")
BLOCK = 2**23  # bytes read at once, and maximum length of a line
COLONS = "::"  # delimiter of MovieLens' .dat files
FOR_COLONS = "\x1f"  # replaces COLONS for the parser; a single byte that texts lack


class Source(NamedTuple):
  """A file of a log, and how to read it."""

  path: str
  index: int  # the file's place among all files; it orders rows of equal times
  form: str  # one of FORMATS
  names: tuple[str, ...] = ()  # all columns, in order
  roles: Mapping[str, int] = {}  # the column index of every role that the log has
  delimiter: str = ""  # one byte, or COLONS
  header: bool = False  # whether the first line has the columns' names
  quotes: bool = False  # whether a field may be quoted, `"…"`
  # Columns whose fields have several items: "words" are separated by blanks; of
  # "clicks", which end in -1 or -0, only the former count.
  lists: Mapping[int, str] = {}
  explode: str = ""  # JSON: the key with a list of objects, each of which is a row
  table: Any = None  # a pyarrow.Table in place of a Parquet file

  @property
  def between(self) -> str:
    """The one-byte delimiter for the CSV parser: the file's, or a stand-in for `::`."""
    return FOR_COLONS if self.delimiter == COLONS else self.delimiter

  @property
  def columns(self) -> dict[str, str]:
    """The column name of every role; empty if the file has no column names."""
    return {role: self.names[n] for role, n in self.roles.items() if self.names}


class Block(NamedTuple):
  """Whole lines of a file; each ends with a line feed, except perhaps the last one."""

  content: bytes
  too_long: bool  # whether this is the start of a single line that exceeds a block
  read: int  # bytes of the file on disk read so far
  last: bool  # whether this is the last block


def find(pattern: str, form: str | None = None) -> list[tuple[epath.Path, str]]:
  """Returns the files of --input and their formats, ordered by path.

  Args:
    pattern: a file, a glob or a folder.
    form: the format of all files, one of FORMATS; None = the names tell it.

  Raises:
    UserError: there are no files, or the format does not follow from their names.
  """
  try:
    paths, is_folder = _paths(pattern)
  except (OSError, ValueError, NotImplementedError) as error:
    raise UserError(f"cannot read --input={pattern}: {error}")
  if is_folder:
    paths = [
      path
      for path in paths
      if not path.name.startswith((".", "_")) and path.name not in BESIDE
      if form or _form(path)
    ]
  paths = [path for path in paths if not path.is_dir()]
  if not paths:
    raise UserError(
      f"--input={pattern} names no file of a log; give a file, a glob or a folder of "
      f"{', '.join(sorted(_ENDINGS))} files (.gz too), or sequences.txt"
    )
  found = []
  for path in paths:
    known = form or _form(path)
    if known is None:
      raise UserError(
        f"the name of {path} does not tell its format; give --format, one of "
        f"{', '.join(FORMATS)}"
      )
    found.append((path, known))
  forms = sorted({known for _, known in found})
  if len(forms) > 1:
    raise UserError(
      f"--input={pattern} has files of several formats ({', '.join(forms)}); name "
      f"those of one by a glob, such as {pattern.rstrip('/')}/*.{forms[0]}"
    )
  return found


def decoded(raw: bytes) -> str | None:
  """Decodes UTF-8; returns None if it is invalid."""
  try:
    return raw.decode()
  except UnicodeDecodeError:
    return None


def count_lines(content: bytes) -> int:
  """Returns the number of lines; the last one counts even without a line feed."""
  return content.count(b"\n") + (not content.endswith(b"\n") and bool(content))


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[tuple[Any, Any]]:
  """Opens two streams of a file: its content, unpacked if gzip, and its bytes on disk.

  Raises:
    UserError: the file cannot be read to its end.
  """
  try:
    with path.open("rb") as raw:
      head = raw.read(2)
      raw.seek(0)
      yield (gzip.GzipFile(fileobj=raw) if head == b"\x1f\x8b" else raw), raw
  except (OSError, EOFError, zlib.error) as error:
    raise UserError(
      f"cannot read {path} to its end ({first_line(error)}); is it whole?"
    )


def blocks(path: epath.Path, size: int = BLOCK) -> Iterator[Block]:
  """Yields a text file in blocks of whole lines.

  Line ends become line feeds, and a byte order mark is removed. `size` bytes are read
  at once; a longer line may be cut to its first 100 bytes in a block with `too_long`.

  Raises:
    UserError: the file cannot be read to its end.
  """
  with opened(path) as (stream, raw):
    rest, first = b"", True
    skipping = False  # inside a line that was too long
    while True:
      data = stream.read(size)
      if first:
        data, first = data.removeprefix(b"\xef\xbb\xbf"), False
      last = len(data) == 0
      content, rest = rest + data, b""
      if not last and content.endswith(b"\r"):
        content, rest = content[:-1], b"\r"  # a line feed may follow
      if b"\r" in content:
        content = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
      if skipping:
        cut = content.find(b"\n") + 1
        skipping = not cut and not last
        content = content[cut:] if cut else b""
      cut = len(content) if last else content.rfind(b"\n") + 1
      content, rest = content[:cut], content[cut:] + rest
      if content or last:
        yield Block(content, False, raw.tell(), last)
      if len(rest.removesuffix(b"\r")) > size:
        yield Block(rest[:100] + b"\n", True, raw.tell(), False)
        rest, skipping = b"\r" if rest.endswith(b"\r") else b"", True
      if last:
        return


def head(path: epath.Path, size: int = 2**18) -> bytes:
  """Returns the first whole lines, about `size` bytes, of a text file; b"" if empty."""
  for block in blocks(path, size):
    if block.content.strip() or block.last:
      return block.content
  return b""


def _form(path: epath.Path) -> str | None:
  name = path.name.removesuffix(".gz")
  return _NAMES.get(name) or _ENDINGS.get(os.path.splitext(name)[1].lower())


def _paths(pattern: str) -> tuple[list[epath.Path], bool]:
  """Returns the sorted paths of a file, glob or folder; and whether it is a folder."""
  path = epath.Path(pattern)
  if any(sign in pattern for sign in "*?[") and not path.exists():
    wild = next(n for n, part in enumerate(path.parts) if set(part) & set("*?["))
    root = epath.Path(*path.parts[:wild]) if wild else epath.Path(".")
    return sorted(root.glob("/".join(path.parts[wild:])), key=os.fspath), False
  if not path.exists():
    raise UserError(
      f"--input={pattern} does not exist; give a file, a glob or a folder"
    )
  if path.is_dir():
    return sorted(path.iterdir(), key=os.fspath), True
  return [path], False
