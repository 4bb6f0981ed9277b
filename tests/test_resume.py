"""A run that was killed ends with the same bits as one that was not, dropout on."""

import functools
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
from lightlm_jax.runs import evaluate, recommend, restore, train
from lightlm_jax.runs.recommender import Recommender
from lightlm_jax.runtime.errors import Stopped, UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.training import checkpoint, loop
from lightlm_jax.training.state import TrainState

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
  "--config.train.eval_batch_size=300",
  "--config.baselines=()",
)


def start(workdir, feed="device"):
  own = f"--workdir={workdir}", f"--config.train.feed={feed}"
  return subprocess.Popen(
    [sys.executable, "-m", "lightlm_jax.train", *ARGUMENTS, *own],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(workdir, feed="device"):
  process = start(workdir, feed)
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
    assert result.pop("parameters_sha256")  # the checkpoint says when it was written
  assert results[0] == results[1]
  assert losses(one) == losses(other)


def losses(workdir):
  """Everything the journal says but the speed."""
  lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
  told = ("step", "loss", "validation")
  return [{name: line[name] for name in told if name in line} for line in lines]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
  """A run to the end; the others find its compiled programs in the cache."""
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
  kill_after(workdir, 3 * EVERY + 5)  # two checkpoints at least are whole then
  assert not (workdir / "results.json").exists()
  return workdir


@pytest.mark.integration
def test_killed_run_ends_with_the_same_bits(unbroken, killed, tmp_path):
  """Past a checkpoint that the kill cut off: until it is whole it has another name."""
  workdir = tmp_path / "run"
  shutil.copytree(killed, workdir)
  reached = max(steps_logged(workdir))
  saved = latest(workdir)[0]
  assert 2 * EVERY <= saved <= reached < STEPS
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
  first = next(line for line in out.splitlines() if line.startswith("step "))
  assert first.split()[1] == f"{saved + 5}/{STEPS}"
  assert not torn.exists()
  assert_same_end(unbroken, workdir)


@pytest.mark.integration
@pytest.mark.parametrize("harm", ["flipped", "cut", "gone"])
def test_damaged_checkpoint_is_passed_over(killed, tmp_path, harm):
  """A bit in a file of numbers: Orbax alone would read it without a word."""
  shutil.copytree(killed, tmp_path / "run")
  checkpoints = tmp_path / "run" / "checkpoints"
  *_, before, newest = whole(tmp_path / "run")
  file = max((checkpoints / str(newest)).rglob("*"), key=lambda p: p.stat().st_size)
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 1
  if harm == "gone":
    file.unlink()
  else:
    file.write_bytes(content[: len(content) // 2] if harm == "cut" else content)
  reader = checkpoint.Checkpoints(epath.Path(tmp_path / "run"), read_only=True)
  assert reader.latest_step == before
  assert reader.progress()["judged_step"] == before
  (line,) = reader.damaged
  assert f"step {newest} is damaged" in line
  assert str(file.relative_to(checkpoints / str(newest))) in line
  with pytest.raises(UserError, match=f"the checkpoint of step {newest} in"):
    reader.restore(newest, None)
  reader.close()
  assert (checkpoints / str(newest)).exists()
  # Whoever goes on sets it aside, and nothing is lost.
  checkpoint.Checkpoints(epath.Path(tmp_path / "run")).close()
  assert not (checkpoints / str(newest)).exists()
  assert (checkpoints / f"damaged-{newest}").exists()


def test_whoever_answers_says_which_checkpoint_was_passed_over(
  small_config, tmp_path, logged
):
  config = small_config(system="bpr_mf", split__kind="leave_one_out")
  run = tmp_path / "run"
  train.train(config, run)
  *_, before, newest = whole(run)
  os.truncate(run / "checkpoints" / str(newest) / "_CHECKPOINT_METADATA", 5)
  user = restore.dataset_of(epath.Path(run), config).log.user_ids[0]
  calls = (
    functools.partial(evaluate.evaluate, run, users=5),
    functools.partial(recommend.recommend, run, users=[user]),
    functools.partial(restore.load, run),
    functools.partial(Recommender.load, run),
  )
  said = f"step {newest} is damaged: _CHECKPOINT_METADATA is not what was written"
  for call in calls:
    logged.clear()
    call()
    (line,) = [line for line in logged if "damaged" in line]
    assert line == f"the checkpoint of {said}; passed over for that of step {before}"
    assert not any("stands at" in line for line in logged)
    with pytest.raises(UserError, match=rf"{said} .* or leave out --strict to use"):
      call(strict=True)


@pytest.mark.slow
def test_run_goes_on_from_the_checkpoint_before_a_damaged_one(
  unbroken, killed, tmp_path
):
  workdir = tmp_path / "run"
  shutil.copytree(killed, workdir)
  *_, before, newest = whole(workdir)
  os.truncate(workdir / "checkpoints" / str(newest) / "_CHECKPOINT_METADATA", 5)
  out = finish(workdir)
  assert f"warning: the checkpoint of step {newest} is damaged" in out
  assert f"resuming at step {before}" in out
  assert_same_end(unbroken, workdir)


@pytest.mark.integration
def test_without_digests_a_checkpoint_is_taken_and_with_other_ones_none(
  killed, tmp_path
):
  shutil.copytree(killed, tmp_path / "run")
  manifests = sorted((tmp_path / "run" / "checkpoints").glob("*/sha256.json"))
  newest = whole(tmp_path / "run")[-1]
  for manifest in manifests:
    manifest.unlink()  # as a kill before it leaves it, or an older version
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path / "run"), read_only=True)
  assert (checkpoints.latest_step, checkpoints.damaged) == (newest, [])
  checkpoints.close()
  for manifest in manifests:
    manifest.write_text(json.dumps({"state/lost": "0"}))
  with pytest.raises(UserError, match=r"no checkpoint in .* is whole .*another --work"):
    checkpoint.Checkpoints(epath.Path(tmp_path / "run"), read_only=True)
  assert len(list((tmp_path / "run" / "checkpoints").iterdir())) >= len(manifests)


def test_the_best_is_kept_for_what_a_damaged_checkpoint_falls_back_on(tmp_path):
  """Best is 1, then 4; once 4 is damaged, 3 has to find 1 again."""
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path))
  for step, best_step in ((1, 1), (2, 1), (3, 1), (4, 4)):
    checkpoints.save(step, {"weight": np.full(3, step)}, {"best_step": best_step})
  checkpoints.update_progress({"best_step": 4, "judged_step": 4})
  checkpoints.close()
  assert whole(tmp_path) == [1, 3, 4]
  reader = checkpoint.Checkpoints(epath.Path(tmp_path), read_only=True)
  assert reader.progress() == {"best_step": 4, "judged_step": 4}
  reader.close()


