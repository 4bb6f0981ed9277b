"""Parts of a workdir that are of other runs are refused: checkpoints, ids, results."""

import shutil

from etils import epath
import numpy as np
import pytest

from lightlm_jax.reporting import run_files
from lightlm_jax.runs import evaluate, parts, recommend, restore, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("parts")


@pytest.fixture
def runs(small_config, folder):
  """Folders of three runs: of two seeds, and of a log of another seed."""
  changes = {"one": {}, "other": {"seed": 5}, "log": {"data__shop__seed": 9}}
  for name, change in changes.items():
    if not (folder / name / "results.json").exists():
      own = {"system": "bpr_mf", "split__kind": "leave_one_out"} | change
      train.train(small_config(**own), folder / name)
      evaluate.evaluate(folder / name, split_name="validation")
  return folder


def mixed(runs, tmp_path, part, of):
  """A copy of the first run with one part of another."""
  run = tmp_path / "mixed"
  shutil.copytree(runs / "one", run)
  theirs, ours = runs / of / part, run / part
  if ours.is_dir():
    shutil.rmtree(ours)
    shutil.copytree(theirs, ours)
  else:
    shutil.copy(theirs, ours)
  return run


@pytest.mark.parametrize(
  ("part", "of", "why"),
  [
    ("checkpoints", "other", r"checkpoints are of another configuration \(seed: 5 → 0"),
    ("checkpoints", "log", "checkpoints are of another split"),
    ("results.json", "other", r"results.json is of other parameters than the checkp"),
    ("results.json", "log", "was begun on another log"),
    ("config.json", "other", r"checkpoints are of another configuration \(seed: 0 → 5"),
  ],
)
def test_a_part_of_another_run_is_refused(runs, tmp_path, part, of, why):
  run = mixed(runs, tmp_path, part, of)
  user = restore.dataset_of(epath.Path(run), restore.read_configs(run, {})[1])
  for call in (
    lambda: evaluate.evaluate(run),
    lambda: recommend.recommend(run, users=[user.log.user_ids[0]]),
    lambda: restore.load(run),
  ):
    with pytest.raises(UserError, match=why):
      call()


def test_training_does_not_go_on_from_a_checkpoint_of_another_run(
  runs, tmp_path, small_config
):
  run = mixed(runs, tmp_path, "checkpoints", "other")
  more = {"system": "bpr_mf", "split__kind": "leave_one_out", "train__steps": 8}
  with pytest.raises(UserError, match=r"are of another configuration .*seed: 5 → 0"):
    train.train(small_config(**more), run)


def test_a_table_and_an_evaluation_of_other_parameters_are_left_out_of_a_report(
  runs, tmp_path, logged
):
  assert run_files.read(runs / "one").users is not None
  assert run_files.read(runs / "one").asked_again
  (name,) = (p.name for p in (runs / "one").glob("users-test*"))
  found = run_files.read(mixed(runs, tmp_path / "a", name, "other"))
  assert found.users is None
  assert f"{name} is of another run" in logged[-1]
  (name,) = (p.name for p in (runs / "one").glob("results-*"))
  found = run_files.read(mixed(runs, tmp_path / "b", name, "other"))
  assert not found.asked_again
  assert f"{name} is of another run" in logged[-1]


def test_a_finished_run_does_not_show_results_of_another(runs, tmp_path, small_config):
  run = mixed(runs, tmp_path, "results.json", "other")
  config = small_config(system="bpr_mf", split__kind="leave_one_out")
  with pytest.raises(UserError, match=r"results\.json is of other parameters"):
    train.train(config, run)


def test_a_table_of_another_run_is_not_compared(runs, tmp_path):
  (name,) = (p.name for p in (runs / "one").glob("users-test*"))
  run = mixed(runs, tmp_path, name, "other")
  with pytest.raises(UserError, match=f"{name} is of another run than results.json"):
    evaluate.compare([run, runs / "other"])


def test_checkpoints_of_an_older_version_name_no_run_and_are_taken(runs, tmp_path):
  run = restore.load(runs / "one")
  made_of = parts.of_run(run.config, run.split, None, None)
  older = checkpoint.Checkpoints(epath.Path(tmp_path))
  older.save(1, {"weight": np.ones(3)}, {"best_step": 1})
  older.close()
  reader = checkpoint.Checkpoints(epath.Path(tmp_path), made_of, read_only=True)
  assert not reader.saved_with()
  parts.check_checkpoints(reader)
  reader.close()
