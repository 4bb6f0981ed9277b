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
# The file has these too, and no metric here computes them.
NOT_OURS = {"rel", "run", "map@10"}
CUTS = (1, 5, 10, 20)


@pytest.mark.parametrize("name", GOLDEN["cases"])
def test_golden_cases(name):
  case = GOLDEN["cases"][name]
  rank_T = places(case["rel"], case["run"])
  summaries = [metrics.summarise(np.array([rank_T]))]
  if len(rank_T) == 1:
    summaries.append(metrics.summarise(np.array(rank_T)))
  compared = set(case) - NOT_OURS
  assert "ndcg@10" in compared
  for summary in summaries:
    for key in compared:
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
  # A miss is one whatever is level with it.
  assert not metrics.hit_rate(np.zeros(3, int), np.array([0, 1, 50]), k=10).any()
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


def test_one_target_is_the_case_of_one_column_bit_for_bit():
  rng = np.random.default_rng(1)
  rank_N = rng.integers(0, 30, size=500, dtype=np.int32)
  for k in CUTS:
    for metric in (metrics.hit_rate, metrics.ndcg, metrics.reciprocal_rank):
      assert np.array_equal(metric(rank_N, k=k), metric(rank_N[:, None], k=k))
    ties_N = rng.integers(0, 9, size=500, dtype=np.int32)
    for ties in (None, ties_N):
      hit_N = metrics.hit_rate(rank_N, ties, k=k)
      assert np.array_equal(metrics.recall(rank_N, ties, k=k), hit_N)


def test_many_targets_by_hand():
  rank_NT = np.array([[9, 0, 2, -1], [1, 2, 3, 4], [0, -1, -1, -1], [0, 30, 21, 6]])
  gain = 1 / np.log2(np.arange(2, 22))
  assert metrics.hit_rate(rank_NT, k=5).tolist() == [1, 1, 0, 0]
  assert metrics.recall(rank_NT, k=5).tolist() == [1 / 3, 1, 0, 0]
  assert metrics.recall(rank_NT, k=2).tolist() == [1 / 3, 1 / 2, 0, 0]
  assert metrics.recall(rank_NT, k=10).tolist() == [2 / 3, 1, 0, 1 / 4]
  assert metrics.reciprocal_rank(rank_NT, k=10).tolist() == [1 / 2, 1, 0, 1 / 6]
  assert metrics.reciprocal_rank(rank_NT, k=5).tolist() == [1 / 2, 1, 0, 0]
  expected = [(gain[8] + gain[1]) / gain[:3].sum(), 1, 0, gain[5] / gain[:4].sum()]
  assert metrics.ndcg(rank_NT, k=10) == pytest.approx(expected, abs=1e-15)
  # The ideal list is cut too: two of four targets in two places are all there can be.
  assert metrics.ndcg(rank_NT, k=2)[1] == pytest.approx(1, abs=1e-15)
  summary = metrics.summarise(rank_NT)
  assert list(summary)[7:] == ["recall@5", "recall@10", "recall@20"]
  assert summary["recall@10"] == pytest.approx((2 / 3 + 1 + 1 / 4) / 4, abs=1e-15)


def test_the_order_of_targets_and_padding_says_nothing():
  rank_NT, *_ = generated_lists()
  padded_NT = np.pad(rank_NT, [(0, 0), (2, 3)], constant_values=-1)
  shuffled_NT = np.random.default_rng(3).permuted(padded_NT, axis=1)
  for metric in (metrics.hit_rate, metrics.recall, metrics.ndcg):
    expected_N = metric(rank_NT, k=10)
    assert metric(shuffled_NT, k=10) == pytest.approx(expected_N, abs=1e-15)


