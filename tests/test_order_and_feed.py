"""The order is a bijection, and an epoch visits every position with its history."""

import collections
import dataclasses
import functools
import itertools

from compiled import gather
from hypothesis import given, settings
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data import packing
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.order import fold, permute
from lightlm_jax.runtime.errors import UserError

KEYS = st.integers(0, 2**32 - 1)


@settings(max_examples=200)
@given(st.integers(1, 500) | st.integers(1, 20_000), KEYS)
def test_permute_is_a_bijection(n, key):
  place_N = permute(np.arange(n), n, np.uint32(key))
  assert place_N.dtype == np.uint32
  np.testing.assert_array_equal(np.sort(place_N), np.arange(n))


@settings(max_examples=20)
@given(st.integers(2**31 - 50, 2**31 - 1), KEYS)
def test_permute_of_the_largest_domains(n, key):
  index = np.unique(np.random.default_rng(key).integers(n, size=2_000))
  index = np.union1d(index, [0, 1, n - 2, n - 1])
  place = permute(index, n, np.uint32(key))
  assert len(np.unique(place)) == len(index)
  assert place.max() < n
  assert abs(place.mean() / n - 0.5) < 0.05


@functools.partial(jax.jit, static_argnames="n")
def jitted(index, key, n):
  return permute(index, n, key, jnp)


@jax.jit
def jitted_for_any_n(index, n, key):
  return permute(index, n, key, jnp)


@given(st.integers(1, 2**31 - 1), KEYS)
def test_numpy_and_jax_give_the_same_bits(n, key):
  index = (np.arange(64) * 0x9E3779B1 % n).astype(np.uint32)
  index[:2] = 0, n - 1
  key = np.uint32(key)
  place = jitted_for_any_n(index, np.uint32(n), key)
  assert place.dtype == jnp.uint32
  np.testing.assert_array_equal(permute(index, n, key), place)


@pytest.mark.parametrize("n", [1, 97, 2**31 - 1])
def test_numpy_and_jax_give_the_same_bits_where_n_is_static(n):
  index = np.linspace(0, n - 1, 50).astype(np.uint32)
  key = fold(np.uint32(3), n)
  host = permute(index, n, key)
  np.testing.assert_array_equal(host, jitted(index, key, n))
  np.testing.assert_array_equal(host[7], permute(index[7], n, key))


def test_numpy_and_jax_give_the_same_bits_without_jit():
  index, key = np.arange(33, dtype=np.uint32), np.uint32(2**32 - 1)
  place = permute(jnp.asarray(index), 33, jnp.asarray(key), jnp)
  np.testing.assert_array_equal(permute(index, 33, key), place)


@given(KEYS, st.integers(0, 2**32 - 1))
def test_fold_gives_the_same_bits(key, data):
  host = fold(np.uint32(key), data)
  assert host == fold(jnp.uint32(key), jnp.uint32(data), jnp)
  # The finaliser of MurmurHash3 on Python's whole numbers.
  h = key ^ (data * 0x9E3779B9) % 2**32
  h = ((h ^ h >> 16) * 0x85EBCA6B + 0x165667B1) % 2**32
  h = ((h ^ h >> 13) * 0xC2B2AE35) % 2**32
  assert int(host) == h ^ h >> 16


def chi_square_is_small(count):
  count = np.asarray(count)
  _, p_value = scipy.stats.chisquare(count)
  return p_value > 1e-4


@pytest.mark.parametrize("folded", [False, True], ids=["plain keys", "folded keys"])
def test_every_place_and_every_order_is_equally_likely(folded):
  key_K = np.arange(24_000, dtype=np.uint32)
  if folded:
    key_K = fold(fold(np.uint32(0), key_K), 1)
  for n, index in ((10, 0), (10, 9), (1_000, 123)):
    place_K = permute(np.full(len(key_K), index), n, key_K)
    assert chi_square_is_small(np.bincount(place_K, minlength=n))
  order_KN = np.stack([permute(np.full(len(key_K), i), 5, key_K) for i in range(5)], 1)
  count = collections.Counter(map(tuple, order_KN.tolist()))
  assert set(count) == set(itertools.permutations(range(5)))
  assert chi_square_is_small(list(count.values()))


@given(KEYS, KEYS)
def test_other_keys_are_other_orders(a, b):
  """Two orders of 400 agree in about one place, however close the keys."""
  for other in {b, a ^ 1, a ^ 2**31} - {a}:
    agree = permute(np.arange(400), 400, np.uint32(a)) == permute(
      np.arange(400), 400, np.uint32(other)
    )
    assert agree.sum() < 12


