"""What a study varies: points, names, fields; a slip is one line before any trial."""

import io
import pathlib

import commands
from hypothesis import given
from hypothesis import strategies as st
import pytest
import rich.console

from lightlm_jax import config as config_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import axes, trials, view
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies import summary as table

ROOT = pathlib.Path(__file__).parent.parent


def plan_of(*vary, **fields):
  study = config_lib.card("scaling:tiny")
  overrides = {name.replace("__", "."): value for name, value in fields.items()}
  study.update_from_flattened_dict(overrides)
  return plan_lib.of_study(study, vary)


@pytest.mark.parametrize("preset", [None, "quick", "data", "tiny"])
def test_every_preset_can_be_trained(preset):
  plan = plan_lib.of_study(config_lib.card("scaling", preset))
  plan_lib.check(plan)
  assert plan.trials == len({axes.name_of(point) for point in plan.points})
  if preset == "quick":
    assert plan.trials == 24


def test_points_are_the_product_in_order():
  plan = plan_of("seed=0,1")
  values = [tuple(point.values()) for point in plan.points]
  grid = [
    (d, w, f, s) for d in (1, 2) for w in (8, 16) for f in (0.5, 4.0) for s in (0, 1)
  ]
  assert values == grid
  assert list(plan.points[0]) == ["depth", "width", "ffn", "seed"]
  assert axes.name_of(plan.points[1]) == "depth=1,width=8,ffn=0.5,seed=1"


def test_a_shape_sets_its_fields():
  plan = plan_of("model.num_heads=2,4")
  (point,) = (p for p in plan.points if list(p.values()) == [2, 16, 4.0, 4, 0])
  model = plan_lib.config_of(plan, point).model
  found = (model.num_layers, model.num_decoder_layers, model.d_model, model.d_kv)
  assert (*found, model.d_ff, model.num_heads) == (2, 2, 16, 4, 64, 4)
  narrow = plan_of("ffn=0.001")
  assert plan_lib.config_of(narrow, narrow.points[0]).model.d_ff == 1
  rated = plan_of("rate=0.016")
  for point in rated.points:
    config = plan_lib.config_of(rated, point)
    t, base = config.train, rated.run.train
    assert t.learning_rate == {8: 0.002, 16: 0.001}[config.model.d_model]
    embeddings = base.learning_rate * base.embedding_rate
    assert t.learning_rate * t.embedding_rate == pytest.approx(embeddings, rel=1e-12)


def test_a_grid_without_a_rate_has_that_of_the_base():
  config = config_lib.card("scaling:tiny")
  with config.unlocked():
    config.axes.rate = (0.5,)
    config.also.other = {"width": (8,)}
  plan = plan_lib.of_study(config)
  base = config_lib.load("demo:tiny")
  (other,) = (p for p in plan.points if p["rate"] != 0.5)
  assert other["rate"] == base.train.learning_rate * base.model.d_model


def test_further_grids_join_and_are_as_the_base_where_they_say_nothing():
  config = config_lib.card("scaling:tiny")
  with config.unlocked():
    config.also.deep = {"depth": (2, 3), "seed": (0, 5)}
  plan = plan_lib.of_study(config)
  base = config_lib.load("demo:tiny").model
  added = [p for p in plan.points if p["depth"] == 3]
  assert [p["seed"] for p in added] == [0, 5]
  for point in added:
    assert (point["width"], point["ffn"]) == (base.d_model, base.d_ff / base.d_model)
  assert plan.trials == 8 + 4
  # A grid that names points which are there already adds none.
  with config.unlocked():
    config.also.deep = {"depth": (2,), "width": (8,), "ffn": (4.0,)}
  assert plan_lib.of_study(config).trials == 8


def test_a_runs_config_is_varied_as_it_stands():
  fixed = {"train.steps": 7, "baselines": ()}
  plan = plan_lib.of_run("demo:tiny", fixed, ["model.d_ff=8,64", "seed=1,2"])
  assert plan.trials == 4
  for point in plan.points:
    config = plan_lib.config_of(plan, point)
    assert config.train.steps == 7
    assert (config.model.d_ff, config.seed) == (point["model.d_ff"], point["seed"])
  with pytest.raises(UserError, match="nothing is varied"):
    plan_lib.of_run("demo:tiny", fixed, [])


