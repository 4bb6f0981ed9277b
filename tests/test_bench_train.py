"""The command `bench train`: what it times is training, and its report agrees."""

import json
import time

import jax
import numpy as np
import pytest
from test_bench import bench

from lightlm_jax.benchmarks import (
  growth,
  record,
  scatter,
  shapes,
  timing,
  training_step,
)
from lightlm_jax.benchmarks import training as train_lib
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import lightlm
from lightlm_jax.systems import token_sequences as text

FEW = 2_000  # interactions


def tiny(**fields):
  return shapes.config("tiny", train__batch_size=4, **fields)


def test_a_made_log_is_the_papers_task_by_its_shape():
  config = shapes.config("paper")
  source = shapes.made(FEW, prompt=True)
  assert len(source.log.item_E) == pytest.approx(FEW, rel=0.1)
  assert source.log.length_U.min() == shapes.MIN_LENGTH
  tables = lightlm.build(config, source.book).tables
  assert lightlm.model_config(config, tables.trie.vocab_size).V == 500
  nobody = np.zeros((2, 0), np.int32)
  batch = Batch(np.zeros(2, np.int32), nobody, nobody, None, None)
  found = text.write_prompt(tables.user_code_UL, batch)
  assert found.token_BS.shape == (2, 20)
  assert (np.asarray(found.segment_BS) > 0).all()
  target_IL = tables.target_IL[: shapes.NUM_ITEMS]
  assert target_IL.shape[1] == 6
  assert (target_IL >= 0).all()


def test_zipf_is_no_order_of_numbers():
  drawn = shapes.zipf(np.random.default_rng(0), 50, 20_000)
  count_V = np.bincount(drawn, minlength=50)
  assert count_V.max() == pytest.approx(20_000 / (1 / np.arange(1, 51)).sum(), rel=0.1)
  assert (np.diff(count_V) > 0).any()


@pytest.mark.parametrize("K", [1, 7, 40])
def test_a_mix_stands_for_an_epoch(K):
  plan = feed_lib.Plan(0, 4, (2, 5, 20), (9, 40, 151), 20)
  bucket_K, _, batch_K = training_step.mix(plan, K)
  assert len(bucket_K) == len(batch_K) == K
  assert (batch_K < np.array(plan.batches)[bucket_K]).all()
  share = np.bincount(bucket_K, minlength=3) / K
  wanted = np.array(plan.batches) / plan.steps_per_epoch
  np.testing.assert_allclose(share, wanted, atol=1 / K)


def check(row):
  """Every number of a row follows from the others."""
  whole = row["seconds"]["median"]
  assert 0 < row["seconds"]["best"] <= whole
  for what in ("examples", "tokens", "places"):
    assert row[f"{what}_per_second"] == pytest.approx(row[what] / whole)
  assert row["step_seconds"] * row["steps_per_dispatch"] == pytest.approx(whole)
  assert row["flops_per_second"] == pytest.approx(
    row["flops_per_step"] / row["step_seconds"]
  )
  assert 0 < row["mfu"] < 10  # of a CPU's peak as it is measured
  assert 0 < row["examples"] <= row["batch"] * row["steps_per_dispatch"]
  assert 0 < row["tokens"] <= row["places"]
  assert np.isfinite(row["loss"])


@pytest.mark.slow
def test_what_is_timed_is_training():
  configs = {K: tiny(train__steps_per_dispatch=K) for K in (1, 3)}
  source = shapes.made(FEW, prompt=False)
  rows = training_step.compare(configs, source, 2, steps=3)
  for K, row in rows.items():
    check(row)
    assert (row["steps_per_dispatch"], row["batch"], row["preset"]) == (K, 4, "tiny")
  # A dispatch that holds the same batches finds another loss, for the weights moved.
  trainee = training_step.Trainee(configs[3], source)
  first = trainee.report.metrics.loss
  second = trainee.go(2).metrics.loss
  assert int(trainee.state.step) == 9
  assert (np.asarray(first) != np.asarray(second)).all()
  trainee.check()
  trainee._step += 1
  with pytest.raises(RuntimeError, match="only 9 of 10 steps"):
    trainee.check()


