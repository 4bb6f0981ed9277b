"""Baselines against brute force, and against known figures on the real logs."""

import dataclasses
import functools
import math
import os
import pathlib

from compiled import Compiled, Scored, without_scores
import jax
import numpy as np
import pytest

from lightlm_jax.data import formats, interactions, splits
from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_item, popularity

NUM_ITEMS = 17


def small_log(seed=0):
  """40 users with repeats; the last item of the catalogue is never bought."""
  rng = np.random.default_rng(seed)
  length_U = rng.integers(1, 9, size=40)
  log = interactions.Interactions(
    offset_U1=np.concatenate([[0], np.cumsum(length_U)]),
    item_E=rng.integers(NUM_ITEMS - 1, size=length_U.sum()).astype(np.int32),
    user_ids=np.arange(40).astype(str),
    item_ids=np.arange(NUM_ITEMS).astype(str),
  )
  # A fit that works in the log's own memory fails instead of spoiling it.
  log.offset_U1.setflags(write=False)
  log.item_E.setflags(write=False)
  return log


def binary(log):
  users_UI = np.zeros((log.num_users, log.num_items))
  users_UI[log.user_E, log.item_E] = 1
  return users_UI


def make_batch(histories, width):
  history_BH = np.full((len(histories), width), -1, np.int32)
  for row, history in zip(history_BH, histories):
    row[width - len(history) :] = history
  none_B = np.full(len(histories), -1, np.int32)
  return Batch(none_B, history_BH, (history_BH >= 0).astype(np.int32), none_B, none_B)


def ease_by_hand(log, regularisation):
  users_UI = binary(log)
  count_II = users_UI.T @ users_UI
  inverse_II = np.linalg.inv(count_II + regularisation * np.eye(log.num_items))
  return np.eye(log.num_items) - inverse_II / np.diag(inverse_II)


def knn_by_hand(log):
  users_UI = binary(log)
  weights_II = np.zeros((log.num_items, log.num_items))
  for i in range(log.num_items):
    for j in range(log.num_items):
      both = users_UI[:, i] @ users_UI[:, j]
      if i != j and both:
        weights_II[i, j] = both / np.sqrt(users_UI[:, i].sum() * users_UI[:, j].sum())
  return weights_II


@pytest.mark.parametrize(
  ("built", "by_hand"),
  [
    (
      Compiled(item_item.ease(NUM_ITEMS, regularisation=2.0)),
      lambda log: ease_by_hand(log, 2.0),
    ),
    (Compiled(item_item.item_knn(NUM_ITEMS)), knn_by_hand),
  ],
)
def test_weights_and_scores_equal_brute_force(built, by_hand, monkeypatch):
  monkeypatch.setattr(item_item, "ROWS_AT_ONCE", 5)
  log, system = small_log(), Compiled(built)
  params, expected_II = system.fit(log), by_hand(log)
  np.testing.assert_allclose(params, expected_II, atol=1e-6)
  assert not np.diagonal(params).any()

  histories = [[3, 5, 3, 3], [], [0], [NUM_ITEMS - 1, 2, 1, 0, 2]]
  scores_BI = system.scores(params, system.tables, make_batch(histories, width=5))
  for history, score_I in zip(histories, scores_BI):
    expected_I = expected_II[sorted(set(history))].sum(axis=0)
    np.testing.assert_allclose(score_I, expected_I, atol=1e-6)
  backwards = make_batch([history[::-1] for history in histories], width=10)
  again_BI = system.scores(params, system.tables, backwards)
  np.testing.assert_array_equal(scores_BI, again_BI)


def test_popularity_counts_training_interactions():
  log = small_log()
  system = Compiled(popularity.build(NUM_ITEMS))
  batch = make_batch([[1], []], width=5)
  scores_BI = system.scores(system.fit(log), system.tables, batch)
  count_I = [log.item_E.tolist().count(item) for item in range(NUM_ITEMS)]
  assert scores_BI.tolist() == [count_I, count_I]


def recent_counts(log):
  return popularity.build(NUM_ITEMS, recent=True).system.fit(log).tolist()


