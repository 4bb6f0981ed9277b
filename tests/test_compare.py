"""Tables of users, written and read, and runs beside each other."""

import functools
import json

import commands
from etils import epath
import numpy as np
import pyarrow
import pytest
from small_logs import make_log

from lightlm_jax.data import splits
from lightlm_jax.evaluation import compare, metrics, users
from lightlm_jax.evaluation.evaluator import RULES, Ranks
from lightlm_jax.runtime.errors import UserError

ABOUT = {
  "dataset": "shop",
  "protocol": "leave_one_out",
  "split": "test",
  "split_sha256": "1" * 64,
}
ROWS = [[0, 1, 2, 0], [3, 4, 5], [1, 1, 6, 7], [2, 8, 9], [0, 4]]


def make_table(rank_N, ties_N=None, **about):
  """A table of the four users of ROWS that are asked, by the ranks of both rules."""
  split = splits.leave_one_out(make_log(ROWS, 10))
  rank_N = np.array(rank_N, np.int32)
  ties_N = np.zeros_like(rank_N) if ties_N is None else np.array(ties_N, np.int32)
  items_NK = np.array([[n, -1, 5] + [-1] * 17 for n in range(len(rank_N))], np.int32)
  ranks = {rule: Ranks(rank_N + n, ties_N, items_NK) for n, rule in enumerate(RULES)}
  return users.table(split.test, ranks, split.train, ABOUT | about)


def test_a_table_holds_what_was_asked_and_found(tmp_path):
  table = make_table([1, 2, 0, 4], [0, 3, 0, 0])
  users.write(epath.Path(tmp_path / "users.parquet"), table)
  read, about = users.read(epath.Path(tmp_path / "users.parquet"))
  assert about == ABOUT
  assert read.to_pydict() == {
    "user": ["u0", "u1", "u2", "u3"],
    "target": ["i0", "i5", "i7", "i9"],
    "history_length": [3, 2, 3, 2],
    "target_bought": [2, 0, 0, 0],
    "target_seen": [True, False, False, False],
    "seen_excluded_rank": [1, 2, 0, 4],
    "seen_excluded_ties": [0, 3, 0, 0],
    "seen_excluded_items": [["i0", "i5"], ["i1", "i5"], ["i2", "i5"], ["i3", "i5"]],
    "seen_allowed_rank": [2, 3, 1, 5],
    "seen_allowed_ties": [0, 3, 0, 0],
    "seen_allowed_items": [["i0", "i5"], ["i1", "i5"], ["i2", "i5"], ["i3", "i5"]],
  }


def test_rows_stand_in_the_order_of_raw_users():
  split = splits.leave_one_out(make_log(ROWS, 10))
  requests = split.test.take(np.array([2, 0, 3]))
  found = Ranks(np.int32([7, 8, 9]), np.int32([1, 2, 3]), np.full((3, 2), 4))
  table = users.table(requests, {"seen_allowed": found}, split.train, ABOUT)
  assert table["user"].to_pylist() == ["u0", "u2", "u3"]
  assert table["seen_allowed_rank"].to_pylist() == [8, 7, 9]
  assert table["seen_allowed_ties"].to_pylist() == [2, 1, 3]


def test_what_is_no_table_of_users_is_one_line(tmp_path):
  path = epath.Path(tmp_path / "users.parquet")
  with pytest.raises(UserError, match=r"does not exist; .* --workdir="):
    users.read(path)
  path.write_text("no parquet")
  with pytest.raises(UserError, match="is no table of users"):
    users.read(path)
  users.write(path, pyarrow.table({"user": ["a"]}))
  with pytest.raises(UserError, match="is no table of users"):
    users.read(path)


def changed(name, values):
  """A change of a table: another column `name`; no column for None."""

  def change(table):
    index = table.column_names.index(name)
    if values is None:
      return table.remove_column(index)
    return table.set_column(index, name, pyarrow.array(values))

  return change


def about_is(text):
  return lambda table: table.replace_schema_metadata({"lightlm_jax": text})


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (changed("target", None), "target"),
    (changed("seen_allowed_ties", None), "seen_allowed_ties"),
    (changed("seen_excluded_rank", ["x"] * 4), "Failed to parse string"),
    (changed("seen_excluded_rank", [1.0, 2.0, None, 4.0]), "_rank lacks values"),
    (changed("seen_excluded_rank", [1, 2, -1, 4]), "_rank has negative numbers"),
    (changed("seen_excluded_rank", [1, 2, 2**62, 4]), "not in range"),
    (changed("history_length", [[1]] * 4), "cast"),
    (changed("seen_allowed_items", [None, ["a"], ["a"], ["a"]]), "_items lacks values"),
    (changed("seen_allowed_items", [["a", None]] * 4), "_items lacks values"),
    (changed("seen_allowed_items", ["a"] * 4), "cast"),
    (lambda table: table.slice(0, 0), "it has no users"),
    (lambda table: table.append_column("user", table["user"]), "user"),
    (about_is("[1]"), "its metadata is .*, not an object"),
    (about_is('{"split": [1]}'), "its metadata.split is .*, not a text"),
    (lambda table: table.replace_schema_metadata(None), "lightlm_jax"),
  ],
)
def test_a_table_of_another_shape_is_one_line(tmp_path, change, message):
  path = epath.Path(tmp_path / "users.parquet")
  users.write(path, change(make_table([1, 2, 0, 4])))
  with pytest.raises(UserError, match=rf"users.parquet is no table .*{message}"):
    users.read(path)


