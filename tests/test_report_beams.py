"""The report's table of beams: widths beside exact, differences user by user."""

import json
import re

from etils import epath
import numpy as np
import pytest
from report_pages import ask_again, change, make_run, written

from lightlm_jax.evaluation import uncertainty, users
from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.reporting import report


def page_of(run, *others):
  return written(report.report(run, others))


def test_widths_stand_beside_exact_with_paired_intervals(shop):
  run = shop / "one"
  answers = {
    "5": ask_again(run, 1, beam_size=5, width=5),
    "50": ask_again(run, 2, beam_size=50, width=50),
    "exact": ask_again(run, 3, decoding="exact"),
    "20": json.loads((run / "results.json").read_text()),
  }
  page = page_of(run)
  said = page.said("beams")
  assert said.startswith("Beam search and exact search Test, 60 users Seen excluded")
  for rule, text in zip(RULES, said.split("Seen allowed")):
    rows = re.findall(r"(?:^| )(\d+|exact) (0\.\d{4}) (0\.\d{4}) ", text)
    assert [name for name, *_ in rows] == ["5", "20", "50", "exact"]
    ndcg = {}
    for name, found in answers.items():
      suffix = {"20": "beam", "exact": "exact"}.get(name, f"beam-{name}")
      table, _ = users.read(epath.Path(run / f"users-test-{suffix}.parquet"))
      rank_N = table[f"{rule}_rank"].to_numpy()
      gain_N = 1 / np.log2(1 + np.maximum(rank_N, 1))
      ndcg[name] = np.where((rank_N > 0) & (rank_N <= 10), gain_N, 0)
      metrics = found["metrics"][rule]
      assert f"{name} {metrics['hr@10']:.4f} {ndcg[name].mean():.4f} " in text
    for name in ("5", "20", "50"):
      difference_N = ndcg[name] - ndcg["exact"]
      low, high = uncertainty.interval(difference_N)
      assert f"{difference_N.mean():+.4f} {low:+.4f} … {high:+.4f} 8,765" in text
  assert "metrics at 10 are those of the shorter list" in said
  bold = [attrs for tag, attrs in page.tags if tag == "tr" and attrs]
  assert sum(attrs.get("class") == "run" for attrs in bold) == 4  # its own, two tables


def test_the_latest_answer_of_a_width_stands_for_it(shop):
  ask_again(shop / "one", 3, decoding="exact")
  again = ask_again(shop / "one", 4)
  said = page_of(shop / "one").said("beams")
  mean = again["metrics"]["seen_excluded"]["ndcg@10"]
  assert re.findall(r" (\d+) 0\.\d{4} (0\.\d{4}) ", said)[0] == ("20", f"{mean:.4f}")
  assert "shorter list" not in said


def test_users_of_one_number_stand_together(shop):
  run = shop / "one"
  ask_again(run, 3, decoding="exact", asked=40)
  assert "beams" not in page_of(run).ids
  ask_again(run, 4, asked=40, beam_size=10, width=10)
  said = page_of(run).said("beams")
  assert "Test, 40 users" in said
  assert "60 users" not in said
  ask_again(run, 5, decoding="exact")
  assert "Test, 60 users" in page_of(run).said("beams")


@pytest.mark.parametrize(
  ("field", "value"), [("best_step", 10), ("split_sha256", "0" * 64)]
)
def test_answers_of_other_parameters_or_another_log_are_not_set_together(
  shop, field, value
):
  ask_again(shop / "one", 3, decoding="exact")
  assert "beams" in page_of(shop / "one").ids
  change(shop / "one/results-test-exact.json", **{field: value})
  assert "beams" not in page_of(shop / "one").ids


def test_without_a_table_of_users_the_difference_has_no_interval(shop):
  ask_again(shop / "one", 3, decoding="exact")
  ask_again(shop / "one", 4, beam_size=50, width=50)
  (shop / "one/users-test-beam-50.parquet").unlink()
  said = page_of(shop / "one").said("beams")
  assert "one has no table of users of beam of 50" in said
  workdir = f"--workdir={shop / 'one'}"
  assert f"evaluate {workdir} --decoding=beam --beam_size=50 Test," in said
  excluded = said.split("Seen excluded")[1].split("Seen allowed")[0]
  rows = dict(re.findall(r" (20|50) 0\.\d{4} 0\.\d{4} (.*?) 8,765", excluded))
  assert "…" in rows["20"]
  assert re.fullmatch(r"[+-]0\.\d{4}", rows["50"])


def test_every_run_has_its_own_tables(shop):
  make_run(shop / "two", shop / "data", seed=1)
  ask_again(shop / "one", 3, decoding="exact")
  assert "one: test, 60 users" in page_of(shop / "one", shop / "two").said("beams")
  ask_again(shop / "two", 4, decoding="exact")
  said = page_of(shop / "one", shop / "two").said("beams")
  assert said.index("one: test, 60 users") < said.index("two: test, 60 users")