# The feed.

WIDTHS = (2, 5, 10)


def make_log(lengths, seed=0):
  item_E = np.random.default_rng(seed).integers(1_000, size=sum(lengths))
  return Interactions(
    offset_U1=np.cumsum([0, *lengths]),
    item_E=item_E.astype(np.int32),
    user_ids=np.arange(len(lengths)).astype(str),
    item_ids=np.arange(1_000).astype(str),
  )


# Users with one item, and histories on both sides of every width.
LENGTHS = (1, 3, 1, 30, 2, 12, 11, 10, 6, 7, 1, 4, 25, 5, 1)
LOG = make_log(LENGTHS)


def make(log=LOG, *, seed=0, batch_size=8, widths=WIDTHS, drawn=False):
  return feed_lib.positions(
    log, seed=seed, batch_size=batch_size, widths=widths, drawn=drawn
  )


def batch_at(feed, plan, step):
  bucket, key, batch = plan.at(np.array(step))
  shapes = dataclasses.replace(plan, seed=0)  # one program serves every seed
  return jax.device_get(gather(feed, key, batch, plan=shapes, bucket=int(bucket)))


def examples(batch):
  """(user, history with its filling, target) of the rows that weigh something."""
  assert set(batch.weight_B.tolist()) <= {0.0, 1.0}
  np.testing.assert_array_equal(batch.segment_BH, batch.history_BH >= 0)
  return [
    (int(user), tuple(history.tolist()), int(target))
    for user, history, target, weight in zip(
      batch.user_B, batch.history_BH, batch.target_B, batch.weight_B
    )
    if weight
  ]


def oracle(log, widths):
  """Every position once: its history in the narrowest width that holds it."""
  found = []
  for user in range(log.num_users):
    row = log.row(user).tolist()
    for place, target in enumerate(row):
      history = row[max(0, place - widths[-1]) : place]
      width = next(width for width in widths if width >= len(history))
      found.append((user, (-1,) * (width - len(history)) + tuple(history), target))
  return found


def epoch_of(feed, plan, epoch=0):
  first = epoch * plan.steps_per_epoch
  return [batch_at(feed, plan, first + s) for s in range(plan.steps_per_epoch)]


@pytest.mark.parametrize(
  ("batch_size", "widths"), [(1, (3,)), (7, (2, 10)), (8, WIDTHS), (200, (3,))]
)
def test_an_epoch_visits_every_position_once(batch_size, widths):
  feed, plan = make(batch_size=batch_size, widths=widths)
  wanted = collections.Counter(oracle(LOG, widths))
  assert sum(plan.sizes) == sum(LENGTHS) == wanted.total()
  for epoch in (0, 3):
    batches = epoch_of(feed, plan, epoch)
    assert all(len(batch.weight_B) == batch_size for batch in batches)
    found = collections.Counter(e for batch in batches for e in examples(batch))
    assert found == wanted


def test_every_batch_but_a_buckets_last_is_full():
  feed, plan = make()
  weight = sorted(batch.weight_B.sum() for batch in epoch_of(feed, plan))
  rest = [size % 8 for size in plan.sizes if size % 8]
  assert weight == sorted(rest + [8] * (plan.steps_per_epoch - len(rest)))


def test_buckets_take_turns():
  _, plan = make(batch_size=1)
  bucket_S, _, _ = plan.at(np.arange(plan.steps_per_epoch))
  np.testing.assert_array_equal(np.bincount(bucket_S), plan.sizes)
  half = np.bincount(bucket_S[: len(bucket_S) // 2]) / plan.sizes
  assert ((half > 0.25) & (half < 0.75)).all()


def test_every_epoch_and_every_seed_has_its_own_order():
  orders = [
    [e for batch in epoch_of(*make(seed=seed), epoch) for e in examples(batch)]
    for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1), (-1, 0))
  ]
  for a, b in itertools.combinations(orders, 2):
    assert sorted(a) == sorted(b)
    assert np.mean([x == y for x, y in zip(a, b)]) < 0.2
  # Not only the batches change places: other examples meet in them.
  meets = [
    {frozenset(examples(batch)) for batch in epoch_of(*make(), epoch)}
    for epoch in (0, 1)
  ]
  assert len(meets[0] & meets[1]) <= 2


def test_a_step_is_a_function_of_seed_and_step():
  feed, plan = make()
  assert 2 * plan.steps_per_epoch < 57
  in_turn = [batch_at(feed, plan, step) for step in range(58)][57]
  alone = batch_at(*make(), 57)
  for a, b in zip(in_turn, alone, strict=True):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)
  assert examples(alone) != examples(batch_at(*make(seed=1), 57))


