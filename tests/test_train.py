"""One command from a log to a judged model: what it prints, and what it leaves."""

import gzip
import hashlib
import json
import math
import shutil

from etils import epath
import jax
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.ids import build, codes
from lightlm_jax.runs import evaluate, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic, workdir
from lightlm_jax.training import checkpoint

METRICS = {"hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10"}
RULES = {"seen_excluded", "seen_allowed"}


def results_of(path):
  def refuse(text):
    raise ValueError(f"{text} is not JSON")

  text = (path / "results.json").read_text()
  return json.loads(text, parse_constant=refuse)


def lines_of(path):
  return [
    json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()
  ]


def examples_of(path):
  """How many examples the newest checkpoint says it has seen."""
  checkpoints = checkpoint.Checkpoints(epath.Path(path))
  examples = checkpoints.progress()["examples"]
  checkpoints.close()
  return examples


def contents(folder):
  """Every file below a folder with its bytes' digest."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in folder.rglob("*")
    if path.is_file()
  }


def assert_metrics(metrics):
  assert metrics.keys() == RULES
  for values in metrics.values():
    assert values.keys() == METRICS
    assert all(type(v) is float and 0 <= v <= 1 for v in values.values())
    assert values["hr@5"] <= values["hr@10"] <= values["hr@20"]
    assert values["mrr@10"] <= values["ndcg@10"] <= values["hr@10"]


def test_demo_ends_well(demo_run):
  _, done = demo_run
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr
  assert done.stdout.startswith("backend cpu: ")


def test_results_hold_every_promised_field(demo_run):
  results = results_of(demo_run[0])
  wanted = {
    "system": "lightlm",
    "dataset": "demo",
    "preset": "tiny",
    "seed": 0,
    "steps": 40,
    "num_users": 300,
    "decoding": "beam",
    "protocol": "leave_one_out",
    "split": "test",
    "repeated_targets": 0,  # nobody buys twice in the shop
    "audit": None,
  }
  assert {name: results[name] for name in wanted} == wanted
  measured = {
    "ids": dict,
    "params": dict,
    "train_seconds": float,
    "examples_per_second": float,
    "examples": int,
    "flops_per_example": float,
    "users_per_second": float,
    "beam_size": int,
    "split_sha256": str,
    "best_step": int,
    "parameters_sha256": str,
    "validation": dict,
    "validation_loss": float,
    "metrics": dict,
    "intervals": dict,
    "slices": dict,
    "hallucination_rate": float,
    "exposure": dict,
    "baselines": dict,
    "versions": dict,
    "devices": list,
    "expected_best_ndcg@10": float,
  }
  assert {name: type(results[name]) for name in measured} == measured
  assert results.keys() == wanted.keys() | measured.keys()

  split = json.loads((demo_run[0] / "split.json").read_text())
  assert split["sha256"] == results["split_sha256"]
  assert split["test"]["requests"] == 300

  assert results["ids"].keys() == {"kind", "manifest_sha256"}
  assert results["ids"]["kind"] == "sci"
  for digest in (results["ids"]["manifest_sha256"], results["split_sha256"]):
    assert len(digest) == 64
    assert set(digest) <= set("0123456789abcdef")
  assert 0 < results["params"]["non_embedding"] < results["params"]["total"]
  assert results["best_step"] in (10, 20, 30, 40)
  # A step has at most 32 examples; the last of an epoch has fewer.
  assert 0 < results["examples"] <= 32 * results["best_step"]
  # The mean over windows of the journal, each with its own number of examples.
  windows = [line for line in lines_of(demo_run[0]) if "loss" in line]
  flops = [w["flops_per_second"] / w["examples_per_second"] for w in windows]
  low, high = min(flops) * (1 - 1e-9), max(flops) * (1 + 1e-9)
  assert low <= results["flops_per_example"] <= high
  assert 0 <= results["hallucination_rate"] <= 1
  assert min(results["examples_per_second"], results["users_per_second"]) > 0
  assert results["versions"]["jax"] == jax.__version__
  assert results["devices"] == ["cpu"]


def test_results_hold_every_metric_of_both_rules(demo_run):
  results = results_of(demo_run[0])
  assert_metrics(results["validation"])
  assert_metrics(results["metrics"])
  assert results["baselines"].keys() == {"pop", "item_knn", "best_possible"}
  for metrics in results["baselines"].values():
    assert_metrics(metrics)
  best = results["baselines"]["best_possible"]["seen_excluded"]["ndcg@10"]
  assert results["metrics"]["seen_excluded"]["ndcg@10"] < best


def test_journal_holds_losses_and_validations(demo_run):
  lines = lines_of(demo_run[0])
  losses = [line for line in lines if "loss" in line]
  assert [line["step"] for line in losses] == [10, 20, 30, 40]
  assert all(math.isfinite(line["loss"]) for line in losses)
  assert losses[-1]["loss"] < losses[0]["loss"]
  for line in losses:
    assert 0 < line["tokens_per_second"] <= line["places_per_second"]
    assert 0 < line["step_seconds"]["median"] <= line["step_seconds"]["p90"]
    assert 0 < line["mfu"] < 1
    assert line["examples_per_second"] > 0
  # After the first validation nothing is compiled any more.
  assert len({line["compilations"]["count"] for line in losses[1:]}) == 1
  others = [line for line in lines if "loss" not in line]
  validations = {line["step"]: line["validation"] for line in others}
  assert list(validations) == [10, 20, 30, 40]
  assert all(values.keys() == METRICS for values in validations.values())
  # The model that is judged is the one that validation chose, the first of equals.
  scores = {step: values["ndcg@10"] for step, values in validations.items()}
  assert results_of(demo_run[0])["best_step"] == max(scores, key=scores.get)


def test_events_show_what_the_journal_holds(demo_run):
  from tensorboardX import proto, record_writer  # noqa: PLC0415, slow to import

  (path,) = demo_run[0].glob("events.out.tfevents.*")
  data, place, shown = path.read_bytes(), 0, []
  while place < len(data):
    size = int.from_bytes(data[place : place + 8], "little")
    body = data[place + 12 : place + 12 + size]
    place += size + 16
    crc = int.from_bytes(data[place - 4 : place], "little")
    assert crc == record_writer.masked_crc32c(body)
    event = proto.event_pb2.Event.FromString(body)
    shown += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
  losses = [line for line in lines_of(demo_run[0]) if "loss" in line]
  assert [(step, value) for step, tag, value in shown if tag == "loss"] == [
    (line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in losses
  ]
  assert "validation/ndcg_10" in {tag for _, tag, _ in shown}


def test_workdir_holds_config_ids_and_two_checkpoints(demo_run, demo_config):
  path, _ = demo_run
  assert (path / "config.json").read_text() == config_lib.to_json(demo_config)
  manifest = json.loads((path / "codes" / "manifest.json").read_text())
  assert manifest["sha256"] == results_of(path)["ids"]["manifest_sha256"]
  steps = {int(folder.name) for folder in (path / "checkpoints").iterdir()}
  assert steps == {results_of(path)["best_step"], 40}


def test_pipe_gets_plain_lines(demo_run):
  out = demo_run[1].stdout
  assert "\r" not in out
  assert "\x1b" not in out
  lines = out.splitlines()
  progress = [line for line in lines if line.startswith("step ") and "loss" in line]
  assert [line.split()[1] for line in progress] == ["10/40", "20/40", "30/40", "40/40"]
  assert all(len(line) <= 88 for line in progress)
  # The table: a row for the run, for each baseline and for the best possible.
  for name in ("pop", "item_knn", "lightlm", "best possible"):
    (row,) = [line for line in lines if line.startswith(name) and line.count(".") == 8]
    assert len(row.removeprefix(name).split()) == 8


def test_same_again_prints_the_table_and_changes_nothing(demo_run, demo_config, capsys):
  path, done = demo_run
  before = contents(path)
  results = train.train(demo_config, path)
  assert results == results_of(path)
  assert contents(path) == before
  out = capsys.readouterr().out
  assert "finished before" in out
  assert "loss" not in out
  table = done.stdout[done.stdout.index("demo: test, 300 users") :]
  assert (
    out[out.index("demo: test, 300 users") :].splitlines()
    == (table.splitlines()[: len(out[out.index("demo: test, 300") :].splitlines())])
  )


def test_train_on_everything_by_half_batches_then_raise_the_steps(
  small_config, tmp_path, capsys
):
  results = train.train(small_config(profile=True), tmp_path)
  (trace,) = (tmp_path / "profile").rglob("*.trace.json.gz")
  assert b"while" in gzip.decompress(trace.read_bytes())  # the loop over steps
  for name in (
    *("validation", "validation_loss", "metrics"),
    *("hallucination_rate", "users_per_second"),
  ):
    assert results[name] is None
  assert (results["num_users"], results["baselines"]) == (0, {})
  assert (results["protocol"], results["steps"], results["best_step"]) == ("none", 6, 6)
  assert results == results_of(tmp_path)
  first = lines_of(tmp_path)
  assert [line["step"] for line in first] == [1, 2, 3, 4, 5, 6]
  assert all(math.isfinite(line["loss"]) for line in first)
  assert examples_of(tmp_path) == 6 * 16
  capsys.readouterr()

  more = train.train(small_config(train__steps=9), tmp_path)
  assert "resuming at step 6" in capsys.readouterr().out
  again = lines_of(tmp_path)
  assert again[:6] == first
  assert [line["step"] for line in again[6:]] == [7, 8, 9]
  # A start from scratch would see the losses of the first steps again.
  assert again[6]["loss"] < again[0]["loss"]
  assert more["steps"] == more["best_step"] == 9
  assert more["train_seconds"] > results["train_seconds"]
  assert examples_of(tmp_path) == 9 * 16
  assert results_of(tmp_path) == more


@pytest.mark.parametrize("system", ["pop", "item_knn", "ease"])
def test_baselines_go_through_the_same_train(small_config, tmp_path, system, demo_run):
  config = small_config(system=system, split__kind="leave_one_out")
  results = train.train(config, tmp_path)
  assert results_of(tmp_path) == results
  assert results["system"] == system
  for name in (
    *("ids", "steps", "params", "train_seconds", "examples_per_second"),
    *("decoding", "beam_size", "best_step", "hallucination_rate", "validation_loss"),
  ):
    assert results[name] is None
  assert_metrics(results["validation"])
  assert_metrics(results["metrics"])
  demo = results_of(demo_run[0])
  assert results.keys() == demo.keys()
  assert results["split_sha256"] == demo["split_sha256"]
  if system in demo["baselines"]:
    assert results["metrics"] == demo["baselines"][system]
  assert not (tmp_path / "checkpoints").exists()
  assert train.train(config, tmp_path) == results


def test_claim_ignores_only_steps_and_logging(tmp_path):
  def claim(overrides):
    config = config_lib.load("demo:tiny", overrides=overrides)
    with workdir.claimed(tmp_path / "run", config):
      pass

  claim({})
  claim({"train.steps": 50, "train.log_every": 1})
  written = (tmp_path / "run" / "config.json").read_text()
  assert json.loads(written)["train"]["steps"] == 50
  with pytest.raises(UserError, match=r"seed: 0 → 3; train.batch_size: 32 → 8"):
    claim({"train.batch_size": 8, "seed": 3})
  assert (tmp_path / "run" / "config.json").read_text() == written


def test_write_whole_leaves_the_old_file_or_the_new(tmp_path, monkeypatch):
  path = epath.Path(tmp_path) / "results.json"
  atomic.write_json(path, {"a": 1})

  def full(self, other):
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(type(path), "replace", full)
  with pytest.raises(UserError, match=r"cannot write .*results.json: No space left"):
    atomic.write_json(path, {"a": 2})
  assert json.loads(path.read_text()) == {"a": 1}
  assert [file.name for file in tmp_path.iterdir()] == ["results.json"]


def test_cold_items_are_trained_with_the_codes_of_their_like(small_config, tmp_path):
  config = small_config(split__withheld=0.1, ids__cold="attributes")
  train.train(config, tmp_path / "run")
  split = json.loads((tmp_path / "run" / "split.json").read_text())
  assert split["withheld_items"] == 8
  book = codes.load(tmp_path / "run" / "codes")
  placed, cold = book.manifest["cold_placed"]
  assert 0 < placed == cold
  # The items that training knows have the codes that they have without the others.
  dataset = datasets.load(config)
  withheld = splits.make(config.split, dataset.log)
  apart = build.code_book(config.ids, withheld.train, config.seed, tmp_path / "cache")
  known_I = np.bincount(withheld.train.item_E, minlength=80) > 0
  assert known_I.sum() == split["train"]["items"] <= 72
  same_I = (book.items_IL == apart.items_IL).all(axis=1)
  assert same_I[known_I].all()
  assert not same_I[~known_I].any()


@pytest.mark.slow
def test_items_new_at_test_are_asked_for_and_evaluated(small_config, tmp_path):
  fields = {"split__kind": "leave_one_out", "split__withheld": 0.1}
  config = small_config(**fields, ids__cold="attributes", train__eval_users=20)
  results = train.train(config, tmp_path / "run")
  split = json.loads((tmp_path / "run" / "split.json").read_text())
  assert split["withheld_items"] == 8
  assert split["test"]["requests"] == results["num_users"] == 300
  cold = results["slices"]["seen_excluded"]["target"]["cold"]
  assert cold["users"] == split["test"]["cold_targets"] > 8
  # What the generator expects follows histories that nothing is taken from.
  assert "best_possible" not in results["baselines"]
  # `evaluate` reads the codes that training wrote.
  again = evaluate.evaluate(tmp_path / "run")
  assert again["metrics"] == results["metrics"]
  assert again["ids"] == results["ids"]


def test_every_preset_is_within_the_limits():
  for name in config_lib.available():
    assert ("tiny" in config_lib.presets(name)) == (name != "ensemble")
    for preset in (None, *config_lib.presets(name)):
      if name != "scaling":
        config_lib.check(config_lib.load(name, preset))


@pytest.mark.parametrize("warmup", [2, 3])
def test_a_warm_up_that_never_ends_is_said(small_config, tmp_path, logged, warmup):
  fields = {"train__steps": 2, "train__warmup_steps": warmup}
  train.train(small_config("sasrec:tiny", **fields), tmp_path / "run")
  lines = [line for line in logged if "train.warmup_steps" in line]
  assert len(lines) == (warmup > 2)
  for line in lines:
    assert "is 3, above config.train.steps 2: the learning rate never reaches" in line
    assert logged.index(line) < logged.index(next(x for x in logged if "first st" in x))


def test_every_shipped_preset_ends_its_warm_up():
  for name in config_lib.available():
    for preset in (None, *config_lib.presets(name)):
      if name != "scaling":
        t = config_lib.load(name, preset).train
        assert getattr(t, "warmup_steps", 0) <= getattr(t, "steps", 0), (name, preset)


def test_other_log_in_a_finished_workdir_is_refused(
  demo_run, demo_config, tmp_path, monkeypatch
):
  shutil.copytree(demo_run[0], tmp_path / "run")
  before = contents(tmp_path / "run")
  load = train.datasets.load

  def other_log(config):
    dataset = load(config)
    dataset.log.item_E[:2] = dataset.log.item_E[:2][::-1]
    return dataset

  monkeypatch.setattr(train.datasets, "load", other_log)
  with pytest.raises(UserError, match="begun on another log"):
    train.train(demo_config, tmp_path / "run")
  assert contents(tmp_path / "run") == before