def test_parameters_of_other_shapes_are_named(tmp_path):
  def state(**params):
    return TrainState(np.zeros((), np.int32), params, ())

  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path))
  checkpoints.save(1, state(bias=np.ones(3)), {"best_step": 1})
  checkpoints.wait()
  for other, message in (
    (state(bias=np.ones((2, 3))), r"have bias \[3\], this .* has bias \[2, 3\]; go on"),
    (state(weight=np.ones(3)), r"have bias \[3\], this .* has no bias"),
    (state(a=np.ones(3), bias=np.ones(3)), r"have no a, this .* has a \[3\]"),
  ):
    with pytest.raises(UserError, match=message):
      checkpoints.restore(1, other)
  checkpoints.close()


def test_a_disk_that_does_not_answer_is_no_damage(tmp_path, monkeypatch):
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path))
  checkpoints.save(1, {"weight": np.ones(3)}, {"best_step": 1})
  checkpoints.close()

  def fails(path):
    raise OSError("stale file handle")

  with monkeypatch.context() as patch:
    patch.setattr(folder_lib, "sha256", fails)
    with pytest.raises(UserError, match=r"cannot read checkpoints .*stale file"):
      checkpoint.Checkpoints(epath.Path(tmp_path))
  assert whole(tmp_path) == [1]


