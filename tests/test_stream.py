"""Rows from disk: the batches of the device, the run of the device, at any start."""

import importlib.util
import json

from compiled import gather
import jax
import numpy as np
import pytest

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data import packing, shards
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.runs import train
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError

WINDOW = 6
K = 3


def make_log(seed=0, num_users=40):
  rng = np.random.default_rng(seed)
  length_U = rng.integers(1, 14, num_users)
  return Interactions(
    offset_U1=np.concatenate([[0], np.cumsum(length_U)]),
    item_E=rng.integers(1_000, size=length_U.sum()).astype(np.int32),
    user_ids=np.arange(num_users).astype(str),
    item_ids=np.arange(1_000).astype(str),
  )


def sequences(log):
  return feed_lib.packs(log, seed=3, batch_size=4, width=WINDOW)


def targets(log, most):
  start_E = np.repeat(log.offset_U1[:-1], log.length_U)
  length_E = 1 + np.minimum(np.arange(len(start_E)) - start_E, WINDOW)
  rows = packing.rows(length_E, most) if most > 1 else None
  return feed_lib.positions(log, seed=3, batch_size=12, widths=(WINDOW,), rows=rows)


def of_one(log):
  return targets(log, 1)


def of_three(log):
  return targets(log, 3)


def on_the_device(feed, plan, step):
  bucket, key, batch = plan.at(np.array(step))
  return gather(feed, key, batch, plan=plan, bucket=int(bucket))


def equal(one, other):
  for name, a, b in zip(one._fields, one, other, strict=True):
    assert (a.dtype, a.shape) == (b.dtype, b.shape), name
    np.testing.assert_array_equal(a, b, err_msg=name)


