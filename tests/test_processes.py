"""Processes that are one run: they train, end and go on as one process does."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
STEPS = 200
ARGUMENTS = (
  "--platform=cpu",
  "--config=configs/demo.py:tiny",
  f"--config.train.steps={STEPS}",
  "--config.train.eval_every=50",
  "--config.train.eval_users=20",
  "--config.train.log_every=1",
  "--config.train.history_buckets=()",
  "--config.split.kind=none",
  "--config.baselines=()",
)


def start(count, workdir, *more):
  """`count` processes on this machine, a device each."""
  kept = {
    name: value
    for name, value in os.environ.items()
    if not name.lower().endswith("_proxy")
  }
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    address = f"127.0.0.1:{free.getsockname()[1]}"
  command = [sys.executable, "-m", "lightlm_jax.train", *ARGUMENTS, *more]
  command.append(f"--workdir={workdir}")
  together = [f"--distributed={address},{count},{rank}" for rank in range(count)]
  return [
    subprocess.Popen(
      [*command, flag],
      cwd=ROOT,
      env=kept,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for flag in (together if count > 1 else ["--distributed=off"])
  ]


def ends(running):
  """What each said; none is left running."""
  try:
    return [process.communicate(timeout=240) for process in running]
  finally:
    for process in running:
      process.kill()


def run(count, workdir, *more):
  running = start(count, workdir, *more)
  said = ends(running)
  assert [process.returncode for process in running] == [0] * count, said
  return said


def journal(workdir):
  lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
  return [
    (line["step"], line["loss"]) for line in map(json.loads, lines) if "loss" in line
  ]


def wait_for_step(running, workdir, step):
  deadline = time.monotonic() + 240
  while not (workdir / "metrics.jsonl").exists() or len(journal(workdir)) <= step:
    assert all(process.poll() is None for process in running), ends(running)
    assert time.monotonic() < deadline
    time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
  """The workdir of one process."""
  workdir = tmp_path_factory.mktemp("runs") / "alone"
  run(1, workdir)
  return workdir


def assert_same_run(workdir, alone):
  """The same batches in the same order: a batch apart would be another loss."""
  step_S, loss_S = zip(*journal(workdir))
  assert step_S == tuple(range(1, STEPS + 1))
  np.testing.assert_allclose(loss_S, [loss for _, loss in journal(alone)], rtol=1e-4)
  found, wanted = (
    json.loads((path / "results.json").read_text()) for path in (workdir, alone)
  )
  assert len(found["devices"]) > len(wanted["devices"]) == 1
  for field in ("steps", "num_users", "split_sha256", "ids", "params", "baselines"):
    assert found[field] == wanted[field], field
  for split in ("validation", "metrics"):
    for rule, metrics in (wanted[split] or {}).items():
      # A rounding may change the places of two items, not many.
      assert found[split][rule] == pytest.approx(metrics, abs=0.01)


@pytest.mark.integration
@pytest.mark.slow  # that two save and end together is also test_launch's
def test_two_processes_end_together_and_go_on_as_one(alone, tmp_path):
  workdir = tmp_path / "run"
  running = start(2, workdir)
  wait_for_step(running, workdir, 25)
  running[1].send_signal(signal.SIGTERM)  # whichever is told
  (first, _), (second, _) = said = ends(running)
  assert [p.returncode for p in running] == [128 + signal.SIGTERM] * 2, said
  assert "2 x cpu" in first
  # Gloo, which joins CPUs, speaks for each of them.
  spoken = [line for line in second.splitlines() if "[Gloo]" not in line]
  assert spoken == [], "only the first process speaks"
  reached = len(journal(workdir))
  assert 25 < reached < STEPS, "it came to its end before the signal"
  saved = re.findall(r"\d+", " ".join(os.listdir(workdir / "checkpoints")))
  assert str(reached) in saved, "and not where the checkpoint before was"
  # Each reads from disk what its own device wants: the order is one.
  (first, _), _ = run(2, workdir, "--config.train.feed=stream")
  assert f"resuming at step {reached}" in first
  assert_same_run(workdir, alone)


@pytest.mark.integration
@pytest.mark.slow
def test_four_processes_are_killed_and_two_go_on(tmp_path):
  """From the checkpoint before the last, because that one is damaged; judged too."""
  judged = ("--config.split.kind=leave_one_out", '--config.baselines=("pop",)')
  run(1, tmp_path / "alone", *judged)
  workdir = tmp_path / "run"
  running = start(4, workdir, *judged)
  wait_for_step(running, workdir, 120)
  for process in running:
    process.send_signal(signal.SIGKILL)
  ends(running)
  os.truncate(workdir / "checkpoints" / "100" / "_CHECKPOINT_METADATA", 5)
  (first, _), _ = run(2, workdir, *judged)
  assert "the checkpoint of step 100 is damaged" in first
  assert "resuming at step 50" in first
  assert_same_run(workdir, tmp_path / "alone")


@pytest.mark.parametrize(
  "how",
  ["on", "here:1", "here:1,2", "here:1,2,2", "here,2,0", "here:x,2,1", "h:1,2,-1"],
)
def test_who_the_others_are_has_to_be_understood(how):
  with pytest.raises(
    UserError, match=rf"--distributed={how} is not .*host:port,N,rank"
  ):
    processes.join(how)


@pytest.mark.parametrize(
  ("name", "several", "one"),
  [
    ("SLURM_NTASKS", "4", "1"),
    ("TPU_WORKER_HOSTNAMES", "t1k-0,t1k-1", "localhost"),
  ],
)
def test_one_of_several_processes_is_not_taken_for_a_run(
  monkeypatch, name, several, one
):
  """Or each of them would write into the same workdir."""
  monkeypatch.setenv(name, several)
  with pytest.raises(UserError, match=f"{name} is {several}.*--distributed=auto"):
    processes.join(None)
  processes.join("off")
  monkeypatch.setenv(name, one)
  processes.join(None)
  assert processes.is_first()
  assert not processes.several()


def test_nobody_to_join_is_said():
  """In a process of its own: jax asks first whether a device was touched."""
  launchers = ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST")
  script = "from lightlm_jax.runtime import processes as p; p.join('auto')"
  said = subprocess.run(
    [sys.executable, "-c", script],
    env={name: value for name, value in os.environ.items() if name not in launchers},
    capture_output=True,
    text=True,
    timeout=120,
  ).stderr
  assert "UserError: --distributed=auto: jax finds neither Slurm" in said