def test_the_forms_of_the_gradient_are_equal():
  rng = np.random.default_rng(0)
  token_N, grad_ND = shapes.zipf(rng, 30, 200), rng.normal(size=(200, 8))
  expected = np.zeros((30, 8))
  np.add.at(expected, token_N, grad_ND)
  for form in scatter.FORMS.values():
    found = jax.jit(form, static_argnums=2)(token_N, np.float32(grad_ND), 30)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_slow_scatter_add_is_told(monkeypatch, logged):
  sizes, warnings = ((100, 30, 8),), []
  rows = list(scatter.run(sizes, 1, warnings.append))
  assert [row["kind"] for row in rows] == ["Zipf", "uniform"]
  assert len(logged) == 4
  for row in rows:
    ms = row["milliseconds"]
    others = [ms[name] for name in scatter.FORMS if name != "scatter-add"]
    assert row["ratio"] == pytest.approx(ms["scatter-add"] / min(others))
    assert row["difference"] < 1e-5
  monkeypatch.setattr(scatter, "SLOW", 0)
  list(scatter.run(sizes, 1, warnings.append))
  told = [line for line in warnings if line.startswith("warning: the scatter-add")]
  assert len(told) >= 2


def test_an_exponent_is_the_slope_in_log_log(logged):
  rows = [
    {"grows": grows, "size": size, "microseconds_an_example": 3 * size**power}
    for grows, power in (("width", 1.5), ("depth", 1.0))
    for size in (2, 8, 64)
  ]
  rows.append({"grows": "batch", "size": 8, "microseconds_an_example": 1.0})
  found = growth.exponents(rows)
  assert found == pytest.approx({"width": 1.5, "depth": 1.0})
  growth.say_exponents(found)
  assert logged == ["cost per example grows as width^1.50, depth^1.00"]


def test_turns_are_timed_by_turns():
  order = []
  calls = {name: lambda name=name: order.append(name) for name in "ab"}
  times = timing.interleaved(calls, repeats=3, seconds=0)
  assert order == ["a", "b"] * 4
  assert {time.repeats for time in times.values()} == {3}


def test_rows_are_on_disk_as_they_come_and_errors_are_notes(tmp_path):
  path = tmp_path / "report.json"
  on_disk = []

  def found():
    for n in (1, 2):
      yield {"n": n}
      on_disk.append(len(json.loads(path.read_text())["rows"]))
    raise UserError("no more of them")

  to = record.Record({}, {"rows": [], "one": None}, path)
  to.rows("rows", "all rows", found())
  to.only("one", "the one", lambda: {"n": 3})
  report = json.loads(path.read_text())
  assert on_disk == [1, 2]
  assert (report["rows"], report["one"]) == ([{"n": 1}, {"n": 2}], {"n": 3})
  assert report["notes"] == ["all rows: skipped, no more of them"]


def test_what_there_is_no_time_for_is_noted():
  to = record.Record({}, {"rows": []}, None, end=time.monotonic() - 1)
  to.rows("rows", "all rows", iter([{"n": 1}]))
  assert to.report["rows"] == []
  assert to.report["notes"] == [
    "all rows: skipped, the time is up; give more --minutes"
  ]


@pytest.mark.slow
def test_a_tiny_run_reports_what_it_promises(tmp_path):
  done = bench(
    "train",
    "--quick",
    "--platform=cpu",
    "--parts=a,b,d,g",
    "--shapes=tiny",
    "--batch=4",
    "--repeats=1",
    "--sizes=500,1000",
    f"--report={tmp_path / 'report.json'}",
  )
  assert done.returncode == 0, done.stderr
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["command"].startswith("python -m lightlm_jax.bench train --quick")
  for said in (report["command"], "jax " + report["versions"]["jax"], "host"):
    assert said in done.stdout
  assert (report["backend"], report["t5"], report["notes"]) == ("cpu", None, [])
  (row,) = report["shapes"]
  assert (row["preset"], row["batch"]) == ("tiny", 4)
  dispatches = report["steps_per_dispatch"]
  assert [row["steps_per_dispatch"] for row in dispatches] == [1, 10]
  assert dispatches[-1]["host_share"] == 0
  assert len(report["embedding_gradient"]) == 2
  assert [(row["grows"], row["size"]) for row in report["growth"]] == [
    *(("width", 64), ("width", 128), ("depth", 2), ("depth", 6)),
    *(("batch", 4), ("log", 500), ("log", 1000)),
  ]
  assert report["exponents"].keys() == {"width", "depth", "log"}
  for row in report["growth"]:
    assert row["microseconds_an_example"] == pytest.approx(
      1e6 / row["examples_per_second"]
    )
  for row in [*report["shapes"], *dispatches, *report["growth"]]:
    check(row)


