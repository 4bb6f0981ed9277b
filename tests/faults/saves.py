"""Kills a process while it saves checkpoints: none is ever read in part."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

from etils import epath
import numpy as np

from lightlm_jax.training import checkpoint

from .suite import Kind

# Every leaf of step N holds N, so that a state of two steps shows.
WRITER = """
import sys
from etils import epath
import numpy as np
from lightlm_jax.training import checkpoint

checkpoints = checkpoint.Checkpoints(epath.Path(sys.argv[1]))
step = checkpoints.latest_step or 0
while True:
  step += 1
  state = {f"leaf{n}": np.full((200, 50), step) for n in range(20)}
  checkpoints.save(step, state, {"best_step": step - step % 3})
  print(step, flush=True)
"""


def prepare(folder: pathlib.Path) -> None:
  del folder


def trial(prepared: None, rng: random.Random, folder: pathlib.Path) -> str:
  """Kills a writer up to .3 s after one of its first saves began, then reads."""
  del prepared
  process = subprocess.Popen(
    [sys.executable, "-c", WRITER, str(folder)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=os.environ | {"JAX_PLATFORMS": "cpu"},
    text=True,
  )
  assert process.stdout is not None
  for _ in range(rng.randint(1, 4)):
    said = process.stdout.readline()
    assert said, process.stderr and process.stderr.read()
  time.sleep(rng.uniform(0, 0.3))
  process.kill()
  process.communicate()
  assert process.returncode == -signal.SIGKILL
  unfinished = list((folder / "checkpoints").glob("*.orbax-checkpoint-tmp"))
  newest = read(folder, read_only=True)
  assert read(folder, read_only=False) == newest
  assert not list((folder / "checkpoints").glob("*.orbax-checkpoint-tmp"))
  return "in the midst of a save" if unfinished else "between two saves"


def read(folder: pathlib.Path, *, read_only: bool) -> int | None:
  """Returns the newest step, after checking that all its numbers are of that step."""
  checkpoints = checkpoint.Checkpoints(epath.Path(folder), read_only=read_only)
  step = checkpoints.latest_step
  assert not checkpoints.damaged
  if step is not None:
    state = checkpoints.restore(step, None)
    assert len(state) == 20
    for leaf in state.values():
      np.testing.assert_array_equal(leaf, step)
    assert checkpoints.progress()["best_step"] == step - step % 3
  checkpoints.close()
  return step


KINDS = (
  Kind("saves", "a killed save is read whole or not at all", 100, prepare, trial),
)