def test_a_table_with_other_widths_and_columns_is_read(tmp_path):
  path = epath.Path(tmp_path / "users.parquet")
  table = make_table([1, 2, 0, 4])
  wide = changed("seen_allowed_rank", [2, 3, 1, 5])(table)  # int64
  users.write(path, wide.append_column("note", pyarrow.array(["x"] * 4)))
  assert users.read(path)[0].equals(table.cast(users.SCHEMA))


def many(seed, better=0.0, number=400):
  rng = np.random.default_rng(seed)
  rank_N = rng.integers(0, 30, number)
  return np.where(rng.random(number) < better, 1, rank_N).astype(np.int32)


def wide_table(rank_N, **about):
  rows = [[0, 1, n % 10] for n in range(len(rank_N))]
  split = splits.leave_one_out(make_log(rows, 10))
  zero_N = np.zeros_like(rank_N)
  none_NK = np.full((len(rank_N), 1), -1)
  ranks = {rule: Ranks(rank_N, zero_N, none_NK) for rule in RULES}
  return users.table(split.test, ranks, split.train, ABOUT | about), ABOUT | about


def test_runs_are_compared_user_by_user():
  ranks = {"a": many(0), "b": many(1), "same": many(0), "good": many(0, better=0.3)}
  report = compare.compare({name: wide_table(rank_N) for name, rank_N in ranks.items()})
  for rule in RULES:
    runs = report["runs"][rule]
    order = np.argsort([f"u{n}" for n in range(400)], kind="stable")
    for name, rank_N in ranks.items():
      ndcg_N = metrics.ndcg(rank_N[order], k=10)
      found = runs[name]["ndcg@10"]
      assert found["mean"] == pytest.approx(ndcg_N.mean(), abs=1e-15)
      low, high = found["interval"]
      assert low < found["mean"] < high
      assert list(runs[name]) == ["hr@5", "ndcg@5", "hr@10", "ndcg@10"]
    pairs = {tuple(pair["runs"]): pair for pair in report["pairs"][rule]}
    assert len(pairs) == 6
    assert pairs["a", "same"]["p"] == pairs["a", "same"]["p_holm"] == 1
    assert pairs["a", "same"]["difference"] == 0
    assert pairs["a", "good"]["p"] < 1e-3
    assert pairs["a", "good"]["difference"] < 0
    assert pairs["a", "good"]["interval"][1] < 0
    assert pairs["a", "b"]["p"] > 0.05
    for pair in pairs.values():
      assert pair["p"] <= pair["p_holm"] <= min(1, 6 * pair["p"])
  lines = list(compare.lines(report))
  assert any(line.startswith("  NDCG@10 of a less good: -0.") for line in lines)
  assert all("\n" not in line for line in lines)


@pytest.mark.parametrize("field", ["dataset", "protocol", "split", "split_sha256"])
def test_runs_that_were_asked_other_questions_are_refused(field):
  tables = {"a": wide_table(many(0)), "b": wide_table(many(1), **{field: "other"})}
  with pytest.raises(UserError, match=f"a and b cannot be compared: their {field} is"):
    compare.compare(tables)


def test_runs_that_asked_other_users_are_refused():
  tables = {"a": wide_table(many(0)), "b": wide_table(many(1, number=399))}
  with pytest.raises(UserError, match="400 and 399 users were asked"):
    compare.compare(tables)


command = functools.partial(commands.run, "lightlm_jax.evaluate")


def test_the_command_compares_what_runs_left(demo_run, tmp_path):
  run = demo_run[0]
  other = tmp_path / "other"
  other.mkdir()
  for path in run.glob("*.*"):
    (other / path.name).write_bytes(path.read_bytes())
  report = tmp_path / "report.json"
  done = command(f"--workdir={run}", "--compare", str(other), f"--report={report}")
  assert done.returncode == 0, done.stderr
  assert "demo: test, 300 users, 2 runs" in done.stdout
  found = json.loads(report.read_text())
  trained = json.loads((run / "results.json").read_text())
  for rule in RULES:
    for name in ("demo", "other"):
      mean = found["runs"][rule][name]["ndcg@10"]["mean"]
      assert mean == pytest.approx(trained["metrics"][rule]["ndcg@10"], abs=1e-12)
    (pair,) = found["pairs"][rule]
    assert (pair["runs"], pair["p"]) == (["demo", "other"], 1.0)

  third = command(f"--workdir={run}", "--compare", str(other), str(tmp_path / "no"))
  assert third.returncode == 2
  assert "no/config.json does not exist" in third.stderr.replace("\n", "")
  twice = command(f"--workdir={run}", f"--compare={run}")
  assert (twice.returncode, len(twice.stderr.splitlines())) == (2, 1)
  stray = command(f"--workdir={run}", "stray")
  assert stray.returncode == 2
  assert "'stray' is not a flag" in stray.stderr