def test_recent_popularity_counts_the_last_interactions_of_users():
  log = small_log()
  assert recent_counts(log) == [
    sum(log.row(u)[-popularity.RECENT_PLACES :].tolist().count(item) for u in range(40))
    for item in range(NUM_ITEMS)
  ]
  system = Compiled(popularity.build(NUM_ITEMS, recent=True))
  assert system.name == "recent_pop"
  scores_BI = system.scores(system.fit(log), (), make_batch([[1], []], width=5))
  assert scores_BI.tolist() == [recent_counts(log)] * 2


@pytest.mark.parametrize("latest", [5, 1_000])
def test_recent_popularity_counts_the_last_tenth_by_time(latest):
  """A time that lies in part within it counts as a whole: 5 times, or all different."""
  log = small_log()
  E = len(log.item_E)
  time_E = np.random.default_rng(1).integers(latest, size=E)
  time_E = time_E[np.lexsort((time_E, log.user_E))]
  log = dataclasses.replace(log, time_E=time_E)
  newest_first = sorted(time_E.tolist(), reverse=True)
  oldest = newest_first[math.ceil(popularity.RECENT_SHARE * E) - 1]
  counted = [i for i, time in zip(log.item_E.tolist(), time_E) if time >= oldest]
  assert len(counted) >= popularity.RECENT_SHARE * E
  assert recent_counts(log) == [counted.count(item) for item in range(NUM_ITEMS)]
  assert (0.15 if latest == 5 else 0) < len(counted) / E < (1 if latest == 5 else 0.15)


def test_recent_popularity_reads_training_interactions_alone():
  log = small_log()
  log = dataclasses.replace(log, time_E=np.arange(len(log.item_E)))
  split = splits.leave_one_out(log)
  counts = recent_counts(split.train)
  assert sum(counts) == math.ceil(popularity.RECENT_SHARE * len(split.train.item_E))


@pytest.mark.parametrize("shorter", [0, 2])
@pytest.mark.parametrize("longer", [0, 9])
@pytest.mark.parametrize("k", [4, NUM_ITEMS + 3])
def test_closed_items_are_never_recommended(k, longer, shorter):
  rng = np.random.default_rng(3)
  scores_BI = rng.integers(-2, 3, (6, NUM_ITEMS)).astype(np.float32)
  scores_BI[:, [0, 8]] = -np.inf
  open_MI = np.stack(
    [np.ones(NUM_ITEMS, bool), np.arange(NUM_ITEMS) < 6, np.arange(NUM_ITEMS) == 8]
  )
  mask_B = np.array([0, 1, 2, 1, 0, 2], np.int32)
  gone = [[16, 0, 3], [1, 2], [8], [], [], []]
  excluded_BE = allowed_lib.exclusions(
    np.repeat(np.arange(6), [len(row) for row in gone]),
    np.concatenate(gone).astype(np.int32),
    rank_I=np.arange(NUM_ITEMS),
    batch_size=6,
  )
  # Counts with room for more items, and scores with room that no count reaches.
  open_MI[:, NUM_ITEMS - shorter :] = False
  prefix_MI1 = np.pad(np.cumsum(open_MI, axis=1), ((0, 0), (1, 0))).astype(np.int32)
  prefix_MI1 = prefix_MI1[:, : NUM_ITEMS + 1 - shorter]
  prefix_MI1 = np.pad(prefix_MI1, ((0, 0), (0, longer)), mode="edge")
  system = Scored(function=lambda params, tables, batch: params)
  recommend = jax.jit(system.recommend, static_argnames="k")
  allowed = Allowed(prefix_MI1, mask_B, excluded_BE)
  best = jax.device_get(recommend(scores_BI, (), None, allowed, k=k))
  for b in range(6):
    items = [i for i in range(NUM_ITEMS) if open_MI[mask_B[b], i] and i not in gone[b]]
    items = sorted(items, key=lambda i: (-scores_BI[b, i], i))[:k]
    padding = k - len(items)
    assert best.items_BK[b].tolist() == items + [-1] * padding
    assert best.valid_BK[b].tolist() == [True] * len(items) + [False] * padding
    expected_K = scores_BI[b, items].tolist() + [-np.inf] * padding
    assert best.scores_BK[b].tolist() == expected_K


