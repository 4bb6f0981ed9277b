"""Ranking metrics against hand computation, ir_measures, scikit-learn and chance."""

import json
import pathlib

import numpy as np
import pytest

from lightlm_jax.evaluation import metrics

GOLDEN = json.loads(
  pathlib.Path(__file__)
  .with_name("golden")
  .joinpath("ranking_metrics.json")
  .read_text()
)
ONE_TARGET = [name for name, case in GOLDEN["cases"].items() if len(case["rel"]) == 1]


@pytest.mark.parametrize("name", ONE_TARGET)
def test_golden_cases(name):
  case = GOLDEN["cases"][name]
  (target,) = case["rel"]
  rank = case["run"].index(target) + 1 if target in case["run"] else 0
  summary = metrics.summarise(np.array([rank]))
  for key in ("ndcg@10", "hr@10", "mrr@10"):
    assert summary[key] == pytest.approx(case[key], abs=1e-6)


def test_a_constant_scorer_gets_exactly_what_guessing_gets():
  case = GOLDEN["ties"]
  summary = metrics.summarise(np.array([1]), np.array([case["items"] - 1]))
  assert summary["hr@10"] == case["expected_hr@10"] == 0.5
  assert summary["hr@20"] == 1.0
  assert summary["ndcg@10"] == pytest.approx(case["expected_ndcg@10"], abs=1e-5)
  gain = 1 / np.log2(np.arange(2, 12))
  assert summary["ndcg@10"] == pytest.approx(gain.sum() / 20, abs=1e-15)
  assert summary["mrr@10"] == pytest.approx(
    (1 / np.arange(1, 11)).sum() / 20, abs=1e-15
  )


def test_edges_of_the_list_and_misses():
  rank_N = np.array([0, 1, 5, 6, 10, 11, 20, 21], dtype=np.int32)
  assert metrics.hit_rate(rank_N, k=5).tolist() == [0, 1, 1, 0, 0, 0, 0, 0]
  assert metrics.hit_rate(rank_N, k=20).tolist() == [0, 1, 1, 1, 1, 1, 1, 0]
  assert metrics.ndcg(rank_N, k=10)[4] == 1 / np.log2(11)
  assert metrics.reciprocal_rank(rank_N, k=10).tolist() == [
    0, 1, 1 / 5, 1 / 6, 1 / 10, 0, 0, 0
  ]  # fmt: skip
  summary = metrics.summarise(rank_N)
  assert list(summary) == [
    "hr@5", "hr@10", "hr@20", "ndcg@5", "ndcg@10", "ndcg@20", "mrr@10"
  ]  # fmt: skip
  assert all(type(value) is float for value in summary.values())
  assert summary["hr@10"] == 4 / 8


def test_ties_equal_scikit_learn_and_the_mean_over_places():
  ndcg_score = pytest.importorskip("sklearn.metrics").ndcg_score
  rng = np.random.default_rng(0)
  for _ in range(100):
    scores_I = rng.integers(0, 4, size=rng.integers(2, 40)).astype(float)
    target = rng.integers(len(scores_I))
    rank = np.array([1 + (scores_I > scores_I[target]).sum()])
    ties = np.array([(scores_I == scores_I[target]).sum() - 1])
    relevant_I = np.arange(len(scores_I)) == target
    for k in (5, 10, 20):
      expected = ndcg_score([relevant_I], [scores_I], k=k)
      assert metrics.ndcg(rank, ties, k=k)[0] == pytest.approx(expected, abs=1e-12)
    places = rank[0] + np.arange(ties[0] + 1)
    for metric in (metrics.hit_rate, metrics.reciprocal_rank):
      mean = metric(places, k=10).mean()
      assert metric(rank, ties, k=10)[0] == pytest.approx(mean, abs=1e-12)


def test_random_lists_equal_ir_measures():
  ir_measures = pytest.importorskip("ir_measures")
  rng = np.random.default_rng(1)
  rank_N = rng.integers(0, 30, size=300)
  qrels = {f"q{n}": {"target": 1} for n in range(len(rank_N))}
  run = {}
  for n, rank in enumerate(rank_N):
    listed = [f"item{i}" for i in range(29)]
    if rank:
      listed.insert(rank - 1, "target")
    run[f"q{n}"] = {item: float(-place) for place, item in enumerate(listed)}
  ours = {f"nDCG@{k}": metrics.ndcg(rank_N, k=k) for k in (5, 10, 20)} | {
    f"Success@{k}": metrics.hit_rate(rank_N, k=k) for k in (5, 10, 20)
  }
  ours["RR@10"] = metrics.reciprocal_rank(rank_N, k=10)
  measures = [ir_measures.parse_measure(name) for name in ours]
  compared = 0
  for result in ir_measures.iter_calc(measures, qrels, run):
    value = ours[str(result.measure)][int(result.query_id[1:])]
    assert value == pytest.approx(result.value, abs=1e-12)
    compared += 1
  assert compared == len(ours) * len(rank_N)
