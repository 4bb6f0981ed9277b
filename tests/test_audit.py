"""The audit passes what is clean and catches what is not, each leak by its name."""

import dataclasses
import functools

import numpy as np
import pytest
import reference_ids
import scipy.stats
from small_logs import make_log

from lightlm_jax.config import data_groups
from lightlm_jax.data import splits
from lightlm_jax.data.interactions import first_of_rows
from lightlm_jax.data.synthetic import Shop, make_shop
from lightlm_jax.evaluation import leaks as audit
from lightlm_jax.evaluation import metrics
from lightlm_jax.ids import plain, spectral

OPTIONS = data_groups.Ids(branching=8, leaf_size=20, levels=2, tokens="level")


@pytest.fixture(scope="module")
def log():
  shop = Shop(num_users=700, num_items=240, num_categories=10, num_shelves=40)
  return make_shop(shop)[0]


def clean(log, seed):
  train = splits.leave_one_out(log).train
  ids = spectral.spectral_ids(train, OPTIONS, seed=seed)
  return audit.Ids(*ids, train.user_E, train.item_E)


def test_ids_from_training_interactions_pass(log):
  found = audit.audit(clean, log, splits.leave_one_out, seed=0)
  assert found["failures"] == []
  assert found["passed"]
  assert found["held_out_edges"] == 0
  assert found["exchange"] == {
    "items_changed": 0.0,
    "users_changed": 0.0,
    "popularity_changed": 0.0,
    "vocabulary_changed": False,
  }
  # The figures are of something: training items agree more than held-out ones.
  agreement = found["renumber"]
  training = agreement["agreement with training items"]["as_is"]
  held_out = agreement["agreement with held-out items"]["as_is"]
  assert training > held_out > 0.2


def test_the_reference_construction_is_caught(log):
  def leaking(log, seed):
    return reference_ids.reference_ids(log, seed, branching=8, leaf_size=40)

  found = audit.audit(leaking, log, splits.leave_one_out, seed=0)
  assert not found["passed"]
  assert found["exchange"]["users_changed"] > 0.5
  assert found["exchange"]["items_changed"] == 0
  held = 2 * (log.length_U >= 3).sum()
  assert found["held_out_edges"] > 0.8 * held
  assert any("held-out interactions shaped" in line for line in found["failures"])
  assert any("changed users" in line for line in found["failures"])


SPLITS = {
  "ratio": functools.partial(splits.ratio, validation_share=0.2, test_share=0.2),
  "temporal": functools.partial(splits.temporal, validation_share=0.2, gap=50),
}


@pytest.fixture(scope="module")
def timed_log():
  """A small log with times; who buys is chance, and many have bought an item twice."""
  rng = np.random.default_rng(0)
  rows = [rng.integers(30, size=rng.integers(1, 15)).tolist() for _ in range(120)]
  log = make_log(rows, num_items=30)
  times = [np.sort(rng.integers(1000, size=len(row))) for row in rows]
  return dataclasses.replace(log, time_E=np.concatenate(times))


def held_pairs(log, train):
  """Pairs of the log behind the training rows that no training row holds, by hand."""
  trained = {(u, i) for u in range(log.num_users) for i in train.row(u).tolist()}
  rows = ((u, log.row(u)[len(train.row(u)) :].tolist()) for u in range(log.num_users))
  return {(u, i) for u, row in rows for i in row} - trained


def reading(split_of, more):
  """A construction on the training rows and `more` of what stands behind each."""

  def build(log, seed):
    length_U = split_of(log).train.length_U
    read = first_of_rows(log, np.minimum(length_U + more, log.length_U))
    ids = spectral.spectral_ids(read, OPTIONS, seed=seed)
    return audit.Ids(*ids, read.user_E, read.item_E)

  return build


@pytest.mark.parametrize("kind", SPLITS)
def test_other_splits_are_audited_as_well(timed_log, kind):
  split_of = SPLITS[kind]
  found = audit.audit(reading(split_of, 0), timed_log, split_of, seed=0)
  assert found["held_out_edges"] == 0
  assert not any(found["exchange"].values())
  # Items of a window that nobody is asked for are held out as the others are.
  for more in (1, 100):
    found = audit.audit(reading(split_of, more), timed_log, split_of, seed=0)
    train = split_of(timed_log).train
    rows = first_of_rows(
      timed_log, np.minimum(train.length_U + more, timed_log.length_U)
    )
    assert found["held_out_edges"] == len(held_pairs(rows, train)) > 50
    assert found["exchange"]["items_changed"] > 0
    assert not found["passed"]
    assert any("held-out interactions shaped" in line for line in found["failures"])
    assert any("exchanging held-out items" in line for line in found["failures"])


@pytest.mark.parametrize("kind", SPLITS)
def test_an_exchange_of_other_splits_keeps_training_and_times(timed_log, kind):
  split_of = SPLITS[kind]
  other_log = audit.exchange_held_out(timed_log, 3, split_of)
  mine, theirs = split_of(timed_log), split_of(other_log)
  np.testing.assert_array_equal(mine.train.item_E, theirs.train.item_E)
  np.testing.assert_array_equal(mine.train.offset_U1, theirs.train.offset_U1)
  np.testing.assert_array_equal(timed_log.time_E, other_log.time_E)
  changed_E = timed_log.item_E != other_log.item_E
  held = len(timed_log.item_E) - len(mine.train.item_E)
  assert 0.8 * held < changed_E.sum() <= held
  assert sorted(timed_log.item_E) == sorted(other_log.item_E)


