"""The embedded shop does what its config says, and its ceiling is the true one."""

import dataclasses
import functools

from compiled import Compiled
import jax
import numpy as np
import pytest

from lightlm_jax.data import splits
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.synthetic import (
  CATEGORIES,
  Shop,
  item_attributes,
  item_titles,
  make_shop,
)
from lightlm_jax.runtime import errors
from lightlm_jax.systems.best_possible import best_possible, expected_best_ndcg

TINY_SHOP = Shop(
  num_users=200,
  num_items=60,
  num_communities=3,
  num_categories=4,
  num_shelves=12,
  max_length=20,
  late_rate=0.2,
)


@functools.cache
def default_shop():
  log, tastes = make_shop(Shop())
  return log, tastes, splits.leave_one_out(log)


def padded(rows, H=None):
  H = max(len(row) for row in rows) if H is None else H
  history_BH = np.full((len(rows), H), -1, np.int32)
  for b, row in enumerate(rows):
    history_BH[b, H - len(row) :] = row
  return history_BH


def optimal_scores(tastes, rows, H=None):
  history_BH = padded(rows, H)
  B, I = len(rows), tastes.taste_CI.shape[1]
  system = Compiled(best_possible(tastes, I))
  batch = Batch(
    user_B=np.full(B, -1, np.int32),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=np.full(B, -1, np.int32),
    weight_B=np.ones(B, np.float32),
  )
  params, batch = system.fit(None), jax.device_put(batch)
  scores = system.scores(params, system.tables, batch)
  return np.asarray(jax.device_get(scores))


def realised_ndcg(tastes, requests):
  """[N] NDCG@10 on the requests' own targets."""
  rows = [requests.row(n) for n in range(len(requests))]
  score_NI = optimal_scores(tastes, rows)
  target_N1 = requests.target_N[:, None]
  rank_N = (score_NI > np.take_along_axis(score_NI, target_N1, axis=1)).sum(1)
  return np.where(rank_N < 10, 1.0 / np.log2(rank_N + 2.0), 0.0)


def brute_force(tastes, row):
  """[I] float64: every community in turn, the whole catalogue at every purchase."""

  def purchase(community, bought):
    usual_I = tastes.taste_CI[community].copy()
    if len(bought):
      usual_I *= 1.0 - tastes.habit
      usual_I += tastes.habit * tastes.follow_II[bought[-1]]
    late_I = tastes.late_CI[community].copy()
    usual_I[bought] = late_I[bought] = 0.0
    usual_I, late_I = usual_I / usual_I.sum(), late_I / late_I.sum()
    return (1.0 - tastes.late_rate) * usual_I + tastes.late_rate * late_I

  joint_CI = []
  for community, prior in enumerate(tastes.prior_C):
    likelihood = prior
    for place, item in enumerate(row):
      likelihood *= purchase(community, row[:place])[item]
    joint_CI.append(likelihood * purchase(community, row))
  return np.sum(joint_CI, axis=0) / np.sum(joint_CI)


def same_log(a, b):
  return all(
    np.asarray(x).tobytes() == np.asarray(y).tobytes()
    for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b))
  )


def test_a_seed_names_a_log():
  log, tastes = make_shop(TINY_SHOP)
  again, tastes_again = make_shop(TINY_SHOP)
  other, _ = make_shop(dataclasses.replace(TINY_SHOP, seed=1))
  assert same_log(log, again)
  assert all(np.array_equal(a, b) for a, b in zip(tastes, tastes_again))
  assert not same_log(log, other)


@pytest.mark.parametrize("config", [TINY_SHOP, Shop()], ids=["tiny", "default"])
def test_the_log_keeps_the_config(config):
  log, tastes = make_shop(config)
  assert (log.num_users, log.num_items) == (config.num_users, config.num_items)
  assert log.length_U.min() == config.min_length
  assert log.length_U.max() <= config.max_length
  assert abs(log.length_U.mean() - config.mean_length) < 1.0
  for user in range(log.num_users):
    assert len(set(log.row(user))) == log.length_U[user]
  assert set(log.user_ids) == {f"u{user:05d}" for user in range(config.num_users)}
  assert item_titles(log)[0] == log.item_ids[0].replace("-", " ")
  category_I = np.concatenate(item_attributes(log))
  assert len(category_I) == log.num_items
  # An item's number and its category are those of its raw id, and no two share both.
  for raw, category in zip(log.item_ids.tolist(), category_I):
    assert raw.startswith(f"{CATEGORIES[category]}-")
  np.testing.assert_allclose(tastes.taste_CI.sum(1), 1.0)
  np.testing.assert_allclose(tastes.late_CI.sum(1), 1.0)
  np.testing.assert_allclose(tastes.follow_II.sum(1), 1.0)


