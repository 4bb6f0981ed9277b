"""The report on decodings by memory: the same users, dense and sparse targets."""

import re

import pytest
from report_pages import ask_again, change, make_run, written

from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.reporting import report


def page_of(run, *others):
  return written(report.report(run, others))


def bold(page):
  """Rows that are marked as the run's own way."""
  return sum(attrs.get("class") == "run" for tag, attrs in page.tags if tag == "tr")


def cells(results, rule):
  """What the row of an answer has to say."""
  metrics = results["metrics"][rule]
  targets = results["slices"][rule]["target"]
  means = [cut["mean"]["ndcg@10"] for cut in targets.values() if cut["users"]]
  values = metrics["hr@10"], metrics["ndcg@10"], *means
  return " ".join(f"{value:.4f}" for value in values) + " 8,765"


def test_a_memory_stands_beside_the_search_by_popularity_of_the_target(shop):
  run = shop / "one"
  before = page_of(run)
  assert "state_indexes" not in before.ids
  memory = {"beam_size": None, "width": "stateencoder"}
  answers = {
    "latent_global, state encoder": ask_again(
      run, 1, decoding="latent_global", **memory
    ),
    "latent_local": ask_again(run, 2, decoding="latent_local", beam_size=None),
  }
  page = page_of(run)
  said = page.said("state_indexes")
  first, second = said.split("Seen allowed")
  for rule, text in zip(RULES, (first, second)):
    for name, found in answers.items():
      assert f"{name} {cells(found, rule)}" in text
    assert re.search(r"beam of 20 0\.\d{4} ", text)
  cuts = answers["latent_local"]["slices"]["seen_excluded"]["target"]
  for name, cut in cuts.items():
    assert (f"{name} {cut['users']} users" in said) == (cut["users"] > 0)
  assert bold(page) - bold(before) == len(RULES)


@pytest.mark.parametrize(
  ("field", "value"), [("best_step", 10), ("split_sha256", "0" * 64), ("num_users", 9)]
)
def test_answers_to_another_question_are_not_set_beside(shop, field, value):
  ask_again(shop / "one", 1, decoding="latent_local", beam_size=None)
  assert "state_indexes" in page_of(shop / "one").ids
  change(shop / "one/results-test-latent_local.json", **{field: value})
  assert "state_indexes" not in page_of(shop / "one").ids


def test_every_run_has_its_own_table(shop):
  make_run(shop / "two", shop / "data", seed=1)
  for name in ("one", "two"):
    ask_again(shop / name, 3, decoding="latent_global", beam_size=None)
  said = page_of(shop / "one", shop / "two").said("state_indexes")
  assert said.index("one: test, 60 users") < said.index("two: test, 60 users")
