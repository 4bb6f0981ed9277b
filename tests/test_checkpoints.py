"""How many checkpoints are kept, and what happens when one cannot be written."""

from etils import epath
import numpy as np
import pytest

from lightlm_jax.runs import evaluate, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import checkpoint, loop, manifests

pytestmark = pytest.mark.filterwarnings("ignore:Sharding info not provided")
STATE = {"weight": np.ones(3)}


@pytest.fixture
def opened(tmp_path):
  """Opens checkpoints, which are closed in the end."""
  all_opened = []

  def make(**options):
    all_opened.append(checkpoint.Checkpoints(epath.Path(tmp_path), **options))
    return all_opened[-1]

  yield make
  for checkpoints in all_opened:
    checkpoints.close()


@pytest.fixture
def disk(monkeypatch):
  """A disk whose free bytes are those of the list's last element."""
  free = [10**9]

  class Usage:
    @property
    def free(self):
      return free[-1]

  monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda path: Usage())
  return free


def steps(tmp_path):
  folders = (tmp_path / "checkpoints").glob("*/sha256.json")
  return sorted(int(manifest.parent.name) for manifest in folders)


@pytest.mark.parametrize(
  ("keep", "wanted"), [(1, [1, 5]), (2, [1, 4, 5]), (9, [1, 2, 3, 4, 5])]
)
def test_the_latest_and_the_best_are_kept(opened, tmp_path, keep, wanted):
  checkpoints = opened(keep=keep)
  for step in range(1, 6):
    checkpoints.save(step, STATE, {"best_step": 1})
  checkpoints.wait()
  assert steps(tmp_path) == wanted


def test_without_room_nothing_is_begun(opened, disk, tmp_path):
  checkpoints = opened()
  checkpoints.save(1, STATE, {"best_step": 1})
  disk.append(23)
  with pytest.raises(
    UserError, match=r"needs up to 0\.0 MB and 0\.0 MB are free; make"
  ):
    checkpoints.save(2, STATE, {"best_step": 1})
  assert checkpoints.latest_step == 1
  assert steps(tmp_path) == [1]
  disk.append(24)
  checkpoints.save(2, STATE, {"best_step": 1})
  checkpoints.require(2)


def test_a_run_that_goes_on_without_a_checkpoint_ends_with_one(
  opened, disk, tmp_path, logged
):
  checkpoints = opened(goes_on=True)
  checkpoints.save(1, STATE, {"best_step": 1})
  disk.append(0)
  checkpoints.save(2, STATE, {"best_step": 1})
  assert "the run goes on without this checkpoint" in logged[-1]
  assert checkpoints.latest_step == 1
  with pytest.raises(UserError, match="the last state, of step 2, could not be saved"):
    checkpoints.require(2)
  disk.append(10**9)
  checkpoints.save(3, STATE, {"best_step": 1})
  checkpoints.require(3)
  assert steps(tmp_path) == [1, 3]


@pytest.mark.parametrize("goes_on", [True, False])
def test_a_save_that_fails_behind_the_run_is_said_at_once(
  opened, tmp_path, monkeypatch, logged, goes_on
):
  checkpoints = opened(goes_on=goes_on)
  checkpoints.save(1, STATE, {"best_step": 1})
  checkpoints.wait()

  def fails(folder, process):
    raise OSError("no space left")

  with monkeypatch.context() as patch:
    patch.setattr(manifests, "write", fails)
    checkpoints.save(2, STATE, {"best_step": 1})
    checkpoints._writer.submit(lambda: None).result()  # until it has failed
    if goes_on:
      checkpoints.check()
      assert "no space left" in logged[-1]
    else:
      with pytest.raises(UserError, match="no space left"):
        checkpoints.check()
  assert checkpoints.latest_step == 1


def test_a_run_goes_on_without_a_checkpoint_though_it_was_the_best(
  small_config, tmp_path, monkeypatch, logged
):
  fields = {"system": "bpr_mf", "split__kind": "leave_one_out"}
  config = small_config(**fields, train__failed_save="go_on")
  monkeypatch.setattr(
    loop, "_validate", lambda *_: {"hr@10": 0.0, "ndcg@10": scores.pop()}
  )
  scores = [0.1, 0.1, 0.3]  # the first of three is the best
  check, calls = checkpoint._check_space, []

  def full(directory, state):
    calls.append(directory)
    if len(calls) == 1:
      raise UserError("no room")
    check(directory, state)

  monkeypatch.setattr(checkpoint, "_check_space", full)
  results = train.train(config, tmp_path)
  assert "no room; the run goes on without this checkpoint" in logged
  assert any("the best state, of step 2, was not saved" in line for line in logged)
  assert results["best_step"] == 6
  assert evaluate.evaluate(tmp_path)["metrics"] == results["metrics"]


def test_by_default_a_run_ends_where_it_cannot_be_saved(
  small_config, tmp_path, monkeypatch
):
  fields = {"system": "bpr_mf", "split__kind": "leave_one_out"}

  def full(directory, state):
    raise UserError("no room")

  with monkeypatch.context() as patch:
    patch.setattr(checkpoint, "_check_space", full)
    with pytest.raises(UserError, match="no room"):
      train.train(small_config(**fields), tmp_path)
  # The field may change when the run is resumed.
  train.train(small_config(**fields, train__failed_save="go_on"), tmp_path)