def test_default_shop_is_shaped_like_a_five_core_log():
  log, tastes, split = default_shop()
  assert 20_000 <= len(log.item_E) <= 27_000
  late_I = tastes.late_CI.sum(0) > 0
  bought_I = np.bincount(split.train.item_E, minlength=log.num_items)
  assert late_I.sum() == round(Shop().late_items * log.num_items) > 0
  np.testing.assert_array_equal(bought_I == 0, late_I)
  assert 0 < late_I[split.test.target_N].mean() < 2 * Shop().late_rate
  most = np.sort(bought_I)[::-1]
  assert most[: log.num_items // 5].sum() > 0.4 * most.sum()


def test_tables_follow_the_catalogues_own_order():
  log, tastes, _ = default_shop()
  category_I = np.array([raw.split("-")[0] for raw in log.item_ids])
  inside_II = category_I[:, None] == category_I[None]
  share = (tastes.follow_II * inside_II).sum(1).mean()
  assert abs(share - (1.0 - Shop().stray)) < 0.1
  after, before = log.item_E[1:], log.item_E[:-1]
  same_user = log.user_E[1:] == log.user_E[:-1]
  followed = tastes.follow_II[before[same_user], after[same_user]] > 0
  assert abs(followed.mean() - Shop().habit) < 0.05


def test_scores_match_brute_force():
  log, tastes = make_shop(TINY_SHOP)
  late = int(np.flatnonzero(tastes.late_CI.sum(0) > 0)[0])
  rows = [log.row(user)[: user % 12] for user in range(40)]
  rows += [log.row(int(np.argmax(log.length_U))), np.array([late])]
  rows += [np.append(row[row != late], late) for row in rows[3:6]]
  score_BI = optimal_scores(tastes, rows)
  for row, score_I in zip(rows, score_BI):
    true_I = brute_force(tastes, row)
    unseen_I = ~np.isin(np.arange(log.num_items), row)
    np.testing.assert_allclose(score_I[unseen_I], np.log(true_I[unseen_I]), atol=1e-4)
    assert np.all(score_I[~unseen_I] < -60.0)
  assert np.isfinite(score_BI).all()
  np.testing.assert_allclose(np.exp(score_BI).sum(1), 1.0, atol=1e-5)


def test_padding_changes_nothing():
  log, tastes = make_shop(TINY_SHOP)
  rows = [log.row(user)[:5] for user in range(8)]
  narrow, wide = optimal_scores(tastes, rows), optimal_scores(tastes, rows, H=30)
  np.testing.assert_allclose(narrow, wide, atol=1e-5)
  nothing = optimal_scores(tastes, [[]], H=3)
  np.testing.assert_allclose(optimal_scores(tastes, [[]], H=0), nothing, atol=1e-5)
  np.testing.assert_allclose(nothing[0], np.log(brute_force(tastes, [])), atol=1e-4)


def test_a_shop_without_late_items():
  log, tastes = make_shop(dataclasses.replace(TINY_SHOP, late_items=0.0))
  assert tastes.late_rate == 0.0
  score_BI = optimal_scores(tastes, [log.row(0), []])
  np.testing.assert_allclose(np.exp(score_BI).sum(1), 1.0, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_ceiling_is_met_and_not_beaten(seed):
  log, tastes = make_shop(Shop(seed=seed))
  test = splits.leave_one_out(log).test
  best_N = realised_ndcg(tastes, test)
  expected = expected_best_ndcg(tastes, test)
  assert 0.30 < expected < 0.45
  assert abs(best_N.mean() - expected) < 4 * best_N.std() / np.sqrt(len(test))

  mean_I = tastes.prior_C @ tastes.taste_CI
  worse = {
    "habits ignored": tastes._replace(habit=0.0),
    "communities ignored": tastes._replace(
      taste_CI=np.broadcast_to(mean_I, tastes.taste_CI.shape)
    ),
    "orders reversed": tastes._replace(follow_II=tastes.follow_II.T),
  }
  for name, wrong in worse.items():
    loss_N = best_N - realised_ndcg(wrong, test)
    assert loss_N.mean() > 4 * loss_N.std() / np.sqrt(len(test)), name


def test_what_the_log_teaches():
  """Counts of the last item's followers come near the ceiling; popularity does not."""
  log, tastes, split = default_shop()
  I, train, test = log.num_items, split.train, split.test
  count_I = np.bincount(train.item_E, minlength=I) / len(train.item_E)
  before, after = train.item_E[:-1], train.item_E[1:]
  same_user = train.user_E[1:] == train.user_E[:-1]
  count_II = np.zeros((I, I))
  np.add.at(count_II, (before[same_user], after[same_user]), 1.0)
  follow_II = (count_II + 5 * count_I) / (count_II.sum(1, keepdims=True) + 5)

  def ndcg(score_NI):
    for n in range(len(test)):
      score_NI[n, test.row(n)] = -1.0
    rank_N = (score_NI > score_NI[np.arange(len(test)), test.target_N][:, None]).sum(1)
    return np.where(rank_N < 10, 1.0 / np.log2(rank_N + 2.0), 0.0).mean()

  last_N = np.array([test.row(n)[-1] for n in range(len(test))])
  expected = expected_best_ndcg(tastes, test)
  assert 0.7 * expected < ndcg(follow_II[last_N]) < expected
  assert ndcg(np.tile(count_I, (len(test), 1))) < 0.06


@pytest.mark.parametrize(
  "wrong",
  [
    {"num_shelves": 13},
    {"num_categories": 21},
    {"num_favourites": 5},
    {"max_length": 100},
    {"mean_length": 3.0},
    {"follow_odds": (1.0,) * 20, "stray": 0.0},
  ],
)
def test_an_impossible_shop_is_refused(wrong):
  with pytest.raises(errors.UserError, match="shop: "):
    make_shop(dataclasses.replace(TINY_SHOP, **wrong))


def test_tastes_of_another_catalogue_are_refused():
  _, tastes = make_shop(TINY_SHOP)
  with pytest.raises(ValueError, match="60 items, the catalogue 61"):
    best_possible(tastes, 61)