@pytest.mark.parametrize("make", [sequences, of_one, of_three])
@pytest.mark.parametrize("rows_a_file", [7, 2**20])
def test_a_step_from_disk_is_the_step_on_the_device(tmp_path, make, rows_a_file):
  """Every batch of two epochs, the last of each filled up, in files of any size."""
  feed, plan = make(make_log())
  about = shards.write(tmp_path / "rows", [(feed, plan)], rows_a_file=rows_a_file)
  assert about["rows"] == plan.sizes[0] > 7
  assert len(about["files"]) == -(-about["rows"] // rows_a_file)
  rows = shards.Shards(tmp_path / "rows")
  assert (about["width"], about["window"]) == (plan.widths[0], plan.window)
  every_B = np.ones(plan.batch_size, bool)
  assert plan.sizes[0] % plan.batch_size, "nothing to fill up"
  for step in range(2 * plan.steps_per_epoch):
    found = shards.batch_at(rows, plan, every_B, step)
    equal(found, on_the_device(feed, plan, step))


@pytest.mark.parametrize("make", [sequences, of_three])
def test_a_reader_begins_at_any_step(tmp_path, make):
  feed, plan = make(make_log())
  rows = shards.cached(tmp_path, feed, plan)
  mesh = mesh_lib.make(1, 1)
  for start in (0, 17):
    read = shards.reader(rows, plan, mesh, start=start, most=K)
    step = start
    for number in (1, K, 2):
      batches = read(number)
      for k in range(number):
        own = jax.tree.map(lambda x, k=k: x[k], batches)
        equal(own, on_the_device(feed, plan, step))
        step += 1


def test_a_process_reads_what_its_devices_want(tmp_path):
  feed, plan = of_three(make_log())
  rows = shards.cached(tmp_path, feed, plan)
  wanted_B = np.array([False, True, False, True])
  found = shards.batch_at(rows, plan, wanted_B, 5)
  whole = on_the_device(feed, plan, 5)
  for a_BX, b_BX in zip(found, whole):
    np.testing.assert_array_equal(a_BX[wanted_B], b_BX[wanted_B])
  assert (found.history_BH[~wanted_B] == -1).all()
  assert not found.weight_B[~wanted_B].any()


def test_blocks_of_users_are_written_one_after_the_other(tmp_path):
  """So that a log need not be in memory: rows of block after block, by number."""
  logs = [make_log(seed, 20) for seed in range(3)]
  feeds = [of_three(log) for log in logs]
  about = shards.write(tmp_path / "rows", iter(feeds), rows_a_file=10)
  assert about["width"] == max(plan.widths[0] for _, plan in feeds)
  rows = shards.Shards(tmp_path / "rows")
  first = 0
  for feed, plan in feeds:
    size = plan.sizes[0]
    found = rows.rows(range(first, first + size))
    expected = feed_lib.rows_at(
      feed, np.arange(size), np.ones(size, bool), np.uint32(0), plan=plan, bucket=0
    )
    np.testing.assert_array_equal(found.target_B, expected.target_B)
    narrower = plan.widths[0]
    np.testing.assert_array_equal(
      found.history_BH[:, about["width"] - narrower :], expected.history_BH
    )
    assert (found.history_BH[:, : about["width"] - narrower] == -1).all()
    first += size
  assert first == about["rows"]


def test_other_rows_lie_elsewhere_and_the_same_are_written_once(tmp_path):
  names = set()
  for make in (sequences, of_one, of_three):
    for seed in (0, 1):
      names.add(shards.fingerprint(*make(make_log(seed))))
  assert len(names) == 6
  feed, plan = sequences(make_log())
  shards.cached(tmp_path, feed, plan)
  (folder,) = tmp_path.iterdir()
  before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
  shards.cached(tmp_path, feed, plan)
  assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_folder_that_is_not_whole_is_refused(tmp_path):
  feed, plan = sequences(make_log())
  shards.cached(tmp_path, feed, plan)
  (folder,) = tmp_path.iterdir()
  file = folder / "00000.array_record"
  file.write_bytes(file.read_bytes()[:-1])
  with pytest.raises(UserError, match=r"00000.array_record has .* bytes; remove them"):
    shards.Shards(folder)
  (folder / "manifest.json").unlink()
  with pytest.raises(UserError, match="cannot read the shards in"):
    shards.Shards(folder)


def test_what_cannot_be_written_leaves_nothing(tmp_path):
  feed, plan = sequences(make_log())

  def breaks():
    yield feed, plan
    raise OSError(28, "No space left on device")

  with pytest.raises(UserError, match="No space left"):
    shards.write(tmp_path / "rows", breaks())
  assert not list(tmp_path.iterdir())


def journal(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.parametrize("pack", [pytest.param(1, marks=pytest.mark.slow), 4])
def test_a_run_from_disk_is_the_run_on_the_device(
  tmp_path, monkeypatch, small_config, pack
):
  monkeypatch.setenv("LIGHTLM_CACHE_DIR", str(tmp_path / "cache"))
  fields = {"train__pack": pack, "train__steps": 18, "train__steps_per_dispatch": 3}
  for feed in ("device", "stream"):
    config = small_config(train__feed=feed, **fields)
    train.train(config, tmp_path / feed)
  losses = journal(tmp_path / "device")
  assert len(losses) == 18
  assert journal(tmp_path / "stream") == losses
  (rows,) = (tmp_path / "cache" / "shards").iterdir()
  assert (rows / "manifest.json").is_file()


@pytest.mark.parametrize(
  "overrides", [{"train__history_buckets": (2,)}, {"input__history": 0}]
)
def test_buckets_and_drawn_targets_are_not_streamed(tmp_path, small_config, overrides):
  config = small_config(train__feed="stream", **overrides)
  with pytest.raises(UserError, match=r"set config\.train\.pack=4"):
    train.train(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_without_grain_it_is_said_before_anything_is_written(
  tmp_path, small_config, monkeypatch
):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match=r"no grain; install with .*\[stream\]"):
    train.train(small_config(train__feed="stream"), tmp_path / "run")
  assert not (tmp_path / "run").exists()
