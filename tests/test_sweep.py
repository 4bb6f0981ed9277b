"""Studies: every point once, whoever runs it, whatever dies; nothing is lost."""

import collections
from concurrent import futures
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pyarrow.parquet
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import claims, study, trials
from lightlm_jax.studies import database as storage_lib
from lightlm_jax.studies import plan as plan_lib

ROOT = pathlib.Path(__file__).parent.parent
STUB = (sys.executable, str(pathlib.Path(__file__).parent / "stub_train.py"))
# What `sweep` does, with trials that take no time.
WORKER = """
import os, sys
from lightlm_jax import config
from lightlm_jax.runtime import errors
from lightlm_jax.studies import plan, study

def main(argv):
  _, workdir, jobs, storage, *train = argv
  made = plan.of_study(config.card("scaling:tiny"))
  study.sweep(made, workdir, jobs=int(jobs), storage=storage or None, train=train)

sys.exit(errors.run(main, sys.argv))
"""


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
  """Two trials at once on any machine; stubs share a core without harm."""
  monkeypatch.setattr(trials, "_cores", lambda: sorted(os.sched_getaffinity(0)) * 2)


def plan_of(*vary, **fields):
  study = config_lib.card("scaling:tiny")
  overrides = {name.replace("__", "."): value for name, value in fields.items()}
  study.update_from_flattened_dict(overrides)
  return plan_lib.of_study(study, vary)


def sweep(plan, workdir, **options):
  return study.sweep(plan, workdir, train=STUB, **{"jobs": 1} | options)