def test_a_write_that_fails_behind_the_run_is_not_missed(tmp_path, monkeypatch):
  def fails(path):
    raise OSError(f"no space left for {path.name}")

  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path))
  monkeypatch.setattr(folder_lib, "sha256", fails)
  state = {"weight": np.ones(3)}
  checkpoints.save(1, state, {"best_step": 0})
  with pytest.raises(UserError, match=r"cannot write checkpoints in .*no space left"):
    checkpoints.save(2, state, {"best_step": 0})
  checkpoints.close()


@pytest.mark.integration
def test_told_to_end_a_run_saves_and_says_so(unbroken, tmp_path):
  workdir = tmp_path / "run"
  process = start(workdir)
  deadline = time.monotonic() + 600
  while max(steps_logged(workdir), default=0) <= EVERY + 5:
    assert process.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.005)
  process.send_signal(signal.SIGTERM)
  out, _ = process.communicate(timeout=60)
  assert process.returncode == 128 + signal.SIGTERM
  assert out.splitlines()[-1] == (
    "lightlm_jax: stopped by SIGTERM; start again to resume"
  )
  saved = latest(workdir)[0]
  # Where it stood, not the checkpoint before (unless it stood just there).
  assert saved == max(steps_logged(workdir))
  assert f"resuming at step {saved}" in finish(workdir)
  assert_same_end(unbroken, workdir)


@pytest.mark.parametrize("average", [pytest.param(0.0, marks=pytest.mark.slow), 0.9])
def test_told_to_end_while_validating_a_run_validates_again(
  small_config, tmp_path, monkeypatch, average
):
  """Or the best checkpoint would be another one than without the signal."""
  # A system that compiles in no time.
  fields = {"split__kind": "leave_one_out", "train__average": average}
  config = small_config(system="bpr_mf", **fields)
  wanted = train.train(config, tmp_path / "whole")
  validate, calls = loop._validate, []

  def told(*arguments):
    calls.append(arguments)
    if len(calls) == 2:
      signal.raise_signal(signal.SIGTERM)
    return validate(*arguments)

  with monkeypatch.context() as patch:
    patch.setattr(loop, "_validate", told)
    with pytest.raises(Stopped, match="SIGTERM"):
      train.train(config, tmp_path / "run")
  assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
  found = train.train(config, tmp_path / "run")
  for field in ("best_step", "validation", "metrics"):
    assert found[field] == wanted[field], field
  (_, leaves), (_, other) = (latest(tmp_path / name) for name in ("whole", "run"))
  assert any("averaged_params" in name for name in leaves) == bool(average)
  for name, leaf in leaves.items():
    assert leaf.tobytes() == other[name].tobytes(), name
  validated = [
    line["step"] for line in losses(tmp_path / "run") if "validation" in line
  ]
  assert validated == [2, 4, 6]


def test_two_processes_do_not_train_in_one_folder(small_config, tmp_path):
  config = small_config(system="pop", split__kind="leave_one_out")
  with (
    workdir_lib.claimed(tmp_path / "run", config),
    pytest.raises(UserError, match=r"another process trains in .*another --workdir"),
  ):
    train.train(config, tmp_path / "run")
  assert not (tmp_path / "run" / "split.json").exists()
  train.train(config, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("feed", ["device", "stream"])
def test_many_kills_at_random_moments_end_with_the_same_bits(unbroken, tmp_path, feed):
  workdir = tmp_path / "run"
  rng = random.Random(time.time_ns())
  for _ in range(20):
    process = start(workdir, feed)
    logged = len(steps_logged(workdir))
    deadline = time.monotonic() + 600
    while len(steps_logged(workdir)) <= logged and process.poll() is None:
      assert time.monotonic() < deadline
      time.sleep(0.005)
    time.sleep(rng.uniform(0, 1))  # anywhere: in a step, a validation, a save
    process.kill()
    process.communicate()
  finish(workdir, feed)
  assert_same_end(unbroken, workdir)