@pytest.mark.integration
def test_all_is_both_and_ends_in_time(tmp_path):
  folder = tmp_path / "found"
  short = "--quick", "--platform=cpu", "--minutes=1e-6"
  done = bench("all", *short, f"--folder={folder}")
  assert done.returncode == 0, done.stderr
  found = {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}
  assert found.keys() == {"train", "decode"}
  for report in found.values():
    assert report["command"].startswith("python -m lightlm_jax.bench all --quick")
    assert report["t5"] is None
    assert all("the time is up" in note for note in report["notes"])
    assert report["notes"]


@pytest.mark.integration
@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["train", "--parts=z"], "there is no part 'z'; choose from a, b, c, d, e, f, g"),
    (["train", "--shapes=huge"], "there is no shape 'huge'; choose from paper, small"),
    (["train", "--beams=20"], "--beams is for bench decode, not train"),
    (["train", "--batch=0"], "--batch is 0; it must be at least 1"),
    (["all", "--report=a.json"], "--report is for bench decode and train, not all"),
    (["all", f"--folder={__file__}"], "File exists"),
  ],
)
def test_a_slip_is_one_line(arguments, message):
  done = bench(*arguments, "--platform=cpu")
  assert done.returncode == 2
  assert message in done.stderr
  assert len(done.stderr.splitlines()) == 1


def test_toys_that_is_not_here_is_a_note(monkeypatch):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  options = train_lib.QUICK._replace(parts=("e",))
  report = train_lib.train(options)
  (note,) = report["notes"]
  assert note.startswith("rows: skipped, no data for 'toys'")


@pytest.mark.slow
def test_rows_of_toys_are_compared(data_dir):
  del data_dir
  options = train_lib.with_batch(train_lib.QUICK, 4)._replace(parts=("e",), repeats=1)
  report = train_lib.train(options)
  padded, buckets, shared = report["rows"]
  assert [row["name"] for row in report["rows"]] == list(train_lib.ROWS)
  assert padded["speedup"] == 1
  assert padded["filled"] < buckets["filled"] <= 1
  assert padded["filled"] < shared["filled"] <= 1
  for row in report["rows"]:
    check(row)


@pytest.mark.slow
def test_t5_trains_the_same():
  pytest.importorskip("transformers", reason="no extra `parity`: no T5 was trained")
  from lightlm_jax.benchmarks import t5_training  # noqa: PLC0415

  config = shapes.config(
    "paper",
    train__batch_size=4,
    train__steps_per_dispatch=2,
    model__d_model=16,
    model__d_kv=8,
    model__num_heads=2,
    model__num_layers=2,
    model__num_decoder_layers=2,
  )
  lines = []
  source = shapes.made(FEW, prompt=True)
  report = t5_training.compare(config, source, 2, lines.append)
  assert report["t5_loss"] == pytest.approx(report["loss"], rel=1e-5)
  assert report["t5"].keys() == {"eager", "sdpa"}
  assert len(lines) == 1
  check(report["ours"])
  for each in report["t5"].values():
    seconds = each["seconds"]["median"]
    assert each["examples_per_second"] == pytest.approx(8 / seconds)
  assert report["ratio"] == pytest.approx(
    report["ours"]["examples_per_second"]
    / report["t5"][report["quickest"]]["examples_per_second"]
  )