def start(workdir, jobs=1, storage="", **environment):
  return subprocess.Popen(
    [sys.executable, "-c", WORKER, str(workdir), str(jobs), storage, *STUB],
    cwd=ROOT,
    env=os.environ | environment,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def ran(workdir):
  """How often each trial was started."""
  path = workdir / "ran.txt"
  lines = path.read_text().splitlines() if path.exists() else []
  return collections.Counter(line.split()[0] for line in lines)


def rows(workdir):
  return pyarrow.parquet.read_table(workdir / "summary.parquet").to_pylist()


def names(plan):
  return [row["trial"] for row in rows_of(plan)]


def rows_of(plan):
  return [{"trial": study.axes_lib.name_of(point)} for point in plan.points]


def start_slow(workdir, name):
  """A sweep of which one trial takes a minute, and has begun."""
  process = start(workdir, STUB_SLOW=name)
  wait_until(lambda: ran(workdir)[name], process)
  return process


def wait_until(holds, process=None, seconds=120):
  deadline = time.monotonic() + seconds
  while not holds():
    assert process is None or process.poll() is None, process.stdout.read()
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_every_point_of_the_grid_once_and_its_row(tmp_path):
  plan = plan_of()
  report = sweep(plan, tmp_path / "s", jobs=2)
  assert ran(tmp_path / "s") == dict.fromkeys(names(plan), 1)
  found = rows(tmp_path / "s")
  assert [row["trial"] for row in found] == names(plan)
  assert report["finished"] == len(found) == 8
  (row,) = (r for r in found if r["trial"] == "depth=2,width=16,ffn=0.5,seed=0")
  wanted = {
    "state": "finished",
    "reason": None,
    "dataset": "demo",
    "system": "lightlm",
    "seed": 0,
    "depth": 2,
    "width": 16,
    "ffn": 0.5,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "d_model": 16,
    "num_heads": 2,
    "d_ff": 8,
    "data_share": 1.0,
    "interactions": 1_234,
    "params": 16_000,
    "params_non_embedding": 3_200,
    "flops_per_example": 192.0,
    "examples": 300,
    "train_flops": 57_600.0,
    "validation_loss": None,
    "validation_ndcg@10_seen_excluded": pytest.approx(0.0226),
    "hr@10_seen_allowed": pytest.approx(0.0452),
  }
  assert {name: row[name] for name in wanted} == wanted
  assert report["best"]["trial"] == "depth=2,width=16,ffn=0.5,seed=0"
  # What is done is not done again.
  assert sweep(plan, tmp_path / "s") | {"seconds": 0} == report | {"seconds": 0}
  assert set(ran(tmp_path / "s").values()) == {1}


@pytest.mark.integration
@pytest.mark.parametrize(
  "storage", [pytest.param("", marks=pytest.mark.slow), "sqlite"]
)
def test_two_processes_share_a_study(tmp_path, storage):
  workdir = tmp_path / "s"
  url = storage and f"sqlite:///{tmp_path}/trials.db"
  go = tmp_path / "go"
  both = [start(workdir, storage=url, STUB_WAIT=str(go)) for _ in range(2)]
  wait_until(lambda: ran(workdir).total() == 2, both[0])
  go.touch()
  said = [process.communicate(timeout=300)[0] for process in both]
  assert [process.returncode for process in both] == [0, 0], said
  plan = plan_of()
  assert ran(workdir) == dict.fromkeys(names(plan), 1)
  # Each of them ran some (one at a time), and both know of all.
  assert all(": finished in" in text for text in said)
  assert all("8 finished" in text for text in said)
  assert [row["trial"] for row in rows(workdir)] == names(plan)
  kept = storage_lib.open_study(workdir, plan, url or None)
  assert len(kept.trials) == 8


def test_a_study_is_the_same_however_it_is_spelled(tmp_path):
  url = f"sqlite:///{tmp_path}/trials.db"
  spelled = plan_of(), plan_of(base="configs/demo.py:tiny")
  opened = [storage_lib.open_study(tmp_path / "s", one, url) for one in spelled]
  assert len({kept.study_name for kept in opened}) == 1
  other = storage_lib.open_study(tmp_path / "s", plan_of(run__train__steps=30), url)
  assert other.study_name != opened[0].study_name


def test_tables_are_made_once(tmp_path):
  """By hosts that find an empty database at the same moment, without a common lock."""
  url, plan = f"sqlite:///{tmp_path}/trials.db", plan_of()
  ready = threading.Barrier(8)

  def open_study(host):
    ready.wait()
    return storage_lib.open_study(tmp_path / str(host) / "s", plan, url)

  with futures.ThreadPoolExecutor(8) as pool:
    opened = list(pool.map(open_study, range(8)))
  assert len({kept.study_name for kept in opened}) == 1


@pytest.mark.integration
def test_killed_and_started_again_repeats_nothing_that_finished(tmp_path):
  workdir, plan = tmp_path / "s", plan_of()
  slow = names(plan)[3]
  process = start_slow(workdir, slow)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  pid = (workdir / "ran.txt").read_text().split()[-3]
  wait_until(lambda: not alive(int(pid)))  # no trial outlives its sweep
  assert len(rows(workdir)) == 3
  sweep(plan, workdir)
  assert ran(workdir) == dict.fromkeys(names(plan), 1) | {slow: 2}
  assert [row["state"] for row in rows(workdir)] == ["finished"] * 8


def alive(pid):
  stat = pathlib.Path(f"/proc/{pid}/stat")
  return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.integration
def test_sigterm_is_passed_on(tmp_path):
  workdir, plan = tmp_path / "s", plan_of()
  slow = names(plan)[0]
  process = start_slow(workdir, slow)
  time.sleep(0.2)
  process.terminate()
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 143, said
  assert "stopped by SIGTERM; start again to resume" in said
  assert rows(workdir) == []  # a trial that was told to end has not failed
  sweep(plan, workdir)
  assert ran(workdir) == dict.fromkeys(names(plan), 1) | {slow: 2}


@pytest.mark.integration
def test_a_trial_that_is_told_to_end_with_its_sweep_has_not_failed(tmp_path):
  """As Slurm tells every process of a job."""
  workdir, plan = tmp_path / "s", plan_of()
  slow = names(plan)[0]
  process = start_slow(workdir, slow)
  time.sleep(0.2)
  os.kill(int((workdir / "ran.txt").read_text().split()[1]), signal.SIGTERM)
  time.sleep(0.3)
  process.terminate()
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 143, said
  assert rows(workdir) == []


def test_failed_trials_have_their_reason(tmp_path, monkeypatch, capsys):
  workdir, plan = tmp_path / "s", plan_of()
  fails, dies = names(plan)[1], names(plan)[4]
  monkeypatch.setenv("STUB_FAIL", fails)
  monkeypatch.setenv("STUB_DIE", dies)
  report = sweep(plan, workdir)
  assert (report["finished"], report["failed"]) == (6, 2)
  by_name = {row["trial"]: row for row in rows(workdir)}
  assert by_name[fails]["state"] == by_name[dies]["state"] == "failed"
  assert by_name[fails]["reason"] == "exit code 2: the disk is full"
  assert by_name[dies]["reason"].startswith("killed by SIGKILL")
  assert by_name[fails]["params"] is None
  assert by_name[fails]["d_model"] == 8
  assert f"failed: {fails}: exit code 2: the disk is full" in capsys.readouterr().out
  # Again: they stay as they are, unless that is asked for.
  monkeypatch.delenv("STUB_FAIL")
  sweep(plan, workdir)
  assert set(ran(workdir).values()) == {1}
  report = sweep(plan, workdir, retry_failed=True)
  assert (report["finished"], report["failed"]) == (7, 1)
  assert ran(workdir) == dict.fromkeys(names(plan), 1) | {fails: 2, dies: 2}
  assert [row["trial"] for row in rows(workdir)] == names(plan)


def test_a_claim_of_a_dead_host_is_taken_over(tmp_path, monkeypatch):
  workdir, plan = tmp_path / "s", plan_of()
  kept = study._open(workdir, plan, None)
  claims.ensure(kept, plan)
  claim = claims.take(kept, plan, workdir)
  elsewhere = {"host": "another", "pid": 1, "beat": 7}
  claim.trial.set_user_attr("claim", elsewhere)
  beats = {}

  def look():
    claims.reap_stale(kept, (), beats)
    return claims.current(kept)[claim.name].state.name

  assert look() == "RUNNING"  # nothing is known yet of its beat
  monkeypatch.setattr(claims, "PATIENCE_SECONDS", 0.05)
  time.sleep(0.1)
  claim.trial.set_user_attr("claim", elsewhere | {"beat": 8})
  assert look() == "RUNNING"  # it has beaten since
  time.sleep(0.1)
  assert look() == "FAIL"
  # Who was taken for dead hears of it, and what it says later counts for nothing.
  assert not claims.beat(claim)
  claim.lock.file.close()
  sweep(plan, workdir)
  claims.settle(
    kept, claim, {"state": "failed", "reason": "late", study.table.OBJECTIVE: 0}
  )
  assert [row["state"] for row in rows(workdir)] == ["finished"] * 8


@pytest.mark.parametrize("folder", ["s", "of/another/s"])
def test_a_claim_of_this_host_lives_while_its_lock_is_held(tmp_path, folder):
  """In whichever of its folders."""
  plan = plan_of()
  kept = study._open(tmp_path / "s", plan, None)
  claims.ensure(kept, plan)
  claim = claims.take(kept, plan, tmp_path / folder)

  def look():
    claims.reap_stale(kept, (), {})
    return claims.current(kept)[claim.name].state.name

  assert look() == "RUNNING"
  claim.lock.file.close()
  assert look() == "FAIL"


def test_doubled_trials_of_hosts_without_a_common_lock_run_once(tmp_path):
  workdir, plan = tmp_path / "s", plan_of()
  kept = study._open(workdir, plan, None)
  for point in plan.points * 2:
    claims._enqueue(kept, point, turn=0)
  sweep(plan, workdir)
  assert ran(workdir) == dict.fromkeys(names(plan), 1)


@pytest.mark.parametrize(
  "search", [pytest.param("random", marks=pytest.mark.slow), "tpe"]
)
def test_a_search_draws_so_many_points(tmp_path, search):
  vary = ("train.learning_rate=log:1e-4..1e-2", "ffn=")
  plan = plan_of(*vary, search=search, trials=14)
  report = sweep(plan, tmp_path / "s", jobs=2)
  found = rows(tmp_path / "s")
  assert report["finished"] == len({row["trial"] for row in found}) == 14
  assert all(1e-4 <= row["train.learning_rate"] <= 1e-2 for row in found)
  assert len({(row["depth"], row["width"]) for row in found}) > 1
  configs = (tmp_path / "s" / "trials").iterdir()
  assert {folder.name for folder in configs} == {row["trial"] for row in found}
  # More of the same study go behind it.
  more = plan_of(*vary, search=search, trials=16)
  assert sweep(more, tmp_path / "s")["finished"] == 16
  assert set(ran(tmp_path / "s").values()) == {1}


def test_a_search_goes_on_with_no_fewer_points(tmp_path):
  plan = plan_of("ffn=", search="random", trials=3)
  study._open(tmp_path / "s", plan, None)
  with pytest.raises(UserError, match="trials: 3 → 2"):
    study._open(tmp_path / "s", plan_of("ffn=", search="random", trials=2), None)


def test_a_search_of_all_of_a_range_finds_each_once(tmp_path):
  plan = plan_of("depth=1..3", "width=8", "ffn=1", search="random", trials=3)
  kept = study._open(tmp_path / "s", plan, None)
  taken = [claims.take(kept, plan, tmp_path / "s") for _ in range(3)]
  assert sorted(claim.point["depth"] for claim in taken) == [1, 2, 3]
  for claim in taken:
    claim.lock.file.close()


def test_a_range_in_which_nothing_is_left_ends_the_search(tmp_path, monkeypatch):
  monkeypatch.setattr(claims, "_DRAWS", 100)
  plan = plan_of(
    "rate=1..1.0001", "depth=1", "width=8", "ffn=1", search="random", trials=9
  )
  with pytest.raises(UserError, match="no other is found; widen the ranges"):
    sweep(plan, tmp_path / "s")


def test_a_drawn_point_that_cannot_be_trained_has_a_row(tmp_path):
  plan = plan_of("width=8..10", "depth=1", "ffn=1", search="random", trials=3)
  report = sweep(plan, tmp_path / "s")
  assert (report["finished"], report["failed"]) == (2, 1)
  (row,) = [row for row in rows(tmp_path / "s") if row["state"] == "failed"]
  assert (row["width"], row["d_model"]) == (9, None)
  assert "width 9 does not divide" in row["reason"]


def test_random_points_do_not_depend_on_how_many_go_at_once(tmp_path):
  plan = plan_of("train.learning_rate=1e-4..1e-2", search="random", trials=6)
  sweep(plan, tmp_path / "one")
  sweep(plan, tmp_path / "two", jobs=2)
  assert ran(tmp_path / "one") == ran(tmp_path / "two")


def test_a_search_of_all_points_finds_each_once(tmp_path):
  plan = plan_of(search="tpe", trials=8)
  sweep(plan, tmp_path / "s")
  assert ran(tmp_path / "s") == dict.fromkeys(names(plan_of()), 1)


def test_another_study_in_the_folder_is_refused(tmp_path):
  study._open(tmp_path / "s", plan_of(), None)
  for other, message in (
    (plan_of("depth=1,3"), r"axes: .*depth.*\[1, 2\].* → .*\[1, 3\]"),
    (plan_of(run__train__steps=30), r"train\.steps: 20 → 30"),
    (plan_of(seeds=(1,)), r"seeds: \[0\] → \[1\]"),
    (plan_of(search="random", trials=3), "search: .grid. → .random."),
  ):
    with pytest.raises(UserError, match=message) as caught:
      study._open(tmp_path / "s", other, None)
    assert "is another study" in str(caught.value)
  with pytest.raises(UserError, match=r"keeps its trials in its own journal\.log"):
    study._open(tmp_path / "s", plan_of(), f"sqlite:///{tmp_path}/trials.db")
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "config.json").write_text("{}")
  with pytest.raises(UserError, match="is a run's, not a study's"):
    study._open(tmp_path / "run", plan_of(), None)


