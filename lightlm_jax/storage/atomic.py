"""Files and folders that are whole or not there: written under another name first.

Every function raises a UserError where the file system refuses.
"""

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
  """Makes a folder, and those above it, unless they exist."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {folder}: {first_line(error)}")


def write_json(path: epath.Path, value: Any) -> None:
  """Writes indented JSON in the first of several processes."""
  write(path, json.dumps(value, indent=2) + "\n")


def write(path: epath.Path, content: str | bytes) -> None:
  """Writes a file in the first of several processes."""
  if processes.is_first():
    write_own(path, content)


def write_own(path: epath.Path, content: str | bytes | memoryview) -> None:
  """Writes a file in whichever process calls it."""
  with writing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[IO[Any]]:
  """Opens a file that gets its name when the block ends without an error.

  Of several processes that write one path at once, the last one's file stays.
  """
  with _part(path) as part:
    with part.open("wb") as file:
      yield file
    part.replace(path)


@contextlib.contextmanager
def new_folder(folder: epath.Path, *, exists_ok: bool = False) -> Iterator[epath.Path]:
  """Makes a folder that gets its name when the block ends without an error.

  With `exists_ok`, a folder that another process has made in the meantime is kept;
  otherwise it is an error.
  """
  with _part(folder) as part:
    part.mkdir(parents=True)
    yield part
    if not (exists_ok and folder.exists()):
      part.rename(folder)


@contextlib.contextmanager
def _part(path: epath.Path) -> Iterator[epath.Path]:
  """Returns a temporary name; what still has it after the block is removed."""
  part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART}")
  try:
    yield part
  except OSError as error:
    raise UserError(
      f"cannot write {path}: {first_line(error)}; check free space, limits and "
      "permissions"
    )
  finally:
    with contextlib.suppress(OSError):
      (part.rmtree if part.is_dir() else part.unlink)(missing_ok=True)
