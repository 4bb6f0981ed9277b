"""A trained run judged again, by the command, without training."""

import functools
import json
import shutil
import subprocess
import sys

import commands
import pytest

from lightlm_jax.runs import evaluate, parts, train
from lightlm_jax.runtime.errors import UserError

command = functools.partial(commands.run, "lightlm_jax.evaluate", "--platform=cpu")


@pytest.fixture
def run(demo_run, tmp_path):
  """A copy of a finished run, to write into."""
  return shutil.copytree(demo_run[0], tmp_path / "run")


def test_the_command_gives_the_runs_own_figures_again(run, tmp_path):
  report = tmp_path / "report.json"
  done = command(f"--workdir={run}", f"--report={report}")
  assert done.returncode == 0, done.stderr
  found = json.loads((run / "results-test-beam.json").read_text())
  trained = json.loads((run / "results.json").read_text())
  same = ("system", "ids", "params", "metrics", "exposure", "best_step", "split_sha256")
  assert {name: found[name] for name in same} == {name: trained[name] for name in same}
  assert json.loads(report.read_text()) == found
  assert "lightlm" in done.stdout
  assert "results-test-beam.json" in done.stdout


def test_every_flag_reaches_its_field(run):
  flags = ["--split=validation", "--decoding=exact", "--users=50", "--batch_size=25"]
  done = command(f"--workdir={run}", *flags)
  assert done.returncode == 0, done.stderr
  found = json.loads((run / "results-validation-exact-50users.json").read_text())
  assert (found["split"], found["decoding"]) == ("validation", "exact")
  assert (found["num_users"], found["beam_size"]) == (50, None)


