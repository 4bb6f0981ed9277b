"""A training of the demo in a process of its own, and whether two ended alike."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np

from lightlm_jax.training import checkpoint

ROOT = pathlib.Path(__file__).parent.parent
STEPS, EVERY = 160, 20
ARGUMENTS = (
  "--platform=cpu",
  "--config=configs/demo.py:tiny",
  f"--config.train.steps={STEPS}",
  f"--config.train.eval_every={EVERY}",
  "--config.train.log_every=5",
  "--config.train.history_buckets=()",
  "--config.train.eval_batch_size=300",
  "--config.baselines=()",
)


def command(workdir, feed="device"):
  own = f"--workdir={workdir}", f"--config.train.feed={feed}"
  return [sys.executable, "-m", "lightlm_jax.train", *ARGUMENTS, *own]


def start(workdir, feed="device", **environment):
  return subprocess.Popen(
    command(workdir, feed),
    cwd=ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(workdir, feed="device", **environment):
  process = start(workdir, feed, **environment)
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


def whole(workdir):
  """The steps whose checkpoints were written to their end, ascending."""
  manifests = (workdir / "checkpoints").glob("*/sha256.json")
  return sorted(int(manifest.parent.name) for manifest in manifests)


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
    # The checkpoint says when it was written, and the checksum is of all fields.
    assert result.pop("parameters_sha256")
    assert result.pop("checksum")
  assert results[0] == results[1]
  assert losses(one) == losses(other)


def losses(workdir):
  """Everything the journal says but the speed."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  told = ("step", "loss", "validation")
  return [{name: line[name] for name in told if name in line} for line in lines]
