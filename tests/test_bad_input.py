"""A person's mistake: one line on stderr, exit code 2, and nothing half-written."""

import contextlib
import errno
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import commands
from etils import epath
import jax
import numpy as np
import pytest

from lightlm_jax import command_line
from lightlm_jax import config as config_lib
from lightlm_jax.reporting import report
from lightlm_jax.runs import audit, evaluate, export, restore, train
from lightlm_jax.runtime import errors
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.training import checkpoint
from lightlm_jax.training.metric_writer import MetricWriter

LOG = "u1 a b c d\nu2 a\nu3 b c a\nu4 d a b\n"


@pytest.fixture
def toys(tmp_path, monkeypatch):
  """Makes the config of a log that the test wrote."""
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)

  def make(log=LOG, **overrides):
    folder = tmp_path / "data" / "toys"
    folder.mkdir(parents=True, exist_ok=True)
    if log is not None:
      (folder / "sequences.txt").write_bytes(log.encode("latin-1"))
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    fields = {"data.dir": str(tmp_path / "data")} | fields
    return config_lib.load("toys:tiny", overrides=fields)

  return make


@pytest.fixture
def refused(capsys):
  """Trains, expects the one line and exit code 2 of the command, returns the line."""

  def call(config, workdir):
    code = errors.run(lambda _: train.train(config, workdir), ["train"])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith("lightlm_jax: error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err

  return call


def one_line(done):
  """The one line of a command that ended with exit code 2."""
  assert done.returncode == 2, done.stderr
  assert done.stderr.count("\n") == 1, done.stderr
  assert done.stderr.startswith("lightlm_jax: error: ")
  return done.stderr


def files(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--config=configs/toys.py:tiny"], "folder that has toys/sequences.txt"),
    (["--config=demo:tiny", "--nodry_run=x"], "nodry_run=x does not take an argument"),
    (
      ["--config=configs/demo.py:tiny", "--config.train.batch_size=0"],
      "config.train.batch_size is 0; it must be at least 1",
    ),
  ],
)
def test_command_answers_a_mistake_in_one_line(
  train_command, tmp_path, arguments, message
):
  env = {k: v for k, v in os.environ.items() if k != "LIGHTLM_DATA_DIR"}
  env |= dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # nobody
  workdir = tmp_path / "run"
  done = train_command(*arguments, f"--workdir={workdir}", env=env)
  assert message in one_line(done)
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("log", "message"),
  [
    (None, "toys has neither sequences.txt nor u.data, and it cannot be downloaded"),
    ("u1 a b c\n\nu2\n", "sequences.txt, line 3: user 'u2' has no items"),
    ("u1 a b\nu2 a\n", "no user of toys has 3 interactions or more"),
  ],
)
def test_log_that_cannot_be_trained_on(toys, refused, tmp_path, log, message):
  assert message in refused(toys(log), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_ratings_that_cannot_be_trained_on(toys, refused, tmp_path):
  config = toys(log=None)
  (tmp_path / "data" / "toys" / "u.data").write_text("u1 a 3 5\n")
  line = refused(config, tmp_path / "run")
  assert "u.data, line 1: 'u1 a 3 5' is not `user item rating seconds`" in line
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"split__kind": "temporal"}, "this log has no times, only an order"),
    ({"split__withheld": 0.9}, "withholds 4 of 4 items and leaves nothing to train on"),
  ],
)
def test_split_that_the_log_does_not_allow(toys, refused, tmp_path, fields, message):
  assert message in refused(toys(**fields), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("attributes", "message"),
  [
    (None, "config.ids.cold is 'attributes', which needs item_attributes.json"),
    ('{"a": 1}', "item_attributes.json, item 'a': 1 is no list"),
  ],
)
def test_attributes_that_cannot_be_read(toys, refused, tmp_path, attributes, message):
  config = toys(ids__cold="attributes")
  if attributes is not None:
    (tmp_path / "data" / "toys" / "item_attributes.json").write_text(attributes)
  assert message in refused(config, tmp_path / "run")
  assert not (tmp_path / "run" / "codes").exists()


