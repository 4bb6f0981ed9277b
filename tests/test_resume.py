"""A run that was killed ends with the same bits as one that was not, dropout on."""

import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.training import checkpoint

# A checkpoint is read here as it was written, onto whatever device there is.
pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVERY = 160, 20
ARGUMENTS = (
  "--platform=cpu",
  "--config=configs/demo.py:tiny",
  f"--config.train.steps={STEPS}",
  f"--config.train.eval_every={EVERY}",
  "--config.train.log_every=5",
  "--config.train.history_buckets=()",
  "--config.baselines=()",
)


def start(workdir):
  return subprocess.Popen(
    [sys.executable, "-m", "lightlm_jax.train", *ARGUMENTS, f"--workdir={workdir}"],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(workdir):
  process = start(workdir)
  out, _ = process.communicate(timeout=600)
  assert process.returncode == 0, out
  return out


def steps_logged(workdir):
  path = workdir / "metrics.jsonl"
  # The last line may be half there: the run is writing it.
  whole = path.read_text().split("\n")[:-1] if path.exists() else []
  return [json.loads(line)["step"] for line in whole]


def kill_after(workdir, step):
  """Starts a run and kills it when its journal shows more than `step` steps."""
  process = start(workdir)
  deadline = time.monotonic() + 600
  while max(steps_logged(workdir), default=0) <= step:
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  assert process.returncode == -signal.SIGKILL


def latest(workdir):
  """Step and leaves of the newest checkpoint, as they were written."""
  checkpoints = checkpoint.Checkpoints(epath.Path(workdir))
  step = checkpoints.latest_step
  leaves = jax.tree_util.tree_leaves_with_path(
    checkpoints.restore(step, abstract_state=None)
  )
  checkpoints.close()
  return step, {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_end(one, other):
  step, leaves = latest(one)
  other_step, other_leaves = latest(other)
  assert step == other_step == STEPS
  assert leaves.keys() == other_leaves.keys()
  names = " ".join(leaves)
  assert "embedding" in names  # parameters
  assert ".mu" in names or "'mu'" in names  # the optimiser's moments
  for name, leaf in leaves.items():
    assert leaf.tobytes() == other_leaves[name].tobytes(), name

  measured = ("train_seconds", "examples_per_second", "users_per_second")
  results = [json.loads((w / "results.json").read_text()) for w in (one, other)]
  for result in results:
    for field in measured:
      assert result.pop(field) > 0
  assert results[0] == results[1]
  assert losses(one) == losses(other)


def losses(workdir):
  """Everything the journal says but the speed."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  return [{k: v for k, v in line.items() if "second" not in k} for line in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, demo_run):
  """A run to the end; behind the demo's, which has compiled most of its programs."""
  del demo_run
  workdir = tmp_path_factory.mktemp("runs") / "unbroken"
  out = finish(workdir)
  assert "resuming" not in out
  assert config_lib.load("demo:tiny").model.dropout_rate > 0
  return workdir


@pytest.fixture(scope="module")
def killed(tmp_path_factory, unbroken):
  """A workdir as a kill between two checkpoints leaves it."""
  del unbroken
  workdir = tmp_path_factory.mktemp("runs") / "killed"
  kill_after(workdir, EVERY)
  assert not (workdir / "results.json").exists()
  return workdir


def test_killed_run_ends_with_the_same_bits(unbroken, killed, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(killed, workdir)
  reached = max(steps_logged(workdir))
  saved = latest(workdir)[0]
  assert EVERY <= saved <= reached < STEPS
  out = finish(workdir)
  assert f"resuming at step {saved}" in out
  first = next(line for line in out.splitlines() if line.startswith("step "))
  assert first.split()[1] == f"{saved + 5}/{STEPS}"
  assert_same_end(unbroken, workdir)


def test_checkpoint_cut_off_by_a_kill_is_passed_over(unbroken, killed, tmp_path):
  workdir = tmp_path / "run"
  shutil.copytree(killed, workdir)
  saved = latest(workdir)[0]
  # A checkpoint that is being written has another name; the kill came half-way.
  torn = workdir / "checkpoints" / f"{saved + EVERY}.orbax-checkpoint-tmp"
  shutil.rmtree(torn, ignore_errors=True)
  shutil.copytree(workdir / "checkpoints" / str(saved), torn)
  for path in list(torn.rglob("*")):
    if path.name == "commit_success.txt":
      path.unlink()
    elif path.is_file():
      os.truncate(path, path.stat().st_size // 2)
  assert latest(workdir)[0] == saved
  out = finish(workdir)
  assert f"resuming at step {saved}" in out
  assert not torn.exists()
  assert_same_end(unbroken, workdir)


@pytest.mark.slow
def test_many_kills_at_random_moments_end_with_the_same_bits(unbroken, tmp_path):
  workdir = tmp_path / "run"
  rng = random.Random(time.time_ns())
  for _ in range(8):
    process = start(workdir)
    logged = len(steps_logged(workdir))
    deadline = time.monotonic() + 600
    while len(steps_logged(workdir)) <= logged and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 1))  # anywhere: in a step, a validation, a save
    process.kill()
    process.communicate()
  finish(workdir)
  assert_same_end(unbroken, workdir)
