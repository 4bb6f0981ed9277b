"""Slices against labels given one by one; they part the requests and lose nobody."""

import collections

from hypothesis import given
from hypothesis import strategies as st
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, interactions, splits
from lightlm_jax.evaluation import exposure, slices


def named(labels):
  return [labels.names[index] for index in labels.index_N]


def test_lengths_fall_into_their_bins():
  edges = {"0": 0, "1-2": 2, "3-5": 5, "6-10": 10, "11-20": 20, "21-50": 50}
  expected, first = [], 0
  for name, last in edges.items():
    expected += [name] * (last + 1 - first)
    first = last + 1
  expected += ["51+"] * 20
  assert named(slices.by_length(np.arange(71))) == expected


@given(
  hnp.arrays(np.int64, st.integers(1, 40), elements=st.integers(0, 6)), st.randoms()
)
def test_popularity_is_by_how_many_items_were_bought_more_often(bought_I, random):
  I = len(bought_I)
  head = max(1, round(exposure.HEAD * I))
  both = max(1, round((exposure.HEAD + slices.MIDDLE) * I))
  expected = []
  for bought in bought_I:
    more = sum(other > bought for other in bought_I)
    expected.append(
      "cold"
      if not bought
      else "head"
      if more < head
      else "middle"
      if more < both
      else "tail"
    )
  assert named(slices.by_popularity(np.arange(I), bought_I)) == expected
  # Item numbers decide nothing.
  order_I = np.array(random.sample(range(I), I))
  other = named(slices.by_popularity(np.arange(I), bought_I[order_I]))
  assert other == [expected[item] for item in order_I]


def test_popularity_by_hand():
  bought_I = np.array([9, 8, 7, 6, 5, 4, 3, 2, 1, 0])
  named_I = named(slices.by_popularity(np.arange(10), bought_I))
  assert named_I == ["head"] * 2 + ["middle"] * 3 + ["tail"] * 4 + ["cold"]
  # The second and the third are level: both are in the head, and the middle ends
  # where it ended.
  bought_I[2] = 8
  assert named(slices.by_popularity(np.arange(10), bought_I)) == (
    ["head"] * 3 + ["middle"] * 2 + ["tail"] * 4 + ["cold"]
  )
  targets = slices.by_popularity(np.array([9, 0, 0]), bought_I)
  assert named(targets) == ["cold", "head", "head"]
  assert named(slices.by_popularity(np.arange(3), np.full(3, 4))) == ["head"] * 3


def small_split():
  """Rows with repeats and with users and items that training does not hold."""
  rng = np.random.default_rng(0)
  rows = {f"u{u}": rng.integers(25, size=n) for u, n in enumerate(range(1, 60))}
  starts = rng.integers(500, size=60)
  log = interactions.from_sequences(
    ((user, [f"i{item}" for item in row]) for user, row in rows.items()),
    times=[np.arange(len(r)) * 9 + s for r, s in zip(rows.values(), starts)],
  )
  return splits.temporal(log, validation_share=0.3, test_share=0.3)


def test_labels_are_those_of_each_request():
  split = small_split()
  labels = slices.label(split.test, split.train)
  train_count = collections.Counter(split.train.item_E.tolist())
  seen = {name: set() for name in labels}
  for n in range(len(split.test)):
    history, target = split.test.row(n).tolist(), int(split.test.target_N[n])
    found = {name: named(labels[name])[n] for name in labels}
    low, _, high = found["history"].partition("-")
    assert int(low.rstrip("+")) <= len(history) <= int(high or 10**6)
    assert (found["repeat"] == "repeated") == (target in history)
    assert (found["target"] == "cold") == (train_count[target] == 0)
    known = len(split.train.row(split.test.user_N[n])) > 0
    assert found["user"] == ("in_training" if known else "new")
    for name, value in found.items():
      seen[name].add(value)
  # It was of something.
  assert seen["repeat"] == {"repeated", "first_time"}
  assert seen["user"] == {"in_training", "new"}
  assert len(seen["history"]) > 3


def test_slices_part_the_requests():
  split = small_split()
  N = len(split.test)
  rng = np.random.default_rng(1)
  values = {"ndcg@10": rng.random(N), "hr@10": rng.random(N) < 0.3}
  found = slices.summarise(values, slices.label(split.test, split.train))
  assert found.keys() == {"history", "user", "target", "repeat"}
  for parts in found.values():
    assert sum(part["users"] for part in parts.values()) == N
    for metric, value_N in values.items():
      whole = sum(
        part["users"] * part["mean"][metric] for part in parts.values() if part["users"]
      )
      assert whole / N == pytest.approx(value_N.mean())


def test_summarise_by_hand():
  labels = {"side": slices.Labels(("left", "right", "none"), np.array([1, 0, 1, 1]))}
  values = {"a": np.array([1.0, 5.0, 2.0, 6.0]), "b": np.array([1, 0, 0, 1], bool)}
  assert slices.summarise(values, labels) == {
    "side": {
      "left": {"users": 1, "mean": {"a": 5.0, "b": 0.0}},
      "right": {"users": 3, "mean": {"a": 3.0, "b": 2 / 3}},
      "none": {"users": 0, "mean": {"a": None, "b": None}},
    }
  }


# name: users asked at test, cold targets, repeated targets, by leave-one-out.
REAL = {"toys": (19_412, 279, 0), "ml-100k": (943, 3, 0)}


@pytest.mark.parametrize("name", REAL)
def test_slices_of_real_logs(data_dir, name):
  fields = {"data.name": name, "data.dir": str(data_dir)}
  config = config_lib.load("toys", overrides=fields)
  split = splits.leave_one_out(datasets.load(config).log)
  found = slices.summarise({}, slices.label(split.test, split.train))
  users, cold, repeated = REAL[name]
  assert {
    sum(part["users"] for part in parts.values()) for parts in found.values()
  } == {users}
  assert found["target"]["cold"]["users"] == cold
  assert found["repeat"]["repeated"]["users"] == repeated
  assert found["user"]["new"]["users"] == 0
  assert found["history"]["0"]["users"] == 0
  # A fifth of the items has more than a fifth of the targets, on any log.
  assert found["target"]["head"]["users"] > 0.3 * users