@pytest.mark.parametrize(
  ("storage", "message"),
  [
    ("nosuch://x", "cannot open the study in nosuch://x"),
    ("sqlite:////no/such/folder/x.db", "cannot open the study"),
    ("oracle://x", "cannot open the study in oracle://x: No module named"),
    ("grpc://nobody", "write grpc://host:port|pip install grpcio"),
  ],
)
def test_storage_that_cannot_be_had(tmp_path, storage, message):
  with pytest.raises(UserError, match=message):
    sweep(plan_of(), tmp_path / "s", storage=storage)
  assert not ran(tmp_path / "s")


@pytest.mark.integration
def test_the_command(tmp_path):
  """From the command line, with `train` itself."""
  done = subprocess.run(
    [
      *(sys.executable, "-m", "lightlm_jax.sweep", "--config=configs/demo.py:tiny"),
      *("--config.system=pop", "--config.baselines=()", "--vary=data.share=0.5,1"),
      *(f"--workdir={tmp_path / 's'}", f"--report={tmp_path / 'r.json'}"),
      *("--platform=cpu", "--jobs=1"),
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  report = json.loads((tmp_path / "r.json").read_text())
  assert (report["points"], report["finished"], report["failed"]) == (2, 2, 0)
  half, whole = rows(tmp_path / "s")
  assert (half["data.share"], whole["data.share"]) == (0.5, 1.0)
  assert 0 < half["interactions"] < whole["interactions"]
  assert half["params"] is None
  assert 0 < whole["validation_ndcg@10_seen_excluded"] < 1
  assert "best so far data.share=" in done.stdout


@pytest.mark.slow
def test_a_trial_that_was_cut_off_resumes_from_its_checkpoint(tmp_path):
  workdir = tmp_path / "s"
  command = [
    *(sys.executable, "-m", "lightlm_jax.sweep", "--config=demo:tiny", "--jobs=1"),
    *("--config.baselines=()", "--config.train.steps=300", "--vary=data.share=0.5,1"),
    *("--config.train.eval_every=50", f"--workdir={workdir}", "--platform=cpu"),
  ]
  options = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
  process = subprocess.Popen(command, text=True, **options)
  folder = workdir / "trials" / "data.share=0.5,seed=0"
  wait_until(lambda: list(folder.glob("checkpoints/*/sha256.json")), process, 300)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  done = subprocess.run(command, text=True, timeout=600, check=False, **options)
  assert done.returncode == 0, done.stdout
  assert "resuming at step" in (folder / trials.LOG).read_text()
  half, whole = rows(workdir)
  assert half["state"] == whole["state"] == "finished"
  assert half["examples"] <= 32 * half["best_step"]
  assert half["train_flops"] == half["examples"] * half["flops_per_example"] > 0
