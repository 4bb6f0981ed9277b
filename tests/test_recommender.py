"""The Python interface: what it learns, gives, keeps and refuses."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import polars
import pyarrow
import pytest
import served as small

import lightlm_jax
from lightlm_jax.preprocess import pipeline
from lightlm_jax.reporting import report as report_lib
from lightlm_jax.runs import recommend as recommend_lib
from lightlm_jax.runs.recommender import Recommender
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import registry

ROOT = pathlib.Path(__file__).parent.parent
FIELDS = {
  "train.steps": 20,
  "train.eval_every": 20,
  "train.batch_size": 8,
  "train.history_buckets": (),
  "input.history": 8,
  "baselines": (),
}
ITEMS = {
  "item": [f"i{n}" for n in range(small.ITEMS)],
  "title": [f"thing {n}" for n in range(small.ITEMS)],
}
# Loads in a process of its own, and writes what everyone gets there.
AGAIN = """
import sys
from lightlm_jax import Recommender
Recommender.load(sys.argv[1]).recommend(k=7).write_parquet(sys.argv[2])
"""


def table():
  log = small.log()
  return {"user": log.user_ids[log.user_E], "item": log.item_ids[log.item_E]}


def again(path, to):
  """What a new process recommends, which compiles as this one does."""
  fast = str(int(jax.config.read("jax_disable_most_optimizations")))
  done = subprocess.run(
    [sys.executable, "-c", AGAIN, str(path), str(to)],
    cwd=ROOT,
    env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": fast},
    capture_output=True,
    text=True,
    timeout=300,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return polars.read_parquet(to)


@pytest.fixture(scope="module")
def fitted():
  model = Recommender.from_config("sasrec:tiny", **FIELDS)
  return model.fit(table(), ITEMS)


@pytest.fixture(scope="module")
def ease():
  model = Recommender.from_config("demo:tiny", system="ease", baselines=())
  return model.fit(table())


def test_the_package_gives_it_and_is_cheap_until_then():
  assert lightlm_jax.Recommender is Recommender
  with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
    lightlm_jax.Nothing  # noqa: B018
  script = "import lightlm_jax, sys; print(sorted({'jax', 'numpy'} & set(sys.modules)))"
  done = subprocess.run(
    [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60
  )
  assert done.stdout.strip() == "[]", done.stderr


def test_everyone_gets_k_items_that_are_new_to_them(fitted):
  found = fitted.recommend(k=4, text=True)
  assert found.columns == ["user", "rank", "item", "score", "text"]
  log = small.log()
  assert len(found) == 4 * log.num_users
  for (user,), rows in found.group_by(["user"]):
    index = log.user_ids.tolist().index(user)
    had = set(log.item_ids[log.row(index)].tolist())
    assert rows["rank"].to_list() == [1, 2, 3, 4]
    assert rows["score"].is_sorted(descending=True)
    assert len(set(rows["item"]) - had) == 4
  words = [f"thing {item[1:]}" for item in found["item"]]
  assert found["text"].to_list() == words


def test_users_histories_and_lists(fitted):
  log = small.log()
  user = log.user_ids[3]
  had = log.item_ids[log.row(3)].tolist()
  mine = fitted.recommend([user], k=5)
  by_name = fitted.recommend(histories={"new": had}, k=5)
  by_number = fitted.recommend(histories=[had, had], k=5)
  for found in (by_name, by_number[:5], by_number[5:]):
    assert found["item"].to_list() == mine["item"].to_list()
    np.testing.assert_allclose(found["score"], mine["score"], rtol=1e-5)
  assert by_number["user"].to_list() == ["0"] * 5 + ["1"] * 5
  best = mine["item"][0]
  assert best not in fitted.recommend([user], k=5, deny=[best])["item"].to_list()
  assert fitted.recommend([user], k=5, allow=[best])["item"].to_list() == [best]
  every = fitted.recommend([user], k=100, exclude_seen=False)
  assert len(every) == log.num_items


def test_lists_come_in_every_form(ease):
  wanted = ease.recommend(["u3", "u1"], deny=["i2"])
  for form in (iter, dict.fromkeys, np.array, polars.Series, pyarrow.array):
    assert ease.recommend(form(["u3", "u1"]), deny=form(["i2"])).equals(wanted)
  row = ease.recommend(histories=[pyarrow.array(["i1"])])
  assert row.equals(ease.recommend(histories=[["i1"]]))


def test_what_is_left_out_is_warned_of(fitted):
  user = small.log().user_ids[0]
  with pytest.warns(UserWarning, match=r"1 user is not in the log.*'nobody'"):
    assert set(fitted.recommend([user, "nobody"])["user"]) == {user}
  with pytest.warns(UserWarning, match="not in the catalogue: 1 dropped"):
    fitted.recommend(histories=[["i1", "what"]])
  with pytest.warns(UserWarning, match="not in the catalogue: 1 ignored"):
    fitted.recommend([user], deny=["what"])


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    ({"users": ["nobody"]}, "1 user is not in the log"),
    ({"users": []}, "no user is asked for"),
    ({"users": "u1"}, "users: 'u1' is a text; give a list"),
    ({"users": [1.5]}, "users: 1.5 is no id"),
    ({"users": ["u1"], "histories": [["i1"]]}, "one after the other"),
    ({"histories": ["i1", "i2"]}, "a history: 'i1' is a text; give a list"),
    ({"histories": {}}, "no user is asked for"),
    ({"k": 0}, "k is 0"),
    ({"k": 2.5}, "k is 2.5"),
    ({"k": True}, "k is True"),
    ({"k": "3"}, "k is '3'"),
    ({"users": 5}, "users: 5 is no list; give a list"),
    ({"users": b"u1"}, "users: b'u1' is a text"),
    ({"users": [["u1"]]}, r"users: \['u1'\] is no id"),
    ({"histories": [None]}, "a history: None is no list; give a list"),
    ({"histories": 5}, "histories: 5 is no list; give a list"),
    ({"histories": [5]}, "a history: 5 is no list; give a list"),
    ({"histories": {"new": 5}}, "a history: 5 is no list; give a list"),
    ({"histories": {"\ud800": ["i1"]}}, "names of users: .* is no id"),
    ({"histories": {1.5: ["i1"]}}, "names of users: 1.5 is no id"),
    ({"allow": 5}, "allow: 5 is no list; give a list"),
    ({"deny": "i1"}, "deny: 'i1' is a text; give a list"),
    ({"deny": [None]}, "deny: None is no id"),
    ({"exclude_seen": "no"}, "exclude_seen is 'no'; give True or False"),
    ({"text": 1}, "text is 1; give True or False"),
    ({"allow": ["what"]}, "leave none of the"),
  ],
)
def test_what_cannot_be_asked_is_one_line(ease, arguments, message):
  with pytest.raises(UserError, match=message):
    ease.recommend(**arguments)


def test_what_is_not_fitted_or_not_there_is_one_line(ease, tmp_path):
  fresh = Recommender.from_config("demo:tiny")
  for call in (fresh.recommend, fresh.evaluate, lambda: fresh.save(tmp_path / "x")):
    with pytest.raises(UserError, match="learned nothing yet"):
      call()
  with pytest.raises(UserError, match=r"config\.json does not exist"):
    Recommender.load(tmp_path / "x")
  with pytest.raises(UserError, match=r"did you mean train\.steps"):
    Recommender.from_config("demo:tiny", train__step=3)
  with pytest.raises(UserError, match="give test or validation"):
    ease.evaluate("train")
  with pytest.raises(UserError, match="nothing is known of the items"):
    ease.recommend(text=True)
  with pytest.raises(UserError, match="a folder has its items"):
    fresh.fit(tmp_path, ITEMS)
  (tmp_path / "taken").mkdir()
  with pytest.raises(UserError, match="exists already"):
    ease.save(tmp_path / "taken")


def test_saved_and_loaded_elsewhere_it_says_the_same_bit_for_bit(fitted, tmp_path):
  fitted.save(tmp_path / "model")
  assert not list(tmp_path.glob("*.part"))
  found = again(tmp_path / "model", tmp_path / "again.parquet")
  assert found.equals(fitted.recommend(k=7))
  assert len(found) == 7 * small.log().num_users


def test_a_fitted_system_is_built_once(monkeypatch):
  built, build = [], registry.build
  monkeypatch.setattr(
    registry, "build", lambda *args: built.append(args[0]) or build(*args)
  )
  model = Recommender.from_config("sasrec:tiny", **FIELDS).fit(table())
  model.evaluate()
  model.recommend(k=2)
  assert built == ["sasrec"]


def test_every_command_takes_what_was_saved(ease, tmp_path):
  ease.save(tmp_path / "model")
  rows = recommend_lib.recommend(tmp_path / "model", k=3)
  assert polars.from_arrow(rows).equals(ease.recommend(k=3))
  judged = Recommender.load(tmp_path / "model").evaluate()
  assert judged["metrics"] == ease.evaluate()["metrics"]
  assert (tmp_path / "model" / "results-test-scores.json").exists()


def test_a_config_is_a_start_too_and_names_its_fields(ease):
  model = Recommender.from_config("demo:tiny", system="item_knn")
  other = Recommender.from_config(model._config, split__kind="none", baselines=())
  other.fit(polars.DataFrame(table()))
  assert other._run.config.system == "item_knn"
  assert len(other._run.split.train.item_E) == len(small.log().item_E)
  with pytest.raises(UserError, match="holds nothing out"):
    other.evaluate()
  assert other.workdir.exists()


def test_a_folder_of_a_log_is_read_as_the_commands_read_it(tmp_path):
  folder = tmp_path / "shop"
  folder.mkdir()
  (folder / "sequences.txt").write_text("u1 a b c\nu2 a b\nu3 b c d\n")
  fields = {"system": "pop", "baselines": ()}
  model = Recommender.from_config("toys:tiny", **fields).fit(folder)
  assert sorted(set(model.recommend(k=9)["user"])) == ["u1", "u2", "u3"]
  moved = tmp_path / "moved"
  folder.rename(moved)
  found = again(model.workdir, tmp_path / "again.parquet")
  assert found.equals(model.recommend(k=7))


def test_a_folder_that_prepare_made_is_read_too(tmp_path):
  log = "user,item,time\n007,0042,5\n007,x y,6\n7,0042,6\n7,z,9\n"
  (tmp_path / "log.csv").write_text(log)
  (tmp_path / "names.csv").write_text("item,title\n0042,Heat\n")
  options = pipeline.Options(
    str(tmp_path / "log.csv"),
    str(tmp_path / "shop"),
    items=str(tmp_path / "names.csv"),
  )
  pipeline.prepare(options)
  fields = {"system": "pop", "split__kind": "none", "data__min_len": 1}
  model = Recommender.from_config("toys:tiny", **fields).fit(str(tmp_path / "shop"))
  (row,) = model.recommend(users=["007"], text=True).to_dicts()
  assert (row["item"], row["text"]) == ("z", "")
  found = model.recommend(histories={"new": ["z"]}, k=1, text=True).to_dicts()
  assert [(row["item"], row["text"]) for row in found] == [("0042", "Heat")]
  shutil.rmtree(tmp_path / "shop")
  model.save(tmp_path / "model")
  again = Recommender.load(tmp_path / "model").recommend(text=True)
  assert again.equals(model.recommend(text=True))


def test_a_report_reads_the_log_that_came_along(tmp_path):
  model = Recommender.from_config("demo:tiny", system="item_knn", baselines=())
  model.fit(table(), ITEMS).save(tmp_path / "model")
  page = report_lib.report(tmp_path / "model").read_text()
  assert "thing 1" in page
  assert "does not exist" not in page


def test_a_user_who_had_everything_is_named(ease, capsys):
  had = [f"i{n}" for n in range(small.ITEMS)]
  with pytest.warns(UserWarning, match="1 user is left without any item.*'full'"):
    assert ease.recommend(histories={"full": had}).is_empty()
  asked = [("full", had), ("new", ["i1"])]
  rows = recommend_lib.recommend(ease.workdir, histories=asked, k=2)
  assert rows["user"].to_pylist() == ["new"] * 2
  assert "left without any item that may be recommended ('full')" in (
    capsys.readouterr().out
  )


def test_what_is_printed_does_nothing_to_a_terminal():
  rows = {"user": ["a\x1b[2J", "b"], "rank": [1, 1], "item": ["x\ny", "z"]}
  rows |= {"score": [0.5, 0.2], "text": ["\x1b]0;\x07", "fine"]}
  said = []
  recommend_lib.show(pyarrow.table(rows), said.append)
  assert all(line.isprintable() for line in said)
  assert len({len(line.partition("0.")[0]) for line in said[1:]}) == 1


def test_many_users_and_none_are_printed():
  def said(users):
    column = pyarrow.array([f"u{n // 2}" for n in range(2 * users)], pyarrow.string())
    score = pyarrow.array(np.zeros(2 * users, np.float32))
    rank = pyarrow.array(np.arange(2 * users) % 2 + 1)
    rows = {"user": column, "rank": rank, "item": column, "score": score}
    lines = []
    recommend_lib.show(pyarrow.table(rows), lines.append)
    return lines[1:]

  assert said(0) == []
  assert len(said(recommend_lib.PRINTED)) == 2 * recommend_lib.PRINTED
  *shown, last = said(recommend_lib.PRINTED + 3)
  assert len(shown) == 2 * recommend_lib.PRINTED
  assert "3 users more" in last


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightlm", "bpr_mf", "item_knn"])
def test_every_kind_of_system_comes_back_bit_for_bit(name, tmp_path):
  file = name if name == "bpr_mf" else "demo"
  fields = {"train.steps": 20, "train.eval_every": 10, "baselines": ()}
  model = Recommender.from_config(f"{file}:tiny", system=name, **fields)
  model.fit(table()).save(tmp_path / "model")
  found = again(tmp_path / "model", tmp_path / "again.parquet")
  assert found.equals(model.recommend(k=7))


@pytest.mark.slow
def test_texts_come_along_for_those_who_read_them(tmp_path):
  pytest.importorskip("tokenizers", reason="the extra `text` is not installed")
  fields = {"train.steps": 4, "train.eval_every": 4, "baselines": ()}
  model = Recommender.from_config("lite_llm4rec:tiny", **fields).fit(table(), ITEMS)
  model.save(tmp_path / "model")
  found = again(tmp_path / "model", tmp_path / "again.parquet")
  assert found.equals(model.recommend(k=7))
