"""Finds the input files of a preparation and their formats, and reads whole lines."""

from collections.abc import Iterator, Mapping
import contextlib
import logging
import os
import re
from typing import Any, NamedTuple

from etils import epath

from lightlm_jax.preprocess import compression, encodings
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)

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
    "loc-gowalla_totalcheckins.txt",
    "loc-brightkite_totalcheckins.txt",
    "dataset_tsmc2014_nyc.txt",
    "dataset_tsmc2014_tky.txt",
  ),
  "tsv",
)
# Files beside a log that are not part of it.
BESIDE = ("items.tsv", "item_attributes.json")
BLOCK = 2**23  # bytes read at once, and maximum length of a line
_MOST_LINES = 2**20  # of a block: each takes far more memory than its bytes
_HEAD = 2**18  # bytes that tell how to read a file
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
  encoding: str = "utf-8"  # of a text file, as Python names it

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
      path for path in paths if path.name not in BESIDE and (form or _form(path))
    ]
  paths = [path for path in paths if not path.is_dir()]
  if not paths:
    raise UserError(
      f"--input={pattern} names no file of a log; give a file, a glob or a folder of "
      f"{', '.join(sorted(_ENDINGS))} files ({', '.join(compression.ENDINGS)} too), or "
      "sequences.txt"
    )
  found = []
  for path in paths:
    known = form or _form(path)
    if known is None:
      with opened(path):  # a packed form that is not read is the better reason
        pass
      raise UserError(
        f"the name of {path} does not tell its format; give --format, one of "
        f"{', '.join(FORMATS)}"
      )
    if known == "parquet" and path.name.lower().endswith(".zst"):
      raise UserError(f"{path} is Parquet packed as zstd, which is not read; unpack it")
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
  """Opens two streams of a file: its content, unpacked, and its bytes on disk.

  Raises:
    UserError: the file cannot be read to its end.
  """
  try:
    with path.open("rb") as raw:
      yield compression.unpacked(path, raw), raw
  except compression.FAULTS as error:
    raise UserError(
      f"cannot read {path} to its end ({first_line(error)}); is it whole?"
    )


def encoding_of(path: epath.Path, given: str | None) -> str:
  """Returns the encoding of a text file: the one of its byte order mark, or `given`.

  Without both it is UTF-8, unless the first bytes are Windows-1252, which is logged.

  Raises:
    UserError: Python does not know the encoding `given`, or the file cannot be read.
  """
  given = given and encodings.known(given)
  with opened(path) as (stream, _):
    first = stream.read(_HEAD)
  found = encodings.marked(first) or given
  if found is None and encodings.is_windows_1252(first):
    logger.info(
      f"{path} is not UTF-8; it is read as Windows-1252 (another: --encoding)"
    )
    found = "cp1252"
  return found or "utf-8"


def blocks(
  path: epath.Path, size: int = BLOCK, encoding: str = "utf-8"
) -> Iterator[Block]:
  """Yields a text file in blocks of whole lines, as UTF-8.

  Line ends become line feeds, and a byte order mark is removed. `size` bytes are read
  at once; a longer line may be cut to its first 100 bytes in a block with `too_long`.

  Raises:
    UserError: the file cannot be read to its end.
  """
  with opened(path) as (stream, raw):
    recode = encodings.recoder(encoding)
    rest, first = b"", True
    skipping = False  # inside a line that was too long
    while True:
      data = stream.read(size)
      last = len(data) == 0
      data = recode(data, last)
      if first:
        data, first = data.removeprefix(b"\xef\xbb\xbf"), False
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
        yield from _slices(Block(content, False, raw.tell(), last))
      if len(rest.removesuffix(b"\r")) > size:
        yield Block(rest[:100] + b"\n", True, raw.tell(), False)
        rest, skipping = b"\r" if rest.endswith(b"\r") else b"", True
      if last:
        return


def head(path: epath.Path, encoding: str) -> bytes:
  """Returns the first whole lines, about 256 KiB, of a text file; b"" if empty."""
  for block in blocks(path, _HEAD, encoding):
    if block.content.strip() or block.last:
      return block.content
  return b""


def _slices(block: Block) -> Iterator[Block]:
  """Cuts a block so that no slice has many more lines than _MOST_LINES."""
  content = block.content
  while content.count(b"\n") > _MOST_LINES:
    cut = content.find(b"\n", _MOST_LINES) + 1
    yield block._replace(content=content[:cut], last=False)
    content = content[cut:]
  yield block._replace(content=content)


def _form(path: epath.Path) -> str | None:
  name = compression.plain_name(path.name).lower()
  return _NAMES.get(name) or _ENDINGS.get(os.path.splitext(name)[1])


def _paths(pattern: str) -> tuple[list[epath.Path], bool]:
  """Returns the sorted paths of a file, glob or folder; and whether it is a folder."""
  path = workdir_lib.reachable(pattern)
  if any(sign in pattern for sign in "*?[") and not path.exists():
    wild = next(n for n, part in enumerate(path.parts) if set(part) & set("*?["))
    root = epath.Path(*path.parts[:wild]) if wild else epath.Path(".")
    return sorted(root.glob("/".join(path.parts[wild:])), key=os.fspath), False
  if not path.exists():
    raise UserError(
      f"--input={pattern} does not exist; give a file, a glob or a folder"
    )
  if path.is_dir():
    return _inside(path), True
  return [path], False


def _inside(folder: epath.Path) -> list[epath.Path]:
  """Returns the sorted files of a folder and of its Hive partitions, NAME=VALUE."""
  found = []
  for path in sorted(folder.iterdir(), key=os.fspath):
    if path.name.startswith((".", "_")):
      continue
    if not path.is_dir():
      found.append(path)
    elif re.fullmatch(r"[^=]+=.*", path.name):
      found += _inside(path)
  return found
