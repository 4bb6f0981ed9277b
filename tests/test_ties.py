"""Rows of equal times: their order says nothing, and the audit finds one that does."""

import collections
import dataclasses
import itertools
import json

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import plain_prepare as plain
import pytest
from raw_logs import raw_rows, same
from small_logs import make_log

from lightlm_jax import config as config_lib
from lightlm_jax.data import interactions, parquet_logs, splits
from lightlm_jax.evaluation import ties
from lightlm_jax.preprocess import pipeline
from lightlm_jax.runs import audit

START = 1_500_000_000


def prepare(rows, folder, **options):
  """What `prepare` leaves of rows (user, item, time), and its manifest."""
  folder.mkdir(parents=True, exist_ok=True)
  lines = ["user,item,time", *(",".join(map(str, row)) for row in rows)]
  (folder / "log.csv").write_text("\n".join(lines))
  given = pipeline.Options(
    str(folder / "log.csv"), str(folder / "shop"), time_unit="s", **options
  )
  manifest = pipeline.prepare(given)
  return parquet_logs.read_prepared(folder / "shop").log, manifest


def random_ties(num_rows=300):
  """Few users, items and times: users have some items twice, also at one time."""
  number_N3 = np.random.default_rng(0).integers([9, 12, 3], size=(num_rows, 3))
  return [(f"u{user}", f"i{item}", int(time)) for user, item, time in number_N3]


@pytest.mark.parametrize(
  "options",
  [{}, {"duplicates": "first"}, {"duplicates": "last", "max_len": 4}, {"max_len": 2}],
  ids=str,
)
def test_the_order_is_that_of_plain_python_whatever_the_order_of_the_rows(
  tmp_path, options
):
  rows = random_ties()
  good = [(user, item, time * 10**6, n) for n, (user, item, time) in enumerate(rows)]
  wanted, _ = plain.settled(good, **options)
  by_file, _ = plain.settled(good, ties="file", **options)
  assert wanted != by_file
  rng = np.random.default_rng(1)
  for n, part_bytes in enumerate((64, 1_000, 2**20)):
    log, _ = prepare(rows, tmp_path / f"{n}", part_bytes=part_bytes, **options)
    assert same(log, plain.log_of(wanted))
    rows = [rows[place] for place in rng.permutation(len(rows))]


def test_every_order_of_tied_items_is_as_frequent(tmp_path):
  users, items = [f"u{n}" for n in range(3_000)], ("1", "2", "3")
  log, _ = prepare(itertools.product(users, items, [5]), tmp_path)
  orders = collections.Counter(map(tuple, raw_rows(log).values()))
  assert len(orders) == 6
  # The standard deviation of each count is 20.
  assert all(abs(count - 500) < 80 for count in orders.values()), orders


def test_tied_rows_are_counted_among_the_rows_kept(tmp_path, logged):
  """The core drops the items that were bought once: `x` and `y`, tied to others."""
  rows = [(user, item, n) for user in "uvw" for n, item in enumerate("abcd")]
  rows += [("u", "x", 0), ("v", "y", 1), ("w", "a", 3), ("w", "b", 9)]
  _, manifest = prepare(rows, tmp_path, k_core=2)
  assert (manifest["tied_rows"], manifest["tied_users"], manifest["rows"]) == (2, 1, 14)
  assert manifest["options"]["ties"] == "hash"
  assert json.loads((tmp_path / "shop/manifest.json").read_text())["tied_rows"] == 2
  (line,) = [line for line in logged if "2 rows of 1 users (14.3 % of the" in line]
  assert line.endswith("the order of a hash of user and item (--ties=hash)")


