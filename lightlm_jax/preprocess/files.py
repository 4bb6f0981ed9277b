"""Which files an input means, in which form, and their bytes by whole lines."""

from collections.abc import Iterator
import contextlib
import gzip
import io
import os
from typing import BinaryIO, NamedTuple
import zlib

from etils import epath

from lightlm_jax.runtime.errors import UserError

FORMATS = ("csv", "tsv", "parquet", "jsonl", "recbole", "sequences")
_ENDINGS = {
  ".csv": "csv",
  ".dat": "csv",
  ".tsv": "tsv",
  ".tab": "tsv",
  ".parquet": "parquet",
  ".pq": "parquet",
  ".jsonl": "jsonl",
  ".ndjson": "jsonl",
  ".json": "jsonl",
  ".inter": "recbole",
}
_NAMES = {"sequences.txt": "sequences", "u.data": "tsv"}
# What stands beside a log and is none.
BESIDE = ("items.tsv", "item_attributes.json")
BLOCK = 2**23  # bytes that are read at once; a line is no longer


class Block(NamedTuple):
  """Whole lines of a file, each with a line feed behind it.

  Attributes:
    content: without the end of the last line where the file has none.
    too_long: this is the head of one line that is longer than a block.
    read: bytes of the file, as it lies on disk, up to here.
    last: nothing follows.
  """

  content: bytes
  too_long: bool
  read: int
  last: bool


def find(pattern: str, form: str | None = None) -> list[tuple[epath.Path, str]]:
  """The files of --input with the form of each, in the order of their paths.

  Args:
    pattern: a file, a glob or a folder.
    form: of FORMATS, for all of them; None = by their names.

  Raises:
    UserError: there are none, or their names do not tell.
  """
  try:
    paths = _paths(pattern)
  except (OSError, ValueError, NotImplementedError) as error:
    raise UserError(f"cannot read --input={pattern}: {error}")
  is_folder = paths is None
  if is_folder:
    listed = sorted(epath.Path(pattern).iterdir(), key=os.fspath)
    paths = [
      path
      for path in listed
      if not path.name.startswith((".", "_")) and path.name not in BESIDE
    ]
    if form is None:
      paths = [path for path in paths if _form(path)]
    paths = [path for path in paths if not path.is_dir()]
  if not paths:
    raise UserError(
      f"--input={pattern} names no file of a log; give a file, a glob or a folder of "
      f"{', '.join(sorted(_ENDINGS))} files (.gz too), or sequences.txt"
    )
  found = [(path, form or _form(path)) for path in paths]
  for path, known in found:
    if known is None:
      raise UserError(
        f"the name of {path} does not tell its form; give --format, one of "
        f"{', '.join(FORMATS)}"
      )
  forms = sorted({known for _, known in found})
  if len(forms) > 1:
    raise UserError(
      f"--input={pattern} has files of several forms ({', '.join(forms)}); name those "
      f"of one by a glob, such as {pattern.rstrip('/')}/*.{forms[0]}"
    )
  return found


@contextlib.contextmanager
def opened(path: epath.Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
  """A file's content, and the file as it lies on disk: gzip is taken off.

  Raises:
    UserError: it cannot be read to its end.
  """
  try:
    with path.open("rb") as raw:
      head = raw.read(2)
      raw.seek(0)
      yield (gzip.GzipFile(fileobj=raw) if head == b"\x1f\x8b" else raw), raw
  except (OSError, EOFError, zlib.error) as error:
    why = getattr(error, "strerror", None) or first_line(error)
    raise UserError(f"cannot read {path} to its end ({why}); is it whole?")


def blocks(path: epath.Path, size: int = BLOCK) -> Iterator[Block]:
  """A text file by whole lines, whatever ends them; no byte order mark.

  Raises:
    UserError: it cannot be read to its end.
  """
  with opened(path) as (stream, raw):
    rest, first = b"", True
    skipping = False  # what is left of a line that was too long
    while True:
      data = stream.read(size)
      if first:
        data, first = data.removeprefix(b"\xef\xbb\xbf"), False
      last = len(data) == 0
      content, rest = rest + data, b""
      if not last and content.endswith(b"\r"):
        content, rest = content[:-1], b"\r"  # the other half may follow
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
  """The first lines of a text file, at most so many bytes of it."""
  for block in blocks(path, size):
    if block.content.strip() or block.last:
      return block.content
  return b""


def content(path: epath.Path) -> io.BytesIO:
  """A whole file, gzip taken off: one that stands beside a log."""
  with opened(path) as (stream, _):
    return io.BytesIO(stream.read())


def first_line(error: Exception) -> str:
  """What an error says, in a line."""
  return next(iter(str(error).splitlines()), type(error).__name__)


def _form(path: epath.Path) -> str | None:
  name = path.name.removesuffix(".gz")
  return _NAMES.get(name) or _ENDINGS.get(os.path.splitext(name)[1].lower())


def _paths(pattern: str) -> list[epath.Path] | None:
  """Of a file or a glob; None of a folder."""
  if any(sign in pattern for sign in "*?[") and not epath.Path(pattern).exists():
    parts = epath.Path(pattern).parts
    wild = next(n for n, part in enumerate(parts) if set(part) & set("*?["))
    root = epath.Path(*parts[:wild]) if wild else epath.Path(".")
    found = sorted(root.glob("/".join(parts[wild:])), key=os.fspath)
    return [path for path in found if not path.is_dir()]
  path = epath.Path(pattern)
  if not path.exists():
    raise UserError(
      f"--input={pattern} does not exist; give a file, a glob or a folder"
    )
  return None if path.is_dir() else [path]
