"""After its log has grown, a run answers by its own copy, and says so in one line."""

import json
import re
import shutil

from etils import epath
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.ids import codes
from lightlm_jax.preprocess import pipeline
from lightlm_jax.reporting import report
from lightlm_jax.runs import audit, context, evaluate, export, restore, train
from lightlm_jax.runs import recommend as recommend_lib
from lightlm_jax.runs.recommender import Recommender
from lightlm_jax.runtime.errors import UserError

# A day's rows (user, item), each at the time of its place.
DAY = [(f"u{u}", f"i{(3 * u + n) % 12}") for u in range(9) for n in range(5)]
# The next day: a new item for u0, a new user, and one who knows new items alone.
NEXT = [("u0", "x1"), ("u0", "i7"), ("eve", "i2"), ("eve", "x2"), ("zoe", "x1")]
CHANGED = "shop has changed since"


def prepare(rows, folder, **options):
  """Writes a prepared log to `folder`, in place of what is there."""
  path = folder.parent / f"{len(rows)}.csv"
  lines = [f"{user},{item},{15 * 10**8 + n}" for n, (user, item) in enumerate(rows)]
  path.write_text("\n".join(["user,item,time", *lines]) + "\n")
  if folder.exists():
    shutil.rmtree(folder)
  pipeline.prepare(pipeline.Options(str(path), str(folder), **options))


def shop_config(folder, system="item_knn"):
  fields = {"data.dir": str(folder), "data.name": "shop", "baselines": ()}
  return config_lib.load("toys:tiny", overrides=fields | {"system": system})


@pytest.fixture
def run(tmp_path):
  """A finished run whose log has not grown yet."""
  prepare(DAY, tmp_path / "shop")
  train.train(shop_config(tmp_path), tmp_path / "run")
  return tmp_path / "run"


def grow(run):
  prepare(DAY + NEXT, run.parent / "shop")


def ask(run, **options):
  found = recommend_lib.recommend(run, k=4, **options)
  return [(row["user"], row["item"]) for row in found.to_pylist()]


def contents(folder):
  return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_recommendations_stay_those_of_the_copy_and_one_line_says_so(run, logged):
  before = ask(run)
  assert not [line for line in logged if CHANGED in line]
  grow(run)
  assert ask(run) == before
  (line,) = (line for line in logged if CHANGED in line)
  assert str(run.parent / "shop") in line
  assert str(run) in line
  assert "--histories=" in line
  with pytest.raises(UserError, match=r"1 user is not in the log.*'eve'"):
    ask(run, users=["eve"])
  shutil.rmtree(run.parent / "shop")
  logged.clear()
  assert ask(run) == before
  assert not [line for line in logged if CHANGED in line]


def test_the_same_log_prepared_anew_is_no_other(run, logged):
  (run.parent / "again").mkdir()
  prepare(DAY, run.parent / "again" / "shop", strict=True)
  ask(run, overrides={"data.dir": str(run.parent / "again")})
  assert not [line for line in logged if CHANGED in line]


def test_every_command_reads_the_copy(run, logged):
  results = json.loads((run / "results.json").read_text())
  grow(run)
  assert evaluate.evaluate(run)["metrics"] == results["metrics"]
  assert Recommender.load(run).recommend(k=1)["user"].n_unique() == 9
  lines = [line for line in logged if CHANGED in line]
  assert [line.partition(": ")[2] for line in lines] == [
    "the run is evaluated on its own copy",
    "users, items and histories are those of its copy",
  ]
  page = report.report(run).read_text()
  assert "found here is not the one of" not in page


def test_what_is_exported_is_the_catalogue_of_the_copy(run, logged):
  pytest.importorskip("flatbuffers", reason="the extra `export` is not installed")
  pytest.importorskip("safetensors", reason="the extra `export` is not installed")
  grow(run)
  export.export(run, run.parent / "artefact", k=3, platforms=("cpu",))
  items = json.loads((run.parent / "artefact" / "items.json").read_text())
  assert sorted(items) == sorted({item for _, item in DAY})
  (line,) = (line for line in logged if CHANGED in line)
  assert "own copy are exported" in line


def test_ids_are_audited_on_the_copy(tmp_path, logged):
  """What `train` leaves of a run that writes ids, without its training."""
  prepare(DAY, tmp_path / "shop")
  config, folder = shop_config(tmp_path, "lightlm"), epath.Path(tmp_path / "run")
  dataset = datasets.load(config)
  split = splits.of_run(config, dataset.log)
  begun = context.RunContext(config, dataset, split, None, folder)
  codes.save(context.build_ids(config, dataset, split), folder / "codes")
  restore.keep_log(begun, datasets.source(config.data)[1])
  (folder / "config.json").write_text(config_lib.to_json(config))
  grow(tmp_path / "run")
  assert audit.audit_run(folder)["split_sha256"] == split.sha256
  (line,) = (line for line in logged if CHANGED in line)
  assert line.endswith("the run's own copy is audited")


def test_training_on_the_grown_log_needs_another_workdir(run):
  config = shop_config(run.parent)
  results = json.loads((run / "results.json").read_text())
  assert train.train(config, run) == results
  before = contents(run)
  grow(run)
  with pytest.raises(UserError, match=r"begun on another log.*give another --workdir"):
    train.train(config, run)
  assert contents(run) == before


def test_a_run_without_a_copy_is_refused_until_its_log_is_back(run, logged):
  before = ask(run)
  shutil.rmtree(run / "log")
  grow(run)
  for answer in (ask, evaluate.evaluate, Recommender.load):
    with pytest.raises(UserError, match=r"than shop is here.*no copy of its own"):
      answer(run)
  prepare(DAY, run.parent / "shop")
  assert ask(run) == before
  train.train(shop_config(run.parent), run)
  grow(run)
  assert ask(run) == before
  assert [CHANGED in line for line in logged].count(True) == 1


def test_a_shop_that_its_config_makes_anew_is_not_copied(small_config, tmp_path):
  train.train(small_config(system="pop"), tmp_path / "run")
  assert not (tmp_path / "run" / "log").exists()


def lists(pairs):
  """Each user's items, in order."""
  found = {}
  for user, item in pairs:
    found.setdefault(user, []).append(item)
  return found


def histories_in(folder):
  return recommend_lib.read_users(None, None, str(folder), False, None)[1]


def test_histories_of_today_are_those_of_the_grown_log(run, logged):
  grow(run)
  found = lists(ask(run, histories=histories_in(run.parent / "shop")))
  left_out, dropped = (line for line in logged if "catalogue" in line)
  assert "1 user is without an item of the catalogue" in left_out
  assert "('zoe')" in left_out
  assert "not in the catalogue: 3 dropped, of " in dropped
  assert set(re.findall(r"'(\w+)'", dropped)) == {"u0", "eve", "zoe"}
  assert not [line for line in logged if CHANGED in line]
  rows = lists((user, item) for user, item in DAY + NEXT if item[0] == "i")
  assert rows["u0"] == ["i0", "i1", "i2", "i3", "i4", "i7"]
  assert found == lists(ask(run, histories=rows.items()))
  assert found.keys() == rows.keys()
  # The history of the copy is replaced, not joined: without it u0 gets other items.
  assert found["u0"] != lists(ask(run, users=["u0"]))["u0"]


def test_a_folder_without_a_log_is_one_line(tmp_path):
  with pytest.raises(UserError, match="holds no log; give a folder that"):
    histories_in(tmp_path)
