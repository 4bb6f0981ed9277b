"""Locks a run's folder for training, and reads its configuration."""

from collections.abc import Iterator
import contextlib
import os
from typing import Any, TypedDict

from etils import epath

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import folder as folder_lib

# Fields of the configuration that may change when a run is resumed in its workdir.
MAY_DIFFER = (
  "profile",
  "train.feed",
  "train.steps",
  "train.log_every",
  "train.checkpoints",
  "train.failed_save",
  "train.steps_per_dispatch",
)

CONFIG = "config.json"
# Beginnings of file names that a copy of a run leaves out.
_LEFT_BEHIND = (".lock", "events", "profile", "damaged-")

# Advice in errors about a folder, and about a damaged file that `train` wrote.
_ANOTHER = "give another --workdir"
WRITTEN_ANEW = "remove it, `train` writes it anew"


class _Config(TypedDict):
  """The fields of a config.json of any version that are read before it is converted."""

  system: str
  preset: str
  data: dict
  split: dict
  input: dict
  ids: dict
  model: dict
  train: dict
  decoding: dict
  mesh: dict


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
      path = workdir / CONFIG
      if path.exists():
        old = read_tree(workdir)
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


def read_tree(workdir: epath.Path) -> dict[str, Any]:
  """Returns the content of a run's config.json, which may be of another version.

  Raises:
    UserError: there is no run, or its file holds something else.
  """
  path = workdir / CONFIG
  if not path.exists():
    raise UserError(
      f"{path} does not exist; give --workdir=RUN, a folder written by `train`"
    )
  return json_text.read(path, _ANOTHER, kind=_Config)


def read(workdir: epath.PathLike) -> tuple[epath.Path, RunConfig]:
  """Returns a run's folder and its configuration.

  Raises:
    UserError: there is no run, or its configuration cannot be read.
  """
  workdir = absolute(workdir)
  old = read_tree(workdir)
  try:
    return workdir, config_lib.from_tree(old)
  except UserError as error:
    raise UserError(
      f"{workdir / CONFIG} was written by another version: {error}; ask the run "
      "with that version, or train it anew"
    )


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
  """Makes a path absolute, as Orbax requires; leaves a URL (gs://…) unchanged.

  Raises:
    UserError: the packages that open such a URL are not installed.
  """
  if "://" in str(workdir):
    return reachable(workdir)
  return epath.Path(os.path.abspath(workdir))


def reachable(path: epath.PathLike) -> epath.Path:
  """Returns a path; raises a UserError if it is a URL that nothing here can open."""
  try:
    found = epath.Path(path)
    found.exists()
  except (ImportError, LookupError) as error:
    raise UserError(
      f"cannot open {path} ({first_line(error)}); gs:// needs "
      "pip install -c constraints.txt -e '.[gcs]', other places are copied to a disk"
    )
  return found
