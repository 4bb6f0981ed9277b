"""The commands `index` and `audit`, and the figures they print, against counting."""

import json
import sys

import commands
from conftest import ROOT
import numpy as np
import pyarrow.parquet
import pytest
from small_logs import make_log

from lightlm_jax import config as config_lib
from lightlm_jax.data import splits
from lightlm_jax.evaluation import leaks as audit_lib
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import codes, quality
from lightlm_jax.reporting import ids_figure
from lightlm_jax.runs import audit
from lightlm_jax.runtime.errors import UserError


def run(module, *arguments, cwd=ROOT):
  return commands.run(f"lightlm_jax.{module}", *arguments, cwd=cwd)


def test_index_reports_exports_and_draws(tmp_path):
  done = run(
    "index",
    "--config=demo:tiny",
    f"--report={tmp_path / 'report.json'}",
    f"--export={tmp_path / 'ids.parquet'}",
    f"--figure={tmp_path / 'ids.png'}",
  )
  assert done.returncode == 0, done.stderr
  assert (tmp_path / "ids.png").read_bytes().startswith(b"\x89PNG")
  report = json.loads((tmp_path / "report.json").read_text())
  assert report["collisions"] == 0
  assert report["num_items"] == sum(report["length"].values()) == 80
  assert report["sha256"][:16] in done.stdout
  for name, number in (("ids", 80), ("ids.users", 300)):
    table = pyarrow.parquet.read_table(tmp_path / f"{name}.parquet").to_pydict()
    assert len(set(table["id"])) == len(set(map(tuple, table["tokens"]))) == number


def test_a_figure_without_matplotlib_is_one_line(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, "matplotlib", None)
  with pytest.raises(UserError, match="need matplotlib: pip install"):
    ids_figure.draw({}, None, tmp_path / "ids.png")
  assert not list(tmp_path.iterdir())


def test_index_warns_of_numbers_in_the_order_of_time():
  done = run("index", "--config=demo:tiny", "--config.ids.kind=sid")
  assert done.returncode == 0, done.stderr
  assert "warning: sid gives neighbours in time" in done.stdout


def test_audit_finds_nothing_in_the_demo_and_says_what_it_tried(tmp_path):
  done = run("audit", "--config=demo:tiny", f"--report={tmp_path / 'audit.json'}")
  assert done.returncode == 0, done.stdout + done.stderr
  assert "nothing found" in done.stdout
  found = json.loads((tmp_path / "audit.json").read_text())
  assert found["passed"]
  assert found["held_out_edges"] == 0


def test_every_trial_of_the_audit_builds_its_ids(monkeypatch):
  """A kept book would answer for one that reads what it should not."""
  built, build = [], ids_build._build
  monkeypatch.setattr(
    ids_build, "_build", lambda *args: built.append(args) or build(*args)
  )
  config = config_lib.load("demo", "tiny", {"ids.kind": "rid"})
  audit.audit(config)
  assert len(built) == 3 + len(audit_lib.NOISE_SEEDS)


ROWS = [[0, 1, 2, 3], [1, 0, 2], [4, 4], [], [5, 2, 0, 1]]
ITEMS = [(0, 5), (0, 6), (0, 7), (1, 2, 8), (1, 3), (9,)]
USERS = [(0, 1, 10), (0, 10), (1, 2), (9,), (2, 3)]


def test_report_counts():
  split = splits.leave_one_out(make_log(ROWS, num_items=6))
  tables = map(codes.stack_codes, (ITEMS, USERS))
  report = quality.report(codes.code_book(*tables, {}), split, seed=0)
  assert report["length"] == {"1": 1, "2": 4, "3": 1}
  assert report["collisions"] == 0
  assert report["largest_leaf"] == 3
  assert report["tokens_per_level"] == [3, 5, 1]
  shares = np.array([3, 2, 1]) / 6
  assert report["entropy_per_level"][0] == pytest.approx(-(shares @ np.log2(shares)))
  assert report["cluster_sizes"][0][-1] == 3
  assert report["cluster_sizes"][1] == [1, 1, 1, 1]
  # Training: user 0 has 0, 1; user 1 has 1; user 2 has 4, 4; user 4 has 5, 2.
  by_hand = [[1, 1, 1, 1, 1, 0, 0], [0] * 7, [0] * 7]
  pairs = [(0, 0), (0, 1), (1, 1), (2, 4), (2, 4), (4, 5), (4, 2)]
  for level in range(3):
    equal = [ITEMS[i][: level + 1] == USERS[u][: level + 1] for u, i in pairs]
    long = [min(len(ITEMS[i]), len(USERS[u])) > level for u, i in pairs]
    assert [e and n for e, n in zip(equal, long)] == [bool(x) for x in by_hand[level]]
    assert report["agreement"]["training"][level] == pytest.approx(
      np.mean(by_hand[level])
    )


def test_nearest_neighbours_equal_brute_force():
  rng = np.random.default_rng(0)
  rows = [rng.integers(12, size=rng.integers(0, 6)).tolist() for _ in range(30)]
  log = make_log(rows, num_items=14)  # two of them bought by nobody
  asked_A = np.array([3, 13, 0, 7, 11, 4])
  nearest_I = quality.nearest_neighbours(log, np.arange(14))
  np.testing.assert_array_equal(
    quality.nearest_neighbours(log, asked_A), nearest_I[asked_A]
  )
  buyers = [{u for u, row in enumerate(rows) if i in row} for i in range(14)]
  bought = [len(users) for users in buyers]
  for item in range(14):
    cosine = [
      len(buyers[item] & buyers[other]) / np.sqrt(max(bought[item] * bought[other], 1))
      if other != item
      else 0
      for other in range(14)
    ]
    best = max(cosine)
    wanted = cosine.index(best) if best > 0 else -1
    assert nearest_I[item] == wanted


def test_codes_that_ended_agree_no_further():
  a, b = (
    codes.stack_codes([(1, 2), (1,), (3, 4)]),
    codes.stack_codes([(1, 2), (1,), (4, 4)]),
  )
  assert quality.agreement(a, b) == pytest.approx([2 / 3, 1 / 3])
