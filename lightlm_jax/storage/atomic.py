"""Writes files and folders atomically, under a temporary name first.

Every function raises a UserError if the file system refuses.
"""

from collections.abc import Iterator
import contextlib
import json
from typing import IO, Any
import uuid

from etils import epath

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError, first_line

PART = ".part"  # suffix of temporary names


def make_folder(folder: epath.Path) -> None:
  """Creates a folder and its parents, unless they exist."""
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {folder}: {first_line(error)}")


def check_folder(folder: epath.Path) -> None:
  """Raises a UserError unless a file can be made in a folder; call it before work."""
  with processes.fail_together(f"write into {folder}"):
    if processes.is_first() and "://" not in str(folder):
      with _part(folder / "file", f"into {folder}") as part:
        part.touch()


def write_json(path: epath.Path, value: Any) -> None:
  """Writes indented JSON in the first process; does nothing in the others."""
  write(path, json.dumps(value, indent=2) + "\n")


def write(path: epath.Path, content: str | bytes) -> None:
  """Writes a file in the first process; does nothing in the others."""
  if processes.is_first():
    write_own(path, content)


def write_own(path: epath.Path, content: str | bytes | memoryview) -> None:
  """Writes a file in every process that calls it."""
  with writing(path) as file:
    file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def writing(path: epath.Path) -> Iterator[IO[Any]]:
  """Opens a binary file that gets its name `path` when the block ends without an error.

  If several processes write the same path, the file of the last process to end stays.
  """
  with _part(path) as part:
    with part.open("wb") as file:
      yield file
    part.replace(path)


@contextlib.contextmanager
def new_folder(folder: epath.Path, *, exists_ok: bool = False) -> Iterator[epath.Path]:
  """Creates a folder that gets its name `folder` when the block ends without an error.

  Yields the folder's temporary path. If another process creates `folder` first, that is
  an error or, with `exists_ok`, its folder is kept and the temporary one removed.
  """
  with _part(folder) as part:
    part.mkdir(parents=True)
    yield part
    if not (exists_ok and folder.exists()):
      part.rename(folder)


@contextlib.contextmanager
def _part(path: epath.Path, what: str | None = None) -> Iterator[epath.Path]:
  """Yields a temporary path beside `path`; removes it if it still exists at the end.

  Errors are about `what`, None = `path`.
  """
  part = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PART}")
  try:
    yield part
  except OSError as error:
    raise UserError(
      f"cannot write {what or path}: {first_line(error)}; check free space, limits and "
      "permissions"
    )
  finally:
    with contextlib.suppress(OSError):
      (part.rmtree if part.is_dir() else part.unlink)(missing_ok=True)
