"""A run's folder: whose it is, and files that are whole or not there."""

from collections.abc import Iterator, Mapping
import contextlib
import fcntl
import json
import os
from typing import Any

from etils import epath

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text

# What may change between two starts in one workdir.
MAY_DIFFER = (
  "profile",
  "train.feed",
  "train.steps",
  "train.log_every",
  "train.steps_per_dispatch",
)


@contextlib.contextmanager
def claimed(workdir: epath.PathLike, config: RunConfig) -> Iterator[epath.Path]:
  """Makes the folder this run's, or checks that it is already; keeps others out.

  A death lets them in again. What has no locks (an address such as gs://…, some shared
  disks) keeps nobody out.

  Raises:
    UserError: the folder belongs to another configuration or process, or cannot be
      written.
  """
  workdir = absolute(workdir)
  with contextlib.ExitStack() as stack:
    with processes.fail_together("claim the workdir"):
      _check_owner(workdir, config)
      try:
        workdir.mkdir(parents=True, exist_ok=True)
      except OSError as error:
        raise UserError(f"cannot make {workdir}: {error.strerror or error}")
      stack.enter_context(_locked(workdir))
      write_whole(workdir / "config.json", config_lib.to_json(config))
    yield workdir


def _check_owner(workdir: epath.Path, config: RunConfig) -> None:
  path = workdir / "config.json"
  if path.exists():
    try:
      old = json_text.loads(path.read_text())
    except (OSError, ValueError) as error:
      raise UserError(f"cannot read {path}: {error}; give another --workdir")
    different = config_lib.differences(old, config, ignore=MAY_DIFFER)
    if different:
      raise UserError(
        f"{workdir} belongs to another configuration ({'; '.join(different)}); give "
        "another --workdir, or the same fields to resume"
      )


@contextlib.contextmanager
def _locked(workdir: epath.Path) -> Iterator[None]:
  if "://" in str(workdir) or not processes.is_first():
    yield
    return
  try:
    file = open(workdir / ".lock", "w")
  except OSError as error:
    raise UserError(f"cannot write into {workdir}: {error.strerror or error}")
  with file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise UserError(
        f"another process trains in {workdir}; wait for its end, or give another "
        "--workdir"
      )
    except OSError:
      pass  # a disk without locks
    yield


def read(
  workdir: epath.PathLike, overrides: Mapping[str, Any]
) -> tuple[epath.Path, RunConfig]:
  """A run's folder and its configuration, with some fields set anew.

  Raises:
    UserError: there is no run, or no such field.
  """
  workdir = absolute(workdir)
  path = workdir / "config.json"
  if not path.exists():
    raise UserError(f"{path} does not exist; give --workdir=RUN, as `train` left it")
  try:
    old = json_text.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path}: {error}")
  try:
    config = config_lib.from_tree(old)
  except UserError as error:
    raise UserError(
      f"{path} was written by another version: {error}; ask the run with that version, "
      "or train it anew"
    )
  return workdir, config_lib.replace(config, overrides)


def read_results(workdir: epath.Path) -> dict[str, Any] | None:
  """results.json as `train` left it, None before the end.

  Raises:
    UserError: it is damaged.
  """
  path = workdir / "results.json"
  if not path.exists():
    return None
  try:
    results = json_text.loads(path.read_text())
    results["split_sha256"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise UserError(f"cannot read {path} ({error}); remove it, `train` writes it anew")
  return results


def other_log(workdir: epath.Path) -> str:
  """The line for a folder that was begun on other data."""
  return (
    f"{workdir} was begun on another log (or its ids by another version), and what it "
    "learned does not fit this one; give another --workdir"
  )


def other_texts(workdir: epath.Path) -> str:
  """The line for a folder that was begun on other texts."""
  return (
    f"{workdir} was begun on other texts of the items, and what it learned does not "
    "fit these; put the old items.tsv back, or give another --workdir"
  )


def write_json(path: epath.Path, value: Any) -> None:
  """Writes JSON for people and programs alike."""
  write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: epath.Path, content: str | bytes) -> None:
  """Writes a file that is never seen half-written; of several processes one does.

  Raises:
    UserError: the file system refuses.
  """
  if processes.is_first():
    write_own(path, content)


def write_own(path: epath.Path, content: str | bytes) -> None:
  """Likewise, by whichever process calls it: a file that no other one writes."""
  part = path.with_name(path.name + ".part")
  try:
    part.write_bytes(content.encode() if isinstance(content, str) else content)
    part.replace(path)
  except OSError as error:
    part.unlink(missing_ok=True)
    raise UserError(
      f"cannot write {path}: {error.strerror or error}; check free space, limits and "
      "permissions"
    )


def absolute(workdir: epath.PathLike) -> epath.Path:
  """The folder whatever the current one is; an address such as gs://… as it is."""
  if "://" in str(workdir):
    return epath.Path(workdir)
  return epath.Path(os.path.abspath(workdir))  # Orbax takes no other
