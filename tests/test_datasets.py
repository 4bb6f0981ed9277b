"""Which log a configuration means; the published ones."""

import collections

import numpy as np
import pytest
from raw_logs import HEADER, RATED, question, raw_rows, same, timed_rows

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.runtime.errors import UserError


def data_config(name="toys", folder="", min_len=1, cold="apart", **shop):
  fields = {"data.name": name, "data.dir": str(folder), "data.min_len": min_len}
  fields |= {f"data.shop.{field}": value for field, value in shop.items()}
  return config_lib.load("toys", overrides=fields | {"ids.cold": cold})


@pytest.fixture
def folder(tmp_path):
  (tmp_path / "toys").mkdir()
  (tmp_path / "toys" / "sequences.txt").write_text("u1 a b c\nu2 b\nu3 c a\n")
  return tmp_path


@pytest.mark.parametrize("environment", [None, ""])
def test_no_data_folder_was_named(monkeypatch, environment):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  if environment is not None:
    monkeypatch.setenv("LIGHTLM_DATA_DIR", environment)
  with pytest.raises(UserError) as error:
    datasets.load(data_config())
  message = str(error.value)
  for word in ("toys/sequences.txt", "LIGHTLM_DATA_DIR", "data.dir", "configs/demo.py"):
    assert word in message


def test_the_folder_lacks_the_data_set(monkeypatch, folder):
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(folder))
  for name, missing in (("shop", "shop/sequences.txt does not exist"), ("beauty", "")):
    with pytest.raises(UserError, match="needs no data") as error:
      datasets.load(data_config(name))
    assert f"{folder}/{missing or name}" in str(error.value)


def test_the_config_goes_before_the_environment(monkeypatch, folder, tmp_path):
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(tmp_path / "elsewhere"))
  dataset = datasets.load(data_config(folder=folder))
  assert raw_rows(dataset.log) == {"u1": list("abc"), "u2": ["b"], "u3": ["c", "a"]}
  assert dataset.titles is None
  assert dataset.tastes is dataset.attributes is None
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(folder))
  assert same(datasets.load(data_config()).log, dataset.log)


def test_titles_come_with_the_log(folder):
  (folder / "toys" / "items.tsv").write_text("id\ttext\na\tant\nb\tbear\nc\tcat\n")
  log, titles, *_ = datasets.load(data_config(folder=folder))
  assert dict(zip(log.item_ids.tolist(), titles)) == {
    "a": "ant",
    "b": "bear",
    "c": "cat",
  }


def test_attributes_come_with_the_log(folder):
  (folder / "toys" / "item_attributes.json").write_text('{"c": [5], "a": ["x", 5]}')
  dataset = datasets.load(data_config(folder=folder, min_len=2, cold="attributes"))
  rows = dict(zip(dataset.log.item_ids.tolist(), map(set, dataset.attributes)))
  assert rows["c"] < rows["a"] == {0, 1}
  assert rows["b"] == set()


def test_attributes_that_no_run_reads_stop_none(folder):
  (folder / "toys" / "item_attributes.json").write_text("no JSON")
  assert datasets.load(data_config(folder=folder)).attributes is None


def test_min_len(folder):
  kept = datasets.load(data_config(folder=folder, min_len=2)).log
  assert raw_rows(kept) == {"u1": list("abc"), "u3": ["c", "a"]}
  assert datasets.load(data_config(folder=folder, min_len=3)).log.num_users == 1
  with pytest.raises(UserError, match=r"no user of toys has 4 .*min_len"):
    datasets.load(data_config(folder=folder, min_len=4))


def test_the_demo_needs_no_data(monkeypatch):
  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  shop = dict(num_users=50, num_items=80, num_categories=5, num_shelves=15)
  log, titles, tastes, attributes, texts = datasets.load(data_config("demo", **shop))
  assert (log.num_users, log.num_items, len(titles)) == (50, 80, 80)
  assert tastes.taste_CI.shape[1] == len(attributes) == 80
  assert texts == titles
  mean = len(log.item_E) / 50
  assert datasets.describe(log).startswith("50 users, 80 items, ")
  assert datasets.describe(log).endswith(f"{mean:.2f} a user")


def test_the_source_of_a_log_is_told_by_what_is_read(folder):
  where, sha256 = datasets.source(data_config(folder=folder).data)
  assert where == folder / "toys"
  (folder / "toys" / "sequences.txt").write_text("u1 a b c\nu2 b\nu3 c b\n")
  assert datasets.source(data_config(folder=folder).data)[1] != sha256
  for content in ("{", "[]"):  # a manifest is read before the sequences
    (folder / "toys" / "manifest.json").write_text(content)
    assert datasets.source(data_config(folder=folder).data) is None
  assert datasets.source(data_config("none", folder=folder).data) is None
  assert datasets.source(data_config("demo").data) is None


def test_ratings_are_read_where_there_are_no_sequences(folder):
  shop = folder / "shop"
  shop.mkdir()
  (shop / "u.data").write_text(HEADER + RATED)
  (shop / "u.item").write_bytes("a|ä|\nc|See|".encode("latin-1"))
  log, titles, tastes, attributes, texts = datasets.load(
    data_config("shop", folder=folder, min_len=2)
  )
  assert timed_rows(log) == {"u1": [(10, "b"), (20, "a"), (20, "A")]}
  assert sorted(zip(log.item_ids.tolist(), titles)) == [
    ("A", ""),
    ("a", "ä"),
    ("b", ""),
    ("c", "See"),
  ]
  assert tastes is attributes is None
  assert texts == titles
  (shop / "sequences.txt").write_text("u1 a b\n")
  log = datasets.load(data_config("shop", folder=folder)).log
  assert log.time_E is None
  assert raw_rows(log) == {"u1": ["a", "b"]}


def test_movielens_100k_is_the_published_log(data_dir):
  log, titles, *_ = datasets.load(data_config("ml-100k", folder=data_dir))
  assert (log.num_users, log.num_items, len(log.item_E)) == (943, 1_682, 100_000)
  assert log.length_U.min() == 20
  assert all(titles)
  assert "Misérables, Les (1995)" in titles
  rows = collections.defaultdict(list)
  for line in (data_dir / "ml-100k" / "u.data").read_text().splitlines()[1:]:
    user, item, _, time = line.split()
    rows[user].append((int(time), item))
  # Python's sort is stable: equal times stay as the lines have them.
  assert timed_rows(log) == {
    user: sorted(row, key=lambda rated: rated[0]) for user, row in rows.items()
  }


def test_toys_is_the_published_log(data_dir):
  config = data_config(folder=data_dir, cold="attributes")
  log, titles, _, attributes, _ = datasets.load(config)
  assert (log.num_users, log.num_items, len(log.item_E)) == (19_412, 11_924, 167_597)
  assert attributes is None or min(map(len, attributes)) >= 1
  assert log.length_U.min() == 5
  assert np.bincount(log.item_E).min() >= 5
  assert titles is None or sum(map(bool, titles)) > 11_000

  rows = collections.OrderedDict()
  for line in (data_dir / "toys" / "sequences.txt").read_text().splitlines():
    user, *items = line.split()
    rows[user] = items
  assert raw_rows(log) == rows
  test = splits.leave_one_out(log).test
  wanted = {user: (items[:-1], items[-1]) for user, items in rows.items()}
  assert question(test, log) == wanted