TEXT = st.text(min_size=1, max_size=8)
VALUES = st.one_of(
  st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXT
)


@given(st.lists(VALUES, min_size=2, max_size=2, unique=True))
def test_different_points_have_different_folders(values):
  a, b = (axes.name_of({"x": value, "seed": 0}) for value in values)
  # 1 and 1.0 are one value of one axis.
  assert (a == b) == (values[0] == values[1])
  for name in (a, b):
    assert "/" not in name
    assert name.isascii()


@pytest.mark.parametrize(
  ("vary", "fields", "message"),
  [
    ("model.dff=8", {}, r"no field 'model.dff' \(did you mean model.d_ff"),
    ("d_ff=8", {}, r"no field 'd_ff' \(did you mean model.d_ff\?"),
    ("model.width=8", {}, "width is a shape; write it alone"),
    ("model=8", {}, "model is a group"),
    ("baselines=pop", {}, "only numbers, strings and booleans vary"),
    ("width=a", {}, "axis width takes values of type int; got 'a'"),
    ("width=8.5", {}, "axis width takes values of type int; got '8.5'"),
    ("train.learning_rate=nan", {}, "takes values of type float; got 'nan'"),
    ("model.whole_word=maybe", {}, "takes values of type bool; got 'maybe'"),
    ("train.steps=2,2", {}, "has the value 2 twice"),
    ("train.steps", {}, "write --vary=FIELD=VALUE,VALUE"),
    ("model.d_ff=8", {}, r"ffn and model.d_ff both set model.d_ff; .*--vary=ffn="),
    ("train.learning_rate=1e-4..1e-2", {}, "a grid cannot list"),
    ("train.learning_rate=1..0", {}, "is no range"),
    ("train.learning_rate=log:0..1", {}, "is no range"),
    (
      "width=8,9,10,11",
      {},
      r"8 of 16 points cannot be trained; the first is depth=1,width=9,.*"
      r"width 9 does not divide over model.num_heads 2",
    ),
    ("width=0,8", {}, r"4 of 8 points .*width is 0; it must be more than 0"),
    ("ffn=-1,1", {}, r"4 of 8 points .*ffn is -1; it must be more than 0"),
    ("ffn=1e308", {}, r"4 of 4 points .*ffn 1e\+308 makes model.d_ff .*; take less"),
    ("rate=0,0.1", {}, r"rate is 0; it must be more than 0"),
    ("rate=0..1", {"search": "random", "trials": 2}, "rate is 0; it must be more"),
    ("depth=1..3", {"search": "tpe", "trials": 13}, "the axes have 12 points"),
    ("model.num_heads=3", {}, r"8 of 8 points .*num_heads 3"),
    ("data.share=0.5,1.5", {}, r"8 of 16 .*data\.share is 1\.5"),
    ("ids.kind=rid,xid", {}, r"8 of 16 .*ids\.kind is 'xid'; choose one of sci"),
    ("split.kind=none", {}, "a study compares by validation"),
    ("train.batch_size=0", {}, r"train\.batch_size is 0"),
    ("seed=0", {"search": "hill"}, "choose one of grid, random, tpe"),
    ("seed=0", {"search": "tpe"}, "give the number of points of tpe"),
    ("seed=0", {"search": "random", "trials": 9}, "the axes have 8 points"),
    ("seed=0,1", {"search": "tpe", "trials": 3}, "takes one seed"),
    ("seed=0", {"base": "nosuch:tiny"}, "no config file"),
  ],
)
def test_a_slip_is_one_line(vary, fields, message):
  with pytest.raises(UserError, match=message):
    plan_lib.check(plan_of(vary, **fields))


def test_an_axis_is_given_once():
  with pytest.raises(UserError, match="--vary gives depth twice"):
    plan_of("depth=2", "depth=4")


def test_without_seeds_there_is_the_one_of_the_base():
  for plan in (plan_of("seed="), plan_of(seeds=()), plan_of("seed=", seeds=(3, 4))):
    assert {point["seed"] for point in plan.points} == {0}


