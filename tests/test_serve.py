"""Lists are the evaluator's lists, keep to the filters, and compile nothing anew."""

import jax
import numpy as np
import pytest
import served as small

from lightlm_jax.data import splits
from lightlm_jax.data.batch import Batch
from lightlm_jax.evaluation import evaluator
from lightlm_jax.inference import queries as queries_lib
from lightlm_jax.inference import serve
from lightlm_jax.training import speed

every_system = pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in small.FAST else pytest.mark.slow)
    for name in small.NAMES
  ],
)
K = 5


def ready(name, batch_size=32):
  _, built, params = small.build(name)
  return serve.ready(built, params, small.one_device(), batch_size)


@every_system
def test_lists_are_the_evaluators(name):
  """Whoever is asked what the evaluator asked gets what it found, under both rules."""
  _, built, params = small.build(name)
  log = small.log()
  requests = splits.leave_one_out(log).test
  found = evaluator.evaluate(
    built,
    params,
    requests,
    num_items=log.num_items,
    batch_size=32,
    k=K,
    mesh=small.one_device(),
  )
  for rule, exclude in (("seen_excluded", True), ("seen_allowed", False)):
    items_NK, scores_NK = serve.recommend(
      ready(name), requests, k=K, exclude_seen=exclude
    )
    np.testing.assert_array_equal(items_NK, found[rule].items_NK)
    assert (np.diff(scores_NK) <= 0).all()
    assert np.isfinite(scores_NK).all()


@every_system
def test_filters_hold_and_only_filter(name):
  """With a shelf the list is what is left of the longest list without it."""
  requests = queries_lib.everyone(small.log()).requests
  allowed_I = np.arange(small.ITEMS) % 3 > 0
  whole_NK, score_NK = serve.recommend(ready(name), requests, k=small.ITEMS)
  shelf_NK, shelf_score_NK = serve.recommend(
    ready(name), requests, k=small.ITEMS, allowed_I=allowed_I
  )
  for n in range(len(requests)):
    row, seen = whole_NK[n], set(requests.row(n).tolist())
    listed = row[row >= 0].tolist()
    assert set(listed) == set(range(small.ITEMS)) - seen
    score = dict(zip(listed, score_NK[n]))
    shelf = shelf_NK[n][shelf_NK[n] >= 0]
    assert set(shelf.tolist()) == {item for item in listed if allowed_I[item]}
    shelf_score = shelf_score_NK[n][: len(shelf)]
    np.testing.assert_allclose(
      shelf_score, [score[i] for i in shelf.tolist()], rtol=1e-5
    )
    assert (np.diff(shelf_score) <= 0).all()
    assert (shelf_score_NK[n][len(shelf) :] == -np.inf).all()


def test_scores_against_a_sorted_list():
  """SASRec's own scores, sorted by numpy, less what the user had."""
  _, built, params = small.build("sasrec")
  log = small.log()
  requests = queries_lib.everyone(log).requests
  items_NK, scores_NK = serve.recommend(ready("sasrec"), requests, k=K)
  scores = jax.jit(built.system.scores)
  for n in range(len(requests)):
    history_1H = np.full((1, 8), -1, np.int32)
    last = requests.row(n)[-8:]
    history_1H[0, 8 - len(last) :] = last
    batch = Batch(
      np.array([0]), history_1H, (history_1H >= 0).astype(np.int32), None, None
    )
    score_I = np.array(scores(params, built.tables, batch))[0]
    score_I[requests.row(n)] = -np.inf
    wanted = np.argsort(-score_I, kind="stable")[:K]
    assert items_NK[n].tolist() == wanted.tolist()
    np.testing.assert_allclose(scores_NK[n], score_I[wanted], rtol=1e-5)


def test_how_many_ask_at_once_changes_no_list():
  """Batches of 1, of 4 and of 32, with rows that only fill them, and of no request."""
  served = ready("item_knn")
  everyone = queries_lib.everyone(small.log()).requests
  whole_NK, _ = serve.recommend(served, everyone, k=K)
  for index in ([7], [3, 28, 9], range(20), []):
    index = np.array(index, np.int64)
    items_NK, _ = serve.recommend(served, everyone.take(index), k=K)
    np.testing.assert_array_equal(items_NK, whole_NK[index])


def test_no_request_compiles_anything_that_was_asked_in_its_shape_before():
  served = ready("sasrec")
  everyone = queries_lib.everyone(small.log()).requests
  length_N = everyone.length_N
  short = np.flatnonzero(length_N <= 5)[:4]
  serve.recommend(served, everyone.take(short), k=K)
  allowed_I = np.ones(small.ITEMS, bool)
  serve.recommend(served, everyone.take(short), k=K, allowed_I=allowed_I)
  with speed.count_compilations() as made:
    for number in (2, 3, 4):
      other = np.flatnonzero(length_N <= 5)[-number:]
      serve.recommend(served, everyone.take(other), k=K)
      allowed_I[number] = False
      serve.recommend(served, everyone.take(other), k=K, allowed_I=allowed_I)
  assert made.count == 0


def test_rows_name_users_ranks_items_and_texts():
  items_NK = np.array([[2, 0], [1, -1], [-1, -1]], np.int32)
  scores_NK = np.array([[3, 1.5], [2, -np.inf], [-np.inf, -np.inf]], np.float32)
  names, ids = np.array(["a", "b", "c"]), np.array(["x", "y", "z"])
  texts = np.array(["ex", "", "zed"], object)
  rows = serve.table(names, items_NK, scores_NK, ids, texts)
  assert rows.to_pylist() == [
    {"user": "a", "rank": 1, "item": "z", "score": 3.0, "text": "zed"},
    {"user": "a", "rank": 2, "item": "x", "score": 1.5, "text": "ex"},
    {"user": "b", "rank": 1, "item": "y", "score": 2.0, "text": ""},
  ]
  bare = serve.table(names, items_NK, scores_NK, ids)
  assert bare.column_names == ["user", "rank", "item", "score"]
