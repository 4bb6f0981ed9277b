"""Locks a run's folder for training, and reads its configuration and results."""

from collections.abc import Iterator
import contextlib
import os
from typing import Any

from etils import epath

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import folder as folder_lib

# Fields of the configuration that may change when a run is resumed in its workdir.
MAY_DIFFER = (
  "profile",
  "train.feed",
  "train.steps",
  "train.log_every",
  "train.steps_per_dispatch",
)

# Beginnings of file names that a copy of a run leaves out.
_LEFT_BEHIND = (".lock", "events", "profile", "damaged-")

# Advice in errors about a folder, and about a damaged file that `train` wrote.
_ANOTHER = "give another --workdir"
WRITTEN_ANEW = "remove it, `train` writes it anew"


@contextlib.contextmanager
def claimed(workdir: epath.PathLike, config: RunConfig) -> Iterator[epath.Path]:
  """Creates and locks a run's folder, and writes the config into it.

  If the folder has an older config, the two may only differ in the fields MAY_DIFFER.

  Raises:
    UserError: the folder belongs to another configuration or process, or cannot be
      written.
  """
  workdir = absolute(workdir)
  with contextlib.ExitStack() as stack:
    with processes.fail_together("claim the workdir"):
      path = workdir / "config.json"
      if path.exists():
        old = json_text.read(path, _ANOTHER)
        if different := config_lib.differences(old, config, ignore=MAY_DIFFER):
          raise UserError(
            f"{workdir} belongs to another configuration ({'; '.join(different)}); "
            f"{_ANOTHER}, or the same fields to resume"
          )
      atomic.make_folder(workdir)
      if processes.is_first():
        line = f"another process trains in {workdir}; wait for its end, or {_ANOTHER}"
        stack.enter_context(folder_lib.locked(workdir, refuse=line))
      atomic.write(path, config_lib.to_json(config))
    yield workdir


def read(workdir: epath.PathLike) -> tuple[epath.Path, RunConfig]:
  """Returns a run's folder and its configuration.

  Raises:
    UserError: there is no run, or its configuration cannot be read.
  """
  workdir = absolute(workdir)
  path = workdir / "config.json"
  if not path.exists():
    raise UserError(f"{path} does not exist; give --workdir=RUN, as `train` left it")
  old = json_text.read(path, _ANOTHER)
  try:
    return workdir, config_lib.from_tree(old)
  except UserError as error:
    raise UserError(
      f"{path} was written by another version: {error}; ask the run with that version, "
      "or train it anew"
    )


def read_results(workdir: epath.Path) -> dict[str, Any] | None:
  """Returns the content of a run's results.json; None if training has not ended."""
  path = workdir / "results.json"
  if not path.exists():
    return None
  return json_text.read(path, WRITTEN_ANEW, fields=("split_sha256",))


def copy(workdir: epath.Path, to: epath.Path) -> None:
  """Copies a run to the new folder `to`, whole or not at all."""
  with atomic.new_folder(to) as part:
    _copy(workdir, part)


def _copy(source: epath.Path, to: epath.Path) -> None:
  to.mkdir(exist_ok=True)
  for path in source.iterdir():
    if path.name.startswith(_LEFT_BEHIND):
      continue
    if path.is_dir():
      _copy(path, to / path.name)
    else:
      path.copy(to / path.name)


def other_log(workdir: epath.Path) -> str:
  """Returns an error message: the run in the folder was begun on other data."""
  return (
    f"{workdir} was begun on another log (or its ids by another version), and what it "
    "learned does not fit this one; give another --workdir"
  )


def other_texts(workdir: epath.Path) -> str:
  """Returns an error message: the run in the folder was begun on other item texts."""
  return (
    f"{workdir} was begun on other texts of the items, and what it learned does not "
    "fit these; put the old items.tsv back, or give another --workdir"
  )


def absolute(workdir: epath.PathLike) -> epath.Path:
  """Makes a path absolute, as Orbax requires; leaves a URL (gs://…) unchanged."""
  if "://" in str(workdir):
    return epath.Path(workdir)
  return epath.Path(os.path.abspath(workdir))