def test_training_rows_that_are_no_beginnings_are_no_split_to_audit(timed_log):
  def reversed_rows(log):
    split = splits.leave_one_out(log)
    return dataclasses.replace(
      split, train=dataclasses.replace(split.train, item_E=split.train.item_E[::-1])
    )

  with pytest.raises(ValueError, match="not the beginnings"):
    audit.exchange_held_out(timed_log, 0, reversed_rows)


def by_first_appearance(log):
  """The log as papers' files have it: items numbered as they come, test included."""
  first = np.unique(log.item_E, return_index=True)
  number_I = np.full(log.num_items, log.num_items)
  number_I[first[0][np.argsort(first[1])]] = np.arange(len(first[0]))
  return dataclasses.replace(log, item_ids=number_I.astype(str))


def test_numbers_by_first_appearance_are_caught(log):
  def numbered(log, seed):
    """Last tokens in the order of the raw numbers."""
    ids = clean(log, seed)
    items_IL = ids.items_IL.copy()
    length_I = (items_IL >= 0).sum(axis=1)
    stem_IL = items_IL.copy()
    rows = np.arange(len(items_IL))
    stem_IL[rows, length_I - 1] = -1
    leaf_I = np.unique(stem_IL, axis=0, return_inverse=True)[1].reshape(-1)
    for leaf in range(leaf_I.max() + 1):
      members = np.flatnonzero(leaf_I == leaf)
      tokens = np.sort(items_IL[members, length_I[members] - 1])
      order = np.argsort(log.item_ids[members].astype(int), kind="stable")
      items_IL[members[order], length_I[members[order]] - 1] = tokens
    return ids._replace(items_IL=items_IL)

  split_of = splits.leave_one_out
  found = audit.audit(numbered, by_first_appearance(log), split_of, seed=0)
  assert found["spearman_last_token"] > 0.99
  assert any("raw numbers" in line for line in found["failures"])
  assert audit.audit(clean, by_first_appearance(log), split_of, seed=0)["passed"]


def test_ids_that_hang_on_the_numbering_are_caught(log):
  def by_number(log, seed):
    """Clusters are blocks of consecutive numbers, as the log has them."""
    train = splits.leave_one_out(log).train
    items_IL = plain.numbers_in_base(np.arange(log.num_items), 60)
    users_UL = plain.numbers_in_base(first_item_U(train), 60)
    return audit.Ids(items_IL, users_UL, train.user_E, train.item_E)

  def first_item_U(train):
    return np.array([row[0] if len(row) else 0 for row in map(train.row, range(700))])

  # A log in which neighbours by number are bought together.
  order_I = np.argsort(clean(log, 0).items_IL[:, 0], kind="stable")
  sorted_log = dataclasses.replace(
    log, item_E=np.argsort(order_I)[log.item_E].astype(np.int32)
  )
  found = audit.audit(by_number, sorted_log, splits.leave_one_out, seed=0)
  assert any("numbering users and items anew" in line for line in found["failures"])


def test_an_exchange_keeps_training_and_deals_out_the_rest(log):
  other = audit.exchange_held_out(log, seed=3)
  mine, theirs = splits.leave_one_out(log), splits.leave_one_out(other)
  np.testing.assert_array_equal(mine.train.item_E, theirs.train.item_E)
  for name in ("validation", "test"):
    target_N = getattr(mine, name).target_N
    other_N = getattr(theirs, name).target_N
    assert (target_N != other_N).mean() > 0.9
    assert sorted(target_N) == sorted(other_N)


def test_renumbering_is_the_same_log():
  log = make_log([[0, 1, 1], [], [3, 2]], num_items=5)
  other, new_U, new_I = audit.renumber(log, seed=1)
  for user in range(3):
    expected = new_I[log.row(user)].tolist()
    assert other.row(new_U[user]).tolist() == expected
    assert other.user_ids[new_U[user]] == log.user_ids[user]
  for item in range(5):
    assert other.item_ids[new_I[item]] == log.item_ids[item]


def test_spearman_of_one_leaf_is_scipys():
  rng = np.random.default_rng(0)
  token_I, raw_I = rng.permutation(50), rng.permutation(50)
  items_IL = np.stack([np.zeros(50, int), 1 + token_I], axis=1)
  ours, number = audit.last_token_order(items_IL, raw_I.astype(str))
  assert number == 50
  assert ours == pytest.approx(scipy.stats.spearmanr(token_I, raw_I).statistic)
  alone = np.arange(50)[:, None] * np.array([[1, 0]])
  assert audit.last_token_order(alone, raw_I.astype(str)) == (0.0, 0)


def test_ranks_by_cluster_mates_equal_counting_by_hand(log):
  label_U = np.random.default_rng(0).integers(5, size=log.num_users)
  split = splits.leave_one_out(log)
  requests = split.test.take(np.arange(40))
  rank_N, ties_N = audit.mates_ranks(label_U, split.train, requests)
  bought_I = np.bincount(split.train.item_E, minlength=log.num_items)
  for n in range(40):
    mates = np.flatnonzero(label_U == label_U[requests.user_N[n]])
    bought = np.concatenate([split.train.row(user) for user in mates])
    count_I = np.bincount(bought, minlength=log.num_items)
    key_I = list(zip(count_I.tolist(), bought_I.tolist()))
    gone = set(requests.row(n).tolist())
    target = requests.target_N[n]
    others = [i for i in range(log.num_items) if i not in gone | {target}]
    if target in gone:
      assert rank_N[n] == 0
      continue
    assert rank_N[n] == 1 + sum(key_I[i] > key_I[target] for i in others)
    assert ties_N[n] == sum(key_I[i] == key_I[target] for i in others)
  assert 0 < metrics.ndcg(rank_N, ties_N, k=10).mean() < 1
