"""Writes and verifies folders with a manifest, and locks folders.

The files of a folder are written first; the manifest, with their SHA-256, comes last
and makes them valid. A folder is not whole if the manifest is missing or a file has
changed since it was written.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import fcntl
import hashlib
import io
import json
from typing import IO, Any, NamedTuple, cast
import zipfile
import zlib

from etils import epath
import pyarrow

from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text

MANIFEST = "manifest.json"
# Exceptions of readers if a file is missing, cut short, overwritten or of another kind.
_DAMAGED = (
  OSError,
  EOFError,
  LookupError,
  TypeError,
  AttributeError,
  ValueError,
  RuntimeError,  # zipfile: a header with unknown compression or encryption
  zipfile.BadZipFile,
  zlib.error,
  pyarrow.ArrowException,
)


class NotWhole(Exception):
  """Raised if a manifest is missing, or files are damaged; the message says which."""


class Whole(NamedTuple):
  """A folder with a manifest; `read` verifies that a file is as it was written."""

  path: epath.Path
  manifest: dict[str, Any]

  def read(self, name: str, sha256: str | None = None) -> bytes:
    """Returns the content of the file `name`, whose SHA-256 must be `sha256`.

    `sha256` None = as in the manifest. Raises ValueError if the file's differs.
    """
    if epath.Path(name).name != name:
      raise ValueError(f"{name} is no file of the folder")
    content = (self.path / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != (sha256 or self.manifest["sha256"][name]):
      raise ValueError(f"{name} is not what was written: its SHA-256 differs")
    return content


def write(
  folder: epath.Path, files: Mapping[str, bytes], manifest: Mapping[str, Any]
) -> None:
  """Writes `files`, {name: content}, then the manifest, in every process that calls it.

  The folder is created if it does not exist. The manifest should have the files'
  SHA-256, see `digests`.
  """
  atomic.make_folder(folder)
  for name, content in files.items():
    atomic.write_own(folder / name, content)
  atomic.write_own(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
  """Returns {name: SHA-256 in hexadecimal} of `files`, {name: content}."""
  return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def sha256(path: epath.Path) -> str:
  """Returns the SHA-256 in hexadecimal of a file, which may be larger than memory."""
  with path.open("rb") as file:
    return hashlib.file_digest(cast(io.BufferedReader, file), "sha256").hexdigest()


@contextlib.contextmanager
def opened(folder: epath.Path) -> Iterator[Whole]:
  """Opens a folder with a manifest; its files are to be read inside the block.

  Raises:
    NotWhole: there is no manifest, or a file that the block reads is damaged.
  """
  try:
    manifest = json_text.loads((folder / MANIFEST).read_text())
    if not isinstance(manifest, dict):
      raise ValueError(f"{MANIFEST} holds no JSON object")
    yield Whole(folder, manifest)
  except _DAMAGED as error:
    raise NotWhole(first_line(error))


class Lock(NamedTuple):
  """A lock on a file, held until every process that has the file open has closed it."""

  file: IO
  is_real: bool  # False = the disk has no locks, and no process is kept out


def try_lock(path: epath.PathLike) -> Lock | None:
  """Creates and locks a file; returns None if another process holds the lock."""
  file = open(path, "w")
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    file.close()
    return None
  except OSError:
    return Lock(file, is_real=False)
  return Lock(file, is_real=True)


@contextlib.contextmanager
def locked(
  folder: epath.PathLike,
  *,
  refuse: str | None = None,
  before_waiting: Callable[[], object] = lambda: None,
) -> Iterator[None]:
  """Locks a folder: other processes wait until the block, or this process, ends.

  The lock is the folder's file `.lock`. Where locks do not exist (a bucket such as
  gs://…, some shared disks) other processes do not wait. `before_waiting` is called
  before this process has to wait.

  Raises:
    UserError: another process holds the lock and `refuse`, the error's message, is
      given; or the folder cannot be written into.
  """
  if "://" in str(folder):
    yield
    return
  path = epath.Path(folder) / ".lock"
  try:
    lock = try_lock(path)
    if lock is None and refuse is not None:
      raise UserError(refuse)
    if lock is None:
      before_waiting()
      lock = Lock(open(path, "w"), is_real=True)
      fcntl.flock(lock.file, fcntl.LOCK_EX)
  except OSError as error:
    raise UserError(f"cannot write into {folder}: {first_line(error)}")
  with lock.file:
    yield
