"""Lets a save fail behind the run: it is said, and what was whole before is read."""

import pathlib
import random
from typing import Any

from etils import epath
import numpy as np
import pytest

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import checkpoint, manifests

from . import saves
from .suite import Kind


def trial(prepared: None, rng: random.Random, folder: pathlib.Path) -> str:
  """Saves some steps, of which the last cannot be written to its end."""
  del prepared
  whole = rng.randint(0, 2)
  checkpoints = checkpoint.Checkpoints(epath.Path(folder))
  for step in range(1, whole + 1):
    _save(checkpoints, step)
  checkpoints.wait()
  said = None
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(manifests, "write", _full_disk)
    try:
      _save(checkpoints, whole + 1)
      rng.choice([checkpoints.wait, checkpoints.close])()
    except UserError as error:
      said = str(error)
  assert said, "a save failed, and nobody was told"
  assert "No space left" in said
  checkpoints.close()
  # Its files were all there, except the manifest: it may be read, and is whole.
  assert saves.read(folder, read_only=True) in (whole or None, whole + 1)
  return "said"


def _save(checkpoints: checkpoint.Checkpoints, step: int) -> None:
  """Saves what `saves.read` expects of a step."""
  state: Any = {f"leaf{n}": np.full((20, 5), step) for n in range(20)}
  checkpoints.save(step, state, {"best_step": step - step % 3})


def _full_disk(*_):
  raise OSError(28, "No space left on device")


KINDS = (Kind("failed saves", "a save that fails is said", 100, saves.prepare, trial),)