def test_long_histories_keep_their_last_items():
  log = make_log([60])
  feed, plan = make(log, batch_size=60, widths=(2, 4))
  assert plan.widths == (2, 4)
  row = log.row(0).tolist()
  found = [e for batch in epoch_of(feed, plan) for e in examples(batch)]
  assert (0, tuple(row[55:59]), row[59]) in found
  assert (0, tuple(row[:4]), row[4]) in found
  assert (0, (-1, row[0]), row[1]) in found


def test_users_with_one_item():
  log = make_log([1] * 5)
  feed, plan = make(log, batch_size=3)
  assert plan.widths == (2,)
  assert plan.sizes == (5,)
  found = [e for batch in epoch_of(feed, plan) for e in examples(batch)]
  assert sorted(found) == [(u, (-1, -1), int(log.item_E[u])) for u in range(5)]


def test_drawn_targets_are_any_item_of_the_user_in_every_epoch_anew():
  """As many examples a user as interactions; each item as likely as the others."""
  log = make_log([1, 4, 6])
  feed, plan = make(log, widths=(0,), drawn=True, batch_size=4)
  number = collections.Counter()
  epochs = 400
  for epoch in range(epochs):
    found = [e for batch in epoch_of(feed, plan, epoch) for e in examples(batch)]
    assert collections.Counter(user for user, *_ in found) == {0: 1, 1: 4, 2: 6}
    for user, history, target in found:
      assert history == ()
      assert target in log.row(user)
      number[user, target] += 1
  for user, length in enumerate(log.length_U):
    assert len(set(log.row(user).tolist())) == length
    deviation = (epochs * (1 - 1 / length)) ** 0.5
    for item in log.row(user).tolist():
      assert abs(number[user, item] - epochs) <= 4.5 * deviation
  again = batch_at(*make(log, widths=(0,), drawn=True, batch_size=4), 7)
  np.testing.assert_array_equal(again.target_B, batch_at(feed, plan, 7).target_B)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60), st.integers(0, 3))
def test_packed_sequences_neither_overlap_nor_waste_rows(lengths, seed):
  width, length_N = 12, np.array(lengths)
  row_N, column_N = packing.pack(length_N, width, seed)
  taken_RH = np.zeros((row_N.max() + 1, width), int)
  for row, column, length in zip(row_N, column_N, lengths):
    assert column + length <= width
    taken_RH[row, column : column + length] += 1
  assert taken_RH.max() == 1
  assert (np.diff(taken_RH) <= 0).all(), "a hole before the end of a row"
  used_R = np.sort(taken_RH.sum(axis=1))
  assert used_R[:2].sum() > width or len(used_R) == 1, "two rows fit into one"