def test_slots_divide_cores_and_gpus(monkeypatch):
  monkeypatch.setattr(trials, "_cores", lambda: list(range(5)))
  monkeypatch.setattr(trials.devices, "visible_accelerators", lambda nodes=(): [])
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
  found = trials.slots(2, None)
  assert [slot.cores for slot in found] == [(0, 2, 4), (1, 3)]
  assert trials.describe(found) == "2 at once, 2 or 3 cores each"
  assert not found[0].environment
  with pytest.raises(UserError, match=r"--jobs=6: .*there are 5"):
    trials.slots(6, None)
  monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,7")
  assert [s.environment for s in trials.slots(None, None)] == [
    {"CUDA_VISIBLE_DEVICES": "3"},
    {"CUDA_VISIBLE_DEVICES": "7"},
  ]
  shared = trials.slots(3, "gpu")
  assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in shared] == ["3", "7", "3"]
  memory = [s.environment.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for s in shared]
  assert memory == ["0.450", None, "0.450"]
  assert not trials.slots(1, "cpu")[0].environment
  monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
  monkeypatch.setattr(
    trials.devices,
    "visible_accelerators",
    lambda nodes=(): ["/dev/accel0"][len(nodes) :],
  )
  assert len(trials.slots(None, None)) == 1
  with pytest.raises(UserError, match="only one trial at a time"):
    trials.slots(2, None)


def test_progress_reads_what_is_whole(tmp_path):
  assert trials.progress(tmp_path, 100) == trials.Progress()
  line = '{"step": 40, "loss": 2.5, "step_seconds": {"median": 0.5, "p90": 1.0}}\n'
  more = '{"step": 40, "validation": {"ndcg@10": 0.25}}\n{"step": 60, "lo'
  (tmp_path / "metrics.jsonl").write_text("x" * 5_000 + "\n" + line + more)
  assert trials.progress(tmp_path, 100) == trials.Progress(40, 2.5, 0.25, 30.0)


def test_reasons(tmp_path):
  assert trials.reason(-9, tmp_path).startswith("killed by SIGKILL")
  assert trials.reason(1, tmp_path) == "exit code 1: no output"
  (tmp_path / trials.LOG).write_text("Traceback …\nValueError: no\n\n")
  assert trials.reason(1, tmp_path) == "exit code 1: ValueError: no"


@pytest.mark.parametrize("content", ["{", "{}", '{"validation": {}}', "[]"])
def test_results_that_cannot_be_read_are_a_failure(tmp_path, content):
  (tmp_path / "results.json").write_text(content)
  (tmp_path / "split.json").write_text("{}")
  plan = plan_of()
  config = plan_lib.config_of(plan, plan.points[0])
  row = table.row("name", plan.points[0], config, tmp_path, None)
  assert row["state"] == "failed"
  assert "results" in row["reason"]
  table.write(tmp_path / "summary.parquet", [row], plan)


def test_a_terminal_shows_a_table():
  screen = io.StringIO()
  console = rich.console.Console(file=screen, force_terminal=True, width=100)
  shown = view.View(console)
  finished = {"state": "finished", "trial": "a", table.OBJECTIVE: 0.1234}
  with shown.shown():
    shown.started("b", 1, 3)
    shown.ended("a", finished, 61.0, 1, 3)
    lines = [view.Line("b", 100, trials.Progress(40, 2.5, 0.25, 3_700.0), True)]
    shown.refresh(lines, {"finished": 1, "running": 1, "waiting": 1}, finished)
  text = screen.getvalue()
  for part in ("40/100", "2.500", "0.2500", "1:01:40", "finished in 61 s"):
    assert part in text
  assert "best so far a: validation NDCG@10 0.1234" in text
  assert "started" not in text


def command(module, *arguments):
  return commands.run(f"lightlm_jax.{module}", *arguments)


@pytest.mark.parametrize(
  ("module", "arguments", "message"),
  [
    ("train", ("--config=scaling:tiny",), "is a study's; give it to python -m"),
    ("sweep", ("--config=scaling:tiny",), "give --workdir=STUDY"),
    (
      "sweep",
      ("--config=scaling:tiny", "--workdir=x", "--config.axes.depht=1"),
      "did you mean axes.depth",
    ),
  ],
)
def test_the_command_refuses_in_one_line(module, arguments, message, tmp_path):
  done = command(module, *arguments)
  assert done.returncode == 2
  assert message in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not (ROOT / "x").exists()