@pytest.mark.slow
def test_user_with_one_item_is_trained_on_and_asked_nothing(
  toys, small_config, tmp_path, capsys
):
  del small_config  # its programs' cache is what this test takes from it
  tiny = {
    "model.d_model": 8,
    "baselines": (),
    "train.history_buckets": (),
    "train.batch_size": 4,
    "train.eval_batch_size": 4,
    "train.steps": 3,
    "train.eval_every": 3,
  }
  results = train.train(toys(**tiny), tmp_path / "run")
  assert results["num_users"] == 3
  assert "1 users have fewer than 3 interactions" in capsys.readouterr().out
  # An epoch is a batch of 5 positions in fours, 2 steps: u2's only item is among them.
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path / "run"))
  examples = checkpoints.progress()["examples"]
  checkpoints.close()
  assert examples in (4 + 1 + 4, 4 + 1 + 1)
  # 4 items, 20 places: every item is recommended, none twice, none that was seen.
  metrics = results["metrics"]
  assert metrics["seen_excluded"]["hr@5"] == metrics["seen_allowed"]["hr@5"] == 1.0


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("system", "lightml", "choose one of lightlm, item_decoder"),
    ("ids.kind", "sgi", "choose one of sci"),
    ("ids.graph", "tree", "choose one of bipartite"),
    ("ids.cold", "beside", "choose one of apart, attributes"),
    ("ids.tokens", "leaf", "choose one of level"),
    ("input.prompt", True, "input.history=0"),
    ("split.kind", "leave_two_out", "choose one of leave_one_out"),
    ("train.schedule", "constant", "choose one of cosine, linear"),
    ("model.dtype", "float8", "choose one of float32, bfloat16"),
    ("decoding.kind", "greedy", "choose one of beam"),
    ("baselines", ("pop", "knn"), "config.baselines names 'knn'; choose from pop"),
  ],
)
def test_unknown_name_lists_the_known(refused, tmp_path, field, value, message):
  if field == "system":
    with pytest.raises(UserError, match=message):
      config_lib.load("demo:tiny", overrides={field: value})
    return
  config = config_lib.load("demo:tiny", overrides={field: value})
  line = refused(config, tmp_path / "run")
  assert message in line
  assert field in line
  assert not (tmp_path / "run").exists()


def numbers(config):
  """Every field of a config that holds a number."""
  for name, value in config_lib.to_flat(config).items():
    if isinstance(value, int | float) and not isinstance(value, bool):
      yield name, value