def test_refuses_what_is_no_list():
  two = np.array([[3, 0], [2, 4]])
  with pytest.raises(ValueError, match=r"one target a request, ranks are \(2, 2\)"):
    metrics.ndcg(two, np.zeros_like(two), k=10)
  with pytest.raises(ValueError, match=r"request 1 .* one rank: \[5, 1, 5\]"):
    metrics.recall(np.array([[1, 2, 3], [5, 1, 5]]), k=10)
  for rank_N in (np.array([1, -1]), np.array([[1, 2], [-1, -1]])):
    with pytest.raises(ValueError, match="request 1 has no target"):
      metrics.hit_rate(rank_N, k=10)
  # Misses and padding share no place.
  assert metrics.recall(np.array([[0, 0, -1, -1]]), k=10) == [0]


def test_generated_lists_equal_ir_measures():
  ir_measures = pytest.importorskip(
    "ir_measures", reason="no ir_measures: the metrics were compared with hand values"
  )
  rank_NT, qrels, run = generated_lists()
  ours = ours_by_name(rank_NT, "Success", "R", "nDCG", "RR")
  measures = [ir_measures.parse_measure(name) for name in ours]
  theirs = {name: np.full(len(rank_NT), np.nan) for name in ours}
  for result in ir_measures.iter_calc(measures, qrels, run):
    theirs[str(result.measure)][int(result.query_id[1:])] = result.value
  for name, value_N in ours.items():
    np.testing.assert_allclose(theirs[name], value_N, rtol=0, atol=1e-12, err_msg=name)


# ranx compiles every metric when it is first used, for more than half a minute.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*unsafe cast")
def test_generated_lists_equal_ranx(tmp_path, monkeypatch):
  # ranx imports ir_datasets, which makes folders at home.
  monkeypatch.setenv("IR_DATASETS_HOME", str(tmp_path))
  ranx = pytest.importorskip(
    "ranx", reason="no ranx: the metrics were compared with ir_measures only"
  )
  rank_NT, qrels, run = generated_lists()
  ours = ours_by_name(rank_NT, "hit_rate", "recall", "ndcg", "mrr")
  theirs = ranx.evaluate(
    ranx.Qrels(qrels), ranx.Run(run), list(ours), return_mean=False
  )
  for name, value_N in ours.items():
    np.testing.assert_allclose(theirs[name], value_N, rtol=0, atol=1e-12, err_msg=name)


def ours_by_name(rank_NT, hit_rate, recall, ndcg, reciprocal_rank):
  """name@k → [N], under the names of another library; requests of one target alone."""
  functions = {
    hit_rate: metrics.hit_rate,
    recall: metrics.recall,
    ndcg: metrics.ndcg,
    reciprocal_rank: metrics.reciprocal_rank,
  }
  ours = {}
  one_N = (rank_NT >= 0).sum(axis=1) == 1
  for name, function in functions.items():
    for k in CUTS:
      value_N = function(rank_NT, k=k)
      value_N[one_N] = function(rank_NT[one_N].max(axis=1), k=k)
      ours[f"{name}@{k}"] = value_N
  return ours


def generated_lists(num_requests=1200, num_items=40):
  """Lists as ranks, and as the other libraries' qrels and runs.

  A third of the requests has one target, the others up to 12; lists hold 1 to 30 items,
  so that some are shorter than every k but 1 and some targets are missed. Scores fall
  strictly: the libraries break ties in different ways. The names of requests sort as
  their numbers do, because ranx returns values in the order of the names.
  """
  rng = np.random.default_rng(2)
  rank_NT = np.full((num_requests, 12), -1)
  qrels, run = {}, {}
  for n in range(num_requests):
    num_targets = 1 if n % 3 == 0 else rng.integers(2, 13)
    items = [f"item{i}" for i in rng.permutation(num_items)]
    targets = [str(item) for item in rng.choice(items, num_targets, replace=False)]
    listed = items[: rng.integers(1, 31)]
    rank_NT[n, :num_targets] = places(targets, listed)
    qrels[f"q{n:05d}"] = dict.fromkeys(targets, 1)
    run[f"q{n:05d}"] = {item: -float(place) for place, item in enumerate(listed)}
  return rank_NT, qrels, run


def places(targets, listed):
  return [listed.index(target) + 1 if target in listed else 0 for target in targets]