# Runs a command, and shows what its work is given.
ASKS = """
import importlib, json, runpy
from lightlm_jax.runtime import devices

def work(*args, overrides, **rest):
  print(json.dumps([overrides, rest["strict"]]))

setattr(importlib.import_module("lightlm_jax.runs.{command}"), "{command}", work)
devices.begin = devices.select = devices.check = lambda *args: None
runpy.run_module("lightlm_jax.{command}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
  ("command", "more"),
  [
    ("evaluate", []),
    ("recommend", ["--users=u1", "--output=recs.csv"]),
    ("export", ["--output=artefact"]),
  ],
)
def test_whoever_asks_a_run_decodes_it_by_the_same_flags(command, more):
  wanted = {"kind": "latent_local", "nearest": 5, "prior": 0.0, "state": "encoder"}
  given = [f"--{name}={value}" for name, value in wanted.items() if name != "kind"]
  flags = [
    "--workdir=run",
    "--decoding=latent_local",
    "--beam_size=0",
    *given,
    "--strict",
    *more,
  ]
  done = subprocess.run(
    [sys.executable, "-c", ASKS.format(command=command), *flags],
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  found, strict = json.loads(done.stdout.splitlines()[-1])
  assert found == {f"decoding.{name}": value for name, value in wanted.items()}
  assert strict


@pytest.mark.parametrize("text", ["[]", "{}", "{", '{"seed": 0}'])
def test_a_config_of_another_kind_is_one_line(run, text):
  (run / "config.json").write_text(text)
  with pytest.raises(UserError, match=r"config\.json"):
    evaluate.evaluate(run)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_results_that_cannot_be_read_are_one_line(run, text):
  (run / "results.json").write_text(text)
  with pytest.raises(UserError, match=r"cannot read .*results\.json"):
    evaluate.evaluate(run)


def test_a_system_that_scores_every_item_has_no_decoding(small_config, tmp_path):
  config = small_config(system="pop", split__kind="leave_one_out")
  train.train(config, tmp_path / "pop")
  with pytest.raises(UserError, match="nothing to decode"):
    evaluate.evaluate(tmp_path / "pop", overrides={"decoding.kind": "exact"})
  with pytest.raises(UserError, match="leave out --beam_size"):
    evaluate.evaluate(tmp_path / "pop", overrides={"decoding.beam_size": 10})
  found = evaluate.evaluate(tmp_path / "pop")
  trained = json.loads((tmp_path / "pop" / "results.json").read_text())
  assert found["metrics"] == trained["metrics"]


def test_validation_is_asked_and_named(run, capsys):
  found = evaluate.evaluate(run, split_name="validation")
  trained = json.loads((run / "results.json").read_text())
  assert found["metrics"] == trained["validation"]
  assert found["split"] == "validation"
  assert (run / "results-validation-beam.json").exists()
  assert "validation" in capsys.readouterr().out


def files(run):
  return {path.name for path in run.glob("*-test-*")}


def test_a_narrow_beam_is_asked_for_what_it_can_find(run):
  own = json.loads((run / "results.json").read_text())
  own_table = (run / "users-test-beam.parquet").read_bytes()
  found = evaluate.evaluate(run, overrides={"decoding.beam_size": 10})
  assert files(run) == {
    "users-test-beam.parquet",
    "users-test-beam-10.parquet",
    "results-test-beam-10.json",
  }
  assert json.loads((run / "results-test-beam-10.json").read_text()) == found
  assert (found["beam_size"], own["beam_size"]) == (10, 20)
  for metrics in found["metrics"].values():
    assert metrics["hr@20"] == metrics["hr@10"] > 0
    assert metrics["ndcg@20"] == metrics["ndcg@10"]
  assert found["metrics"] != own["metrics"]
  # What `--compare` reads is still the run's own.
  assert (run / "users-test-beam.parquet").read_bytes() == own_table
  shutil.copytree(run, run.with_name("other"))
  compared = evaluate.compare([run, run.with_name("other")])
  for rule, runs in compared["runs"].items():
    mean = own["metrics"][rule]["ndcg@10"]
    assert runs["run"]["ndcg@10"]["mean"] == pytest.approx(mean, rel=1e-12)


def test_the_runs_own_width_has_the_runs_own_files(run, monkeypatch):
  """A run of 10 beams was asked for 20 items: its own search is 20 wide."""
  # It is taken for one that was trained with 10.
  monkeypatch.setattr(parts, "check_checkpoints", lambda checkpoints: None)
  config = json.loads((run / "config.json").read_text())
  config["decoding"]["beam_size"] = 10
  (run / "config.json").write_text(json.dumps(config))
  trained = json.loads((run / "results.json").read_text())
  for overrides in ({}, {"decoding.beam_size": 20}):
    found = evaluate.evaluate(run, overrides=overrides)
    assert files(run) == {"users-test-beam.parquet", "results-test-beam.json"}
    assert found["beam_size"] == 20
    assert found["metrics"] == trained["metrics"]
  found = evaluate.evaluate(run, overrides={"decoding.beam_size": 10}, users=50)
  assert found["beam_size"] == 10
  assert (run / "results-test-beam-10-50users.json").exists()


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--beam_size=10", "--decoding=exact"], "has no beams; leave out --beam_size"),
    (["--beam_size=-1"], "not a non-negative integer"),
    (["--beam_size=10", "--compare", "RUN"], "leave out --beam_size"),
  ],
)
def test_a_width_that_means_nothing_is_one_line(run, flags, message):
  flags = [flag.replace("RUN", str(run)) for flag in flags]
  done = command(f"--workdir={run}", *flags)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert message in line
  assert files(run) == {"users-test-beam.parquet"}


def test_no_width_of_a_run_whose_own_decoding_is_exact(run):
  config = json.loads((run / "config.json").read_text())
  config["decoding"]["kind"] = "exact"
  (run / "config.json").write_text(json.dumps(config))
  with pytest.raises(UserError, match="has no beams"):
    evaluate.evaluate(run, overrides={"decoding.beam_size": 10})


def test_decodings_differ_where_they_must(run):
  def ask(kind):
    return evaluate.evaluate(run, overrides={"decoding.kind": kind}, users=100)

  exact, free = ask("exact"), ask("unconstrained")
  assert exact["num_users"] == 100
  assert exact["decoding"] == "exact"
  assert exact["exposure"]["seen_allowed"]["invalid@10"] == 0
  # A model of 40 steps knows few ids by heart.
  assert free["exposure"]["seen_allowed"]["invalid@10"] > 0
  wide = evaluate.evaluate(
    run, overrides={"decoding.kind": "beam", "decoding.beam_size": 80}, users=100
  )
  assert exact["metrics"] == wide["metrics"]
  renormalised = ask("beam_renormalised")
  assert renormalised["decoding"] == "beam_renormalised"
  assert renormalised["exposure"]["seen_allowed"]["invalid@10"] == 0


def test_no_run_and_other_data_are_one_line(run, tmp_path):
  with pytest.raises(UserError, match=r"config\.json does not exist"):
    evaluate.evaluate(tmp_path / "nothing")
  with pytest.raises(UserError, match=r"decoding\.kind is 'guess'"):
    evaluate.evaluate(run, overrides={"decoding.kind": "guess"})
  with pytest.raises(UserError, match="another log"):
    evaluate.evaluate(run, overrides={"data.shop.seed": 1})
  (run / "results.json").unlink()
  with pytest.raises(UserError, match="another log"):
    evaluate.evaluate(run, overrides={"data.shop.seed": 1})
  shutil.rmtree(run / "codes")
  with pytest.raises(UserError, match="holds no whole ids"):
    evaluate.evaluate(run)


def test_a_run_without_a_checkpoint_is_one_line(run):
  shutil.rmtree(run / "checkpoints")
  with pytest.raises(UserError, match="no checkpoint yet"):
    evaluate.evaluate(run)
  assert not (run / "results-test-beam.json").exists()
