"""A run's folder: whose it is, and files that are whole or not there."""

import json
import os
from typing import Any

from etils import epath
import ml_collections

from lightlm_jax import config as config_lib
from lightlm_jax.errors import UserError

# What may change between two starts in one workdir.
MAY_DIFFER = ("train.steps", "train.log_every")


def claim(workdir: epath.PathLike, config: ml_collections.ConfigDict) -> epath.Path:
  """Makes the folder this run's, or checks that it is already.

  Raises:
    UserError: the folder belongs to another configuration, or cannot be written.
  """
  workdir = epath.Path(workdir)
  if "://" not in str(workdir):
    workdir = epath.Path(os.path.abspath(workdir))  # Orbax takes no other
  path = workdir / "config.json"
  if path.exists():
    try:
      old = json.loads(path.read_text())
    except (OSError, ValueError) as error:
      raise UserError(f"cannot read {path}: {error}; give another --workdir")
    different = config_lib.differences(old, config, ignore=MAY_DIFFER)
    if different:
      raise UserError(
        f"{workdir} belongs to another configuration ({'; '.join(different)}); give "
        "another --workdir, or the same fields to resume"
      )
  try:
    workdir.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {workdir}: {error.strerror or error}")
  write_whole(path, config_lib.to_json(config))
  return workdir


def write_json(path: epath.Path, value: Any) -> None:
  """Writes JSON for people and programs alike."""
  write_whole(path, json.dumps(value, indent=2) + "\n")


def write_whole(path: epath.Path, text: str) -> None:
  """Writes a text file that is never seen half-written.

  Raises:
    UserError: the file system refuses.
  """
  part = path.with_name(path.name + ".part")
  try:
    part.write_text(text)
    part.replace(path)
  except OSError as error:
    part.unlink(missing_ok=True)
    raise UserError(
      f"cannot write {path}: {error.strerror or error}; check free space, limits and "
      "permissions"
    )