@pytest.mark.parametrize(("field", "value"), [*numbers(config_lib.load("demo:tiny"))])
def test_every_number_has_its_limit(refused, tmp_path, field, value):
  config = config_lib.load("demo:tiny", overrides={field: type(value)(-7)})
  line = refused(config, tmp_path / "run")
  assert field.split(".")[-1] in line
  assert "-7" in line
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("field", "value", "wanted"),
  [
    ("train.batch_size", 0, "at least 1"),
    ("train.eval_batch_size", 0, "at least 1"),
    ("train.steps", 0, "at least 1"),
    ("train.log_every", 0, "at least 1"),
    ("train.eval_every", 0, "at least 1"),
    ("train.accumulate", 0, "at least 1"),
    ("model.d_model", 0, "at least 1"),
    ("model.num_layers", 0, "at least 1"),
    ("input.history", -1, "0 or more"),
    ("decoding.beam_size", 0, "at least 1"),
    ("ids.branching", 1, "from 2 to a million"),
    ("ids.base", 1, "from 2 to a million"),
    ("ids.devices", 0, r"-1 \(all\) or at least 1"),
    ("train.learning_rate", 0.0, "above 0"),
    ("train.learning_rate", float("nan"), "above 0"),
    ("train.learning_rate", float("inf"), "above 0"),
    ("model.dropout_rate", 1.0, "below 1"),
    ("input.user_dropout", 1.5, "from 0 to 1"),
    ("train.label_smoothing", 1.0, "below 1"),
    ("train.weight_decay", float("nan"), "0 or more"),
    ("train.history_buckets", (5, 0), "ascending"),
    ("train.history_buckets", (10, 5), "ascending"),
    ("seed", 2**31, r"2\*\*31 - 1"),
    ("mesh.data", 0, r"-1 \(all\) or at least 1"),
    ("mesh.model", 0, "at least 1"),
    ("mesh.data", 1000, "does not fit"),
    ("split.validation_share", 0.0, "above 0 and below 1"),
    ("split.test_share", 1.0, "above 0 and below 1"),
    ("split.test_share", float("nan"), "above 0 and below 1"),
    ("split.gap", -1, "0 or more"),
    ("split.withheld", 1.0, "0 or more and below 1"),
    ("split.withheld", float("nan"), "0 or more and below 1"),
    ("data.shop.num_users", 0, "at least 1"),
    ("data.shop.num_items", 3, "num_items"),
    ("data.shop.num_categories", 0, "num_categories"),
    ("data.shop.num_categories", 21, "num_categories"),
    ("data.shop.num_shelves", 7, "times num_categories"),
    ("data.shop.seed", -1, "from 0"),
  ],
)
def test_impossible_number(tmp_path, field, value, wanted):
  config = config_lib.load("demo:tiny", overrides={field: value})
  with pytest.raises(UserError, match=wanted) as caught:
    train.train(config, tmp_path / "run")
  assert field.removeprefix("data.shop.") in str(caught.value)
  assert str(value) in str(caught.value)
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", ["many", [3], None, 3.5, True])
def test_what_a_config_file_of_somebody_else_has_for_a_number(value):
  tree = config_lib.to_tree(config_lib.load("demo:tiny"))
  tree["train"]["steps"] = value
  with pytest.raises(UserError, match=r"config.train.steps is .* at least 1"):
    config_lib.from_tree(tree)


def test_batch_that_the_devices_cannot_share():
  config = config_lib.load("demo:tiny", overrides={"train.eval_batch_size": 30})
  config_lib.check_batches(config, 2)
  with pytest.raises(UserError, match=r"eval_batch_size 30 .* the 4 devices"):
    config_lib.check_batches(config, 4)
  with pytest.raises(UserError, match=r"train.batch_size 32 .* the 3 devices"):
    config_lib.check_batches(config, 3)


def test_workdir_of_another_config_is_refused_untouched(refused, demo_run):
  workdir, _ = demo_run
  before = files(workdir)
  other = {"train.learning_rate": 0.5, "ids.kind": "rid", "train.steps": 50}
  line = refused(config_lib.load("demo:tiny", overrides=other), workdir)
  assert f"{workdir} belongs to another configuration" in line
  assert 'ids.kind: "sci" → "rid"' in line
  assert "train.learning_rate: 0.002 → 0.5" in line
  assert "steps" not in line  # that one may differ
  assert files(workdir) == before


def test_workdir_with_a_broken_config_is_refused(refused, tmp_path):
  (tmp_path / "config.json").write_text('{"seed": ')
  line = refused(config_lib.load("demo:tiny"), tmp_path)
  assert f"cannot read {tmp_path / 'config.json'}" in line
  assert (tmp_path / "config.json").read_text() == '{"seed": '


def test_workdir_that_is_a_file(refused, tmp_path):
  path = tmp_path / "file"
  path.write_text("mine")
  assert f"cannot make {path}" in refused(config_lib.load("demo:tiny"), path)
  assert f"cannot make {path}/a" in refused(config_lib.load("demo:tiny"), path / "a")
  assert path.read_text() == "mine"


def test_workdir_that_is_read_only(refused, tmp_path):
  if os.geteuid() == 0:
    pytest.skip("root may write anywhere: no read-only folder was tested")
  tmp_path.chmod(0o500)
  assert f"cannot make {tmp_path}" in refused(
    config_lib.load("demo:tiny"), tmp_path / "run"
  )


@pytest.fixture
def read_only(monkeypatch):
  """Makes a folder refuse new files, also for root; another disk refuses nothing."""

  def call(folder):
    touch = type(epath.Path(folder)).touch

    def refuses(path, *arguments, **options):
      if path.parent == epath.Path(folder):
        raise OSError(errno.EROFS, "Read-only file system", str(path))
      touch(path, *arguments, **options)

    monkeypatch.setattr(type(epath.Path(folder)), "touch", refuses)

  return call