@given(
  st.lists(st.integers(1, 12), min_size=1, max_size=60),
  st.integers(1, 5),
  st.integers(0, 3),
)
def test_rows_hold_as_many_examples_as_they_may(lengths, most, seed):
  length_N = np.array(lengths)
  shared = packing.rows(length_N, most)
  row_N, column_N = packing.pack(length_N, shared.width, seed, most)
  assert np.bincount(row_N).max() <= most
  assert row_N.max() + 1 <= 1.01 * -(-len(lengths) // most)
  taken_RH = np.zeros((row_N.max() + 1, shared.width), int)
  for row, column, length in zip(row_N, column_N, lengths):
    taken_RH[row, column : column + length] += 1
  assert taken_RH.sum() == sum(lengths)
  assert taken_RH.max() == 1
  assert shared.width % 8 == 0
  if (narrower := shared.width - 8) >= max(lengths):
    row_N, _ = packing.pack(length_N, narrower, seed, most)
    fewest = -(-len(lengths) // most)
    assert narrower * fewest < sum(lengths) or row_N.max() + 1 > 1.01 * fewest


def test_rows_of_real_lengths_are_nearly_full():
  """Geometric lengths with a window, as histories have."""
  length_N = np.minimum(np.random.default_rng(0).geometric(0.15, 20_000) + 2, 42)
  for most in (8, 16):
    shared = packing.rows(length_N, most)
    row_N, _ = packing.pack(length_N, shared.width, 0, most)
    places = (row_N.max() + 1) * shared.width
    assert length_N.sum() > 0.9 * places
    assert len(length_N) > 0.99 * (row_N.max() + 1) * most


@pytest.mark.parametrize(("most", "batch_size"), [(2, 4), (4, 4), (3, 12)])
@pytest.mark.parametrize("drawn", [False, True])
def test_shared_rows_hold_every_position_once_an_epoch(most, batch_size, drawn):
  log, window = LOG, 10
  start_E = np.repeat(log.offset_U1[:-1], log.length_U)
  # A token for the user and two for each item.
  length_E = 1 + 2 * np.minimum(np.arange(len(start_E)) - start_E, window)
  shared = packing.rows(length_E, most)
  feed, plan = feed_lib.positions(
    log, seed=1, batch_size=batch_size, widths=(2, window), drawn=drawn, rows=shared
  )
  assert plan.batch_size == batch_size // most
  wanted = collections.Counter(
    (user, tuple(i for i in items if i >= 0), None if drawn else target)
    for user, items, target in oracle(log, (window,))
  )
  for epoch in (0, 2):
    found = collections.Counter()
    for batch in epoch_of(feed, plan, epoch):
      for row in zip(*batch):
        user_K, item_H, segment_H, target_K, weight_K = row
        assert (np.diff(segment_H) >= 0).all(), "a hole, or out of turn"
        assert len(user_K) == most
        read = 0
        for k in np.flatnonzero(weight_K):
          items = tuple(item_H[segment_H == k + 1].tolist())
          user, target = int(user_K[k]), int(target_K[k])
          assert not drawn or target in log.row(user)
          found[user, items, None if drawn else target] += 1
          read += 1 + 2 * len(items)
        assert read <= shared.width
        unused = np.flatnonzero(weight_K == 0)
        assert not np.isin(segment_H, unused + 1).any()
    assert found == wanted


def make_packs(log=LOG, *, seed=0, batch_size=3, width=10, whole=False):
  return feed_lib.packs(log, seed=seed, batch_size=batch_size, width=width, whole=whole)


def sequences(batch):
  """(items, what followed each) of every segment of the rows that weigh something."""
  found = []
  for item_H, segment_H, target_H, weight in zip(
    batch.history_BH, batch.segment_BH, batch.target_B, batch.weight_B
  ):
    np.testing.assert_array_equal(segment_H > 0, item_H >= 0)
    np.testing.assert_array_equal(segment_H > 0, target_H >= 0)
    for segment in range(1, segment_H.max() + 1) if weight else ():
      inside_H = segment_H == segment
      found.append((tuple(item_H[inside_H]), tuple(target_H[inside_H])))
  return found


def test_packs_hold_every_history_once_an_epoch():
  wanted = collections.Counter()
  for row in (LOG.row(user).tolist()[-11:] for user in range(LOG.num_users)):
    if len(row) > 1:
      wanted[tuple(row[:-1]), tuple(row[1:])] += 1
  for seed, epoch in ((0, 0), (0, 2), (5, 0)):
    feed, plan = make_packs(seed=seed)
    batches = epoch_of(feed, plan, epoch)
    assert collections.Counter(s for b in batches for s in sequences(b)) == wanted


@pytest.mark.parametrize("width", [1, 4, 10])
def test_whole_histories_are_taught_item_by_item(width):
  wanted = collections.Counter()
  for row in (LOG.row(user).tolist() for user in range(LOG.num_users)):
    for end in range(len(row), 1, -width):
      piece = row[max(end - width - 1, 0) : end]
      wanted[tuple(piece[:-1]), tuple(piece[1:])] += 1
  assert max(map(len, (history for history, _ in wanted))) == width
  batches = epoch_of(*make_packs(width=width, whole=True))
  assert collections.Counter(s for b in batches for s in sequences(b)) == wanted


def test_packs_change_their_order_and_with_the_seed_their_company():
  def rows(seed, epoch):
    log = make_log((3,) * 40)
    batches = epoch_of(*make_packs(log, seed=seed, batch_size=1), epoch)
    return [tuple(batch.history_BH[0]) for batch in batches]

  assert rows(0, 0) != rows(0, 1)
  assert sorted(rows(0, 0)) == sorted(rows(0, 1))
  assert sorted(rows(0, 0)) != sorted(rows(1, 0))


def test_the_last_batch_of_packs_is_filled_up_with_nothing():
  feed, plan = make_packs(batch_size=4)
  weight = sum(float(batch.weight_B.sum()) for batch in epoch_of(feed, plan))
  assert weight == plan.sizes[0] == len(feed.position_RH)
  assert plan.sizes[0] % 4, "nothing to fill up"


def test_a_log_without_a_sequence_is_refused():
  with pytest.raises(UserError, match="a history needs two training interactions"):
    make_packs(make_log((1, 1)))
