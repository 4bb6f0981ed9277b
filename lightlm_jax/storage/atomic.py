"""Files and folders that are whole or not there: written under another name first."""

from collections.abc import Iterator
import contextlib
import json
from typing import IO, Any
import uuid

from etils import epath

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError, first_line

PART = ".part"  # behind the name of what is being written


def make_folder(folder: epath.Path) -> None:
  """Makes a folder, and those above it, where there is none.

  Raises:
    UserError: the file system refuses.
  """
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {folder}: {first_line(error)}")


def write_json(path: epath.Path, value: Any) -> None:
  """Writes indented JSON; of several processes the first one does."""
  write(path, json.dumps(value, indent=2) + "\n")


def write(path: epath.Path, content: str | bytes) -> None:
  """Writes a file; of several processes the first one does.

  Raises:
    UserError: the file system refuses.
  """
  if processes.is_first():
    write_own(path, content)


def write_own(path: epath.Path, content: str | bytes | memoryview) -> None:
  """Writes a file by whichever process calls it.

  Raises:
    UserError: the file system refuses.
  """
  with writing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[IO[Any]]:
  """A file to write into, which gets its name when the block ends without an error.

  Of several processes that write one path at once, the last one's file stays.

  Raises:
    UserError: the file system refuses.
  """
  part = _part(path)
  try:
    with _refused(path):
      with part.open("wb") as file:
        yield file
      part.replace(path)
  finally:
    with contextlib.suppress(OSError):
      part.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: epath.Path, *, exists_ok: bool = False) -> Iterator[epath.Path]:
  """A folder to write into, which gets its name when the block ends without an error.

  Args:
    folder: which does not exist.
    exists_ok: keep the folder that another process has made in the meantime.

  Raises:
    UserError: the folder exists, or the file system refuses.
  """
  part = _part(folder)
  try:
    with _refused(folder):
      part.mkdir(parents=True)
      yield part
      if not (exists_ok and folder.exists()):
        part.rename(folder)
  finally:
    with contextlib.suppress(OSError):
      part.rmtree(missing_ok=True)


def _part(path: epath.Path) -> epath.Path:
  return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART}")


@contextlib.contextmanager
def _refused(path: epath.Path) -> Iterator[None]:
  try:
    yield
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {first_line(error)}; check free space, limits and "
      "permissions"
    )