def test_a_read_only_workdir_is_said_before_the_work(
  small_config, tmp_path, monkeypatch, read_only
):
  run = tmp_path / "run"
  train.train(small_config(system="pop", split__kind="leave_one_out"), run)
  fields = {"split.kind": "leave_one_out"}
  lightlm = config_lib.load("demo:tiny", overrides=fields)
  atomic.make_folder(epath.Path(tmp_path / "of_ids"))
  (tmp_path / "of_ids" / "config.json").write_text(config_lib.to_json(lightlm))

  def works(*arguments, **options):
    raise AssertionError("it began to work")

  for module, name in ((restore, "find_context"), (audit, "audit")):
    monkeypatch.setattr(module, name, works)
  monkeypatch.setattr(report.sections, "headline", works)
  calls = (
    lambda: evaluate.evaluate(run),
    lambda: report.report(run),
    lambda: audit.audit_run(tmp_path / "of_ids"),
    lambda: export.export(run, tmp_path / "artefact"),
  )
  for call in calls:
    with pytest.raises(AssertionError):
      call()
  for call, folder in zip(calls, (run, run, tmp_path / "of_ids", tmp_path)):
    read_only(folder)
    with pytest.raises(UserError, match=f"cannot write into {folder}: Read-only file"):
      call()
  assert not list(tmp_path.rglob("*.part"))


def test_too_few_open_files_are_one_line(monkeypatch, capsys):
  monkeypatch.setattr(command_line.resource, "getrlimit", lambda _: (16, 16))
  assert command_line.main(lambda _: 0) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "may open 16 files here" in line
  assert "ulimit -n 1024" in line


def test_a_name_that_no_disk_takes_is_one_line(capsys):
  assert errors.run(lambda argv: open(argv[1]), ["train", "a" * 5_000]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.endswith("aaa … is too long for a name; give a shorter one")
  with pytest.raises(FileNotFoundError):  # any other one is a bug of ours
    errors.run(lambda argv: open("/nowhere/at/all"), ["train"])


def test_no_place_for_a_report_is_said_before_the_work(tmp_path):
  path = tmp_path / "missing" / "report.json"
  for command in ("index", "audit"):
    done = commands.run(
      f"lightlm_jax.{command}", "--config=demo:tiny", f"--report={path}"
    )
    assert f"cannot write into {path.parent}: No such file" in one_line(done)
    assert done.stdout == ""


@contextlib.contextmanager
def files_of_at_most(size):
  """As on a full disk: a write beyond `size` bytes of a file fails."""
  _, hard = limit = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_no_room_for_the_first_file(tmp_path):
  config = config_lib.load("demo:tiny")
  with files_of_at_most(100), pytest.raises(UserError) as caught:
    train.train(config, tmp_path / "run")
  assert f"cannot write {tmp_path / 'run' / 'config.json'}" in str(caught.value)
  assert files(tmp_path) == {tmp_path / "run" / ".lock": b""}


def test_no_room_for_the_ids(tmp_path, monkeypatch):
  monkeypatch.setenv("LIGHTLM_CACHE_DIR", str(tmp_path / "cache"))
  more = {"ids.kind": "rid", "data.shop.num_users": 2000}  # codes larger than config
  config = config_lib.load("demo:tiny", overrides=more)
  most = len(config_lib.to_json(config)) + 1
  with files_of_at_most(most), pytest.raises(UserError) as caught:
    train.train(config, tmp_path / "run")
  assert f"cannot write {tmp_path / 'run' / 'codes'}" in str(caught.value)
  assert not (tmp_path / "run" / "codes" / "manifest.json").exists()


def write_lines(writer, number, record, before_each=lambda: None):
  for step in range(number):
    before_each()
    writer.write(step, record)


def test_full_disk_ends_the_metrics_in_one_line(tmp_path):
  writer = MetricWriter(epath.Path(tmp_path), 0)
  with files_of_at_most(2000):
    with pytest.raises(UserError, match=f"cannot write {tmp_path}/metrics.jsonl"):
      write_lines(writer, 200, {"loss": 1.0})
    with pytest.raises(UserError, match="cannot write"):
      writer.close()


def test_full_disk_ends_the_events_in_one_line(tmp_path):
  """Not in a thread of theirs, whose death a run would wait for, for ever."""
  path = tmp_path / "metrics.jsonl"
  writer = MetricWriter(epath.Path(tmp_path), 0)
  record = {"validation": {f"hr@{k}": 0.5 for k in range(20)}}
  with files_of_at_most(2000):
    with pytest.raises(UserError, match="the events beside it"):
      # metrics.jsonl is kept short: it is not what fails.
      write_lines(writer, 40, record, lambda: path.write_text(""))
    assert path.stat().st_size < 1000
    with pytest.raises(UserError, match="the events beside it"):
      writer.close()


@pytest.mark.parametrize("size", [10, 100, 100_000])
def test_full_disk_in_a_checkpoint_leaves_no_traceback_and_no_part(
  tmp_path, capfd, size
):
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path))
  state = {"weight": jax.numpy.arange(200_000.0), "bias": jax.numpy.ones(3)}
  checkpoints.save(1, state, {"best_step": 0})
  checkpoints.wait()

  def save():
    checkpoints.save(2, state, {"best_step": 0})
    time.sleep(0.5)  # as in training, while Orbax's threads fail
    checkpoints.wait()

  with files_of_at_most(size):
    with pytest.raises(UserError, match=r"cannot write checkpoints in"):
      save()
    with contextlib.suppress(UserError):
      checkpoints.close()
  assert "Traceback" not in capfd.readouterr().err
  assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