@pytest.mark.parametrize("how", ["hash", "file"])
@pytest.mark.parametrize("batches", [3, 15])
def test_a_tenth_of_tied_rows_is_warned_of(tmp_path, monkeypatch, batches, how):
  warned = []
  monkeypatch.setattr(pipeline.logger, "warning", warned.append)
  # Of 40 rows, 6 or 30 have the time of another one: 15 or 75 %. Two are a twentieth.
  rows = [("u", f"i{n}", n if n >= 2 * batches else n // 2) for n in range(40)]
  _, manifest = prepare(rows, tmp_path / "many", ties=how)
  prepare([("u", f"i{n}", max(n, 1)) for n in range(40)], tmp_path / "few", ties=how)
  assert manifest["tied_rows"] == 2 * batches
  (line,) = warned
  assert line.startswith(f"{5 * batches} % of the rows have the time of")
  assert "--config.split.kind=temporal" in line


@given(st.lists(st.lists(st.integers(0, 4), max_size=6).map(sorted), max_size=6))
def test_tied_entries_are_those_of_brute_force(rows):
  offset_U1 = np.cumsum([0, *map(len, rows)])
  time_E = np.array([time for row in rows for time in row], np.int64)
  wanted = [row.count(time) > 1 for row in rows for time in row]
  assert interactions.tied(offset_U1, time_E).tolist() == wanted


def test_within_a_second_microseconds_tell_what_is_tied(tmp_path):
  rows = [("u", f"i{n}", f"5.{n // 2}") for n in range(6)] + [("v", "a", "7.25")]
  assert prepare(rows, tmp_path)[1]["tied_rows"] == 6
  rows = [("u", f"i{n}", f"5.{n}") for n in range(6)] + [("v", "a", "7.25")]
  log, manifest = prepare(rows, tmp_path / "other")
  assert manifest["tied_rows"] == 0
  assert sorted(log.moment_E) == [5_000_000 + 100_000 * n for n in range(6)] + [
    7_250_000
  ]
  dataset = interactions.Dataset(log, None, None, None, None)
  parquet_logs.write_snapshot(dataset, epath.Path(tmp_path / "copy"))
  assert same(parquet_logs.read_snapshot(epath.Path(tmp_path / "copy")).log, log)
  kept = interactions.keep_rows(log, log.user_ids == "u")
  assert kept.moment_E.tolist() == [5_000_000 + 100_000 * n for n in range(6)]
  without = interactions.without_items(kept, kept.item_ids == "i2")
  assert without.moment_E.tolist() == [5_000_000 + 100_000 * n for n in (0, 1, 3, 4, 5)]


def films_in_batches(num_users=200, num_films=60):
  """Films at random, five of equal times a day, sorted by user and film."""
  rng = np.random.default_rng(0)
  rows = []
  for user in range(num_users):
    for n, film in enumerate(rng.permutation(num_films)[:20].tolist()):
      rows.append((user, film, START + n // 5 * 86_400))
  return sorted(rows)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
  """(order of the file, --ties) → the folder of a log of films, and the log."""
  folder = tmp_path_factory.mktemp("films")
  by_film = films_in_batches()
  order = np.random.default_rng(1).permutation(len(by_film))
  files = {"by film": by_film, "shuffled": [by_film[n] for n in order]}
  return {
    (name, how): (place := folder / f"{name}-{how}", prepare(rows, place, ties=how)[0])
    for name, rows in files.items()
    for how in ("file", "hash")
  }


def test_what_the_order_of_the_file_predicts_is_found_and_nothing_else(logs):
  found = {
    key: ties.tie_test(log, splits.leave_one_out) for key, (_, log) in logs.items()
  }
  assert {key for key, test in found.items() if test.failure} == {("by film", "file")}
  test = found["by film", "file"]
  assert test.share == 1
  assert test.ndcg_as_is > 2 * max(test.ndcg_rebroken)
  assert "in other orders" in test.failure
  assert "--ties=hash" in test.failure
  assert same(logs["by film", "hash"][1], logs["shuffled", "hash"][1])
  log = logs["by film", "file"][1]
  untied = dataclasses.replace(log, time_E=np.arange(len(log.item_E)))
  test = ties.tie_test(untied, splits.leave_one_out)
  assert (test.share, test.failure) == (0, None)
  assert set(test.ndcg_rebroken) == {test.ndcg_as_is}


@pytest.mark.parametrize("how", ["file", "hash"])
def test_the_audit_names_the_order_of_ties(logs, how):
  folder, _ = logs["by film", how]
  fields = {"data.dir": str(folder), "data.name": "shop"}
  found = audit.audit(config_lib.load("toys:tiny", overrides=fields))
  assert found["ties"].keys() == {"share", "ndcg_as_is", "ndcg_rebroken"}
  assert found["passed"] == (how == "hash")
  lines = [line for line in found["failures"] if "rows with equal times" in line]
  assert lines == found["failures"]
  assert len(lines) == (how == "file")


def test_a_log_without_times_has_no_ties():
  assert ties.tie_test(make_log([[0, 1, 2]], 3), splits.leave_one_out) is None


@pytest.mark.parametrize("num_items", [12, 40])
def test_ranks_by_what_follows_are_those_of_brute_force(num_items, monkeypatch):
  monkeypatch.setattr(ties, "CHUNK", 7)
  rng = np.random.default_rng(0)
  log = make_log(
    [rng.integers(num_items, size=rng.integers(3, 12)) for _ in range(60)], num_items
  )
  split = splits.leave_one_out(log)
  rank_N, ties_N = ties.follower_ranks(split.train, split.validation)
  rows = [split.train.row(user).tolist() for user in range(log.num_users)]
  follows = collections.Counter(
    pair for row in rows for pair in itertools.pairwise(row)
  )
  occurs = collections.Counter(item for row in rows for item in row)
  for n, target in enumerate(split.validation.target_N.tolist()):
    last = split.validation.row(n)[-1]
    key_I = [(follows[last, item], occurs[item]) for item in range(num_items)]
    assert rank_N[n] == 1 + sum(key > key_I[target] for key in key_I)
    assert ties_N[n] == key_I.count(key_I[target]) - 1
  assert len(set(rank_N.tolist())) > 3
  assert ties_N.max() > 0