def test_recommendations_and_scores_give_the_same_ranks():
  log = small_log()
  split = splits.leave_one_out(log)
  built = item_item.ease(NUM_ITEMS)
  params = built.system.fit(split.train)
  arguments = {"num_items": NUM_ITEMS, "batch_size": 16, "k": NUM_ITEMS}
  counted = evaluator.evaluate(built, params, split.test, **arguments)
  listed = evaluator.evaluate(without_scores(built), params, split.test, **arguments)
  for rule in evaluator.RULES:
    rank_N, ties_N, _ = counted[rule]
    place_N = listed[rule].rank_N
    assert ((rank_N <= place_N) & (place_N <= rank_N + ties_N)).all()


def test_refusals_name_the_numbers():
  with pytest.raises(UserError, match=r"50,000 × 50,000.*9\.3 GiB.*8 GiB.*bpr_mf"):
    item_item.ease(50_000)
  item_item.item_knn(46_340)
  with pytest.raises(UserError, match="regularisation 0"):
    item_item.ease(5, regularisation=0)


def real_metrics(dataset, build):
  """Fitted on train, asked on test with train and validation as input."""
  folder = os.environ.get("LIGHTLM_DATA_DIR")
  if not folder:
    pytest.skip(f"LIGHTLM_DATA_DIR is not set: it should hold {dataset}/sequences.txt")
  path = pathlib.Path(folder) / dataset / "sequences.txt"
  split = splits.leave_one_out(formats.read_sequences(path))
  num_items = split.train.num_items
  built = build(num_items)
  params = built.system.fit(split.train)
  ranks = evaluator.evaluate(
    built, params, split.test, num_items=num_items, batch_size=256
  )
  return evaluator.summarise_rules(ranks)


def check(summary, hr5, ndcg5, hr10, ndcg10):
  known = {"hr@5": hr5, "ndcg@5": ndcg5, "hr@10": hr10, "ndcg@10": ndcg10}
  measured = {name: summary[name] for name in known}
  assert measured == pytest.approx(known, abs=5e-4)


@pytest.mark.slow
def test_item_knn_on_toys():
  summaries = real_metrics("toys", item_item.item_knn)
  check(summaries["seen_excluded"], 0.0492, 0.0335, 0.0666, 0.0391)


@pytest.mark.slow
def test_popularity_on_toys():
  """Where nothing but the order is known, what sold of late sells better."""
  ever = real_metrics("toys", popularity.build)
  recent = real_metrics("toys", functools.partial(popularity.build, recent=True))
  for rule in evaluator.RULES:
    assert ever[rule]["ndcg@10"] == pytest.approx(0.0049, abs=5e-5)
  assert recent["seen_excluded"]["ndcg@10"] == pytest.approx(0.0059, abs=5e-5)
  assert recent["seen_allowed"]["ndcg@10"] == pytest.approx(0.0057, abs=5e-5)


@pytest.mark.slow
def test_item_knn_on_beauty():
  summaries = real_metrics("beauty", item_item.item_knn)
  check(summaries["seen_excluded"], 0.0394, 0.0270, 0.0568, 0.0326)


@pytest.mark.slow
def test_ease_on_toys():
  summaries = real_metrics("toys", item_item.ease)
  check(summaries["seen_excluded"], 0.0498, 0.0343, 0.0703, 0.0409)
  check(summaries["seen_allowed"], 0.0356, 0.0231, 0.0552, 0.0293)


@pytest.mark.slow
def test_ease_on_beauty():
  summaries = real_metrics("beauty", item_item.ease)
  check(summaries["seen_excluded"], 0.0435, 0.0281, 0.0670, 0.0356)
  check(summaries["seen_allowed"], 0.0293, 0.0189, 0.0498, 0.0254)