LIMITED = """
import resource, runpy

resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
runpy.run_module("lightlm_jax.train", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_no_room_for_a_checkpoint_then_room_again(small_config, demo_run, tmp_path):
  del demo_run  # leaves compiled programs: there is no room for them either
  config = small_config()
  wanted = train.train(config, tmp_path / "wanted")

  workdir = tmp_path / "run"
  done = subprocess.run(
    [
      *(sys.executable, "-c", LIMITED, "--platform=cpu", f"--workdir={workdir}"),
      "--config=configs/demo.py:tiny",
      "--config.split.kind=none",
      "--config.baselines=()",
      "--config.train.history_buckets=()",
      "--config.train.batch_size=16",
      "--config.train.accumulate=2",
      "--config.train.steps=6",
      "--config.train.eval_every=2",
      "--config.train.log_every=1",
    ],
    cwd=pathlib.Path(__file__).parent.parent,
    capture_output=True,
    text=True,
    timeout=600,
  )
  line = one_line(done)
  assert f"cannot write checkpoints in {workdir / 'checkpoints'}" in line
  assert "File too large" in line
  assert "start again to resume" in line
  assert not (workdir / "results.json").exists()

  results = train.train(config, workdir)
  same = ("params", "best_step", "ids", "split_sha256")
  assert {name: results[name] for name in same} == {name: wanted[name] for name in same}
  assert losses(workdir) == losses(tmp_path / "wanted")
  assert {p.name for p in (workdir / "checkpoints").iterdir()} == {
    p.name for p in (tmp_path / "wanted" / "checkpoints").iterdir()
  }


def losses(workdir):
  lines = (workdir / "metrics.jsonl").read_text().splitlines()
  return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_run_that_diverges_saves_nothing_of_it(refused, small_config, tmp_path):
  config = small_config(train__learning_rate=1e9, train__log_every=5)
  line = refused(config, tmp_path)
  assert "the gradient is not finite at step " in line
  assert "lower train.learning_rate" in line
  assert "another --workdir" in line
  assert not (tmp_path / "results.json").exists()
  checkpoints = checkpoint.Checkpoints(epath.Path(tmp_path))
  if checkpoints.latest_step:
    state = checkpoints.restore(checkpoints.latest_step, None)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
  checkpoints.close()
