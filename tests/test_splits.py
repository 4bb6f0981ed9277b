"""Splits by time and by ratio against plain Python; none reads what it holds out."""

import dataclasses
import datetime
import json
import math

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest
from raw_logs import TIMED_ROWS, question, random_timed_rows, raw_rows, timed_log

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, formats, interactions, split_summary, splits
from lightlm_jax.runtime.errors import UserError

SHARES = st.sampled_from([0.05, 0.1, 0.2, 0.29, 0.45])


def temporal_by_hand(rows, validation_share, test_share, gap):
  """Training rows, questions of both windows."""
  times = sorted(time for row in rows.values() for time, _ in row)
  first, second = (
    times[min(round(share * len(times)), len(times) - 1)]
    for share in (1 - validation_share - test_share, 1 - test_share)
  )
  train, questions = {}, ({}, {})
  for user, row in rows.items():
    train[user] = [item for time, item in row if time < first - gap]
    for found, (start, end) in zip(
      questions, ((first, second - gap), (second, math.inf))
    ):
      before = [item for time, item in row if time < start]
      inside = [item for time, item in row if start <= time < end]
      if before and inside:
        found[user] = (before, inside[0])
  return train, *questions


# By time.


@given(TIMED_ROWS, SHARES, SHARES, st.integers(0, 9))
def test_temporal(rows, validation_share, test_share, gap):
  log = timed_log(rows)
  train, validation, test = temporal_by_hand(rows, validation_share, test_share, gap)
  shares = {"validation_share": validation_share, "test_share": test_share}
  if not any(train.values()) or not validation or not test:
    with pytest.raises(UserError, match=r"nothing to train on|no request"):
      splits.temporal(log, **shares, gap=gap)
    return
  split = splits.temporal(log, **shares, gap=gap)
  assert raw_rows(split.train) == train
  assert question(split.validation, log) == validation
  assert question(split.test, log) == test
  np.testing.assert_array_equal(split.train.user_ids, log.user_ids)
  np.testing.assert_array_equal(split.train.item_ids, log.item_ids)


def test_temporal_by_hand():
  rows = {
    "early": [(0, "a"), (1, "b"), (2, "c"), (3, "d"), (4, "e"), (5, "f"), (6, "g")],
    "gap": [(11, "a"), (30, "b")],
    "all": [(7, "a"), (12, "c"), (20, "d"), (21, "e"), (31, "f"), (32, "g")],
    "new": [(22, "a"), (23, "b")],
    "later": [(24, "a"), (33, "b")],
    "just": [(8, "c"), (29, "a")],
  }
  split = splits.temporal(timed_log(rows), validation_share=0.3, test_share=0.2, gap=3)
  # 21 interactions: the 11th is the first of validation, the 17th of test.
  assert split.cut_times == {
    "train_end": 9,
    "validation_start": 12,
    "validation_end": 27,
    "test_start": 30,
  }
  assert raw_rows(split.train) == {
    "early": list("abcdefg"),
    "gap": [],
    "all": ["a"],
    "new": [],
    "later": [],
    "just": ["c"],
  }
  log = timed_log(rows)
  # "just" comes in the gap before the test window, "new" and "later" are not known.
  assert question(split.validation, log) == {"all": (["a"], "c")}
  assert question(split.test, log) == {
    "gap": (["a"], "b"),
    "all": (list("acde"), "f"),
    "later": (["a"], "b"),
  }


@given(st.permutations(range(40)), st.sampled_from([0.1, 0.25, 0.3]))
def test_windows_have_their_shares_where_times_differ(times, share):
  rows = {f"u{u}": [(t, "a") for t in sorted(times[u::4])] for u in range(4)}
  try:
    cuts = splits.temporal(
      timed_log(rows), validation_share=share, test_share=share
    ).cut_times
  except UserError:
    return  # a window that asks nobody, in a log of four users
  size = round(40 * share)
  assert cuts["test_start"] == 40 - size
  assert cuts["validation_start"] == 40 - 2 * size


@pytest.mark.parametrize("gap", [0, 1, 40])
def test_training_ends_before_every_window(gap):
  log = timed_log(random_timed_rows())
  split = splits.temporal(log, validation_share=0.15, gap=gap)
  cuts = split.cut_times
  assert cuts["train_end"] + gap == cuts["validation_start"]
  assert cuts["validation_end"] + gap == cuts["test_start"]
  assert split.train.time_E.max() < cuts["validation_start"] - gap
  # Nothing before that was left out, either.
  assert len(split.train.time_E) == (log.time_E < cuts["train_end"]).sum()
  for requests, start in (
    (split.validation, cuts["validation_start"]),
    (split.test, cuts["test_start"]),
  ):
    # The target is the log's item at the place after the history.
    place_N = log.offset_U1[requests.user_N] + requests.length_N
    assert (log.item_E[place_N] == requests.target_N).all()
    assert (log.time_E[place_N] >= start).all()
    assert (log.time_E[place_N - 1] < start).all()
    assert split.train.time_E.max() < log.time_E[place_N].min() - gap


def test_a_log_without_times_cannot_be_split_by_them():
  log = interactions.from_sequences([("u", list("abcdefgh"))])
  with pytest.raises(UserError, match=r"no times, only an order; .*ml-100k.*ratio"):
    splits.temporal(log)


@pytest.mark.parametrize(
  ("wrong", "complaint"),
  [
    ({"gap": 2_000}, "gap=2000 leaves nothing to train on"),
    ({"gap": 110}, "leaves no request in the validation window"),
    ({"test_share": 1e-9}, "leaves no request in the validation"),
    ({"validation_share": 0.7, "test_share": 0.3}, r"\(0.7\) and test_share \(0.3\)"),
    ({"validation_share": 0.0}, r"validation_share \(0.0\)"),
    ({"test_share": float("nan")}, r"test_share \(nan\)"),
  ],
)
def test_a_split_that_leaves_nothing_is_one_line(wrong, complaint):
  rows = {u: [(100 * n + u, "a") for n in range(10)] for u in range(10)}
  log = timed_log({f"u{u}": row for u, row in rows.items()})
  splits.temporal(log)
  if "test_share" in wrong and wrong["test_share"] == 1e-9:
    # Both windows begin with the very last interaction.
    wrong = wrong | {"validation_share": 1e-9}
  with pytest.raises(UserError, match=complaint):
    splits.temporal(log, **wrong)
  if "gap" not in wrong and wrong.get("test_share") != 1e-9:
    with pytest.raises(UserError, match=complaint):
      splits.ratio(log, **wrong)


# By ratio.


@given(TIMED_ROWS, SHARES, SHARES)
def test_ratio(rows, validation_share, test_share):
  log = timed_log(rows)
  split = splits.ratio(log, validation_share=validation_share, test_share=test_share)
  train, validation, test = {}, {}, {}
  for user, row in rows.items():
    items = [item for _, item in row]
    n = len(items)
    test_size = int(round(test_share * 100) * n // 100)
    validation_size = int(round(validation_share * 100) * n // 100)
    if n < 3:
      train[user] = items
      continue
    last = n - max(test_size, 1)
    middle = last - max(validation_size, 1)
    train[user] = items[:middle]
    validation[user] = (items[:middle], items[middle])
    test[user] = (items[:last], items[last])
  assert raw_rows(split.train) == train
  assert question(split.validation, log) == validation
  assert question(split.test, log) == test


def test_ratio_by_hand():
  rows = {"ten": "abcdefghij", "twenty": "abcdefghijklmnopqrst", "three": "abc"}
  rows |= {"two": "ab", "nineteen": "abcdefghijklmnopqrs"}
  log = interactions.from_sequences((user, list(row)) for user, row in rows.items())
  split = splits.ratio(log)
  lengths = {user: len(row) for user, row in raw_rows(split.train).items()}
  assert lengths == {"ten": 8, "twenty": 16, "three": 1, "two": 2, "nineteen": 17}
  validation, test = question(split.validation, log), question(split.test, log)
  assert {user: target for user, (_, target) in validation.items()} == {
    "ten": "i",
    "twenty": "q",
    "three": "b",
    "nineteen": "r",
  }
  assert {user: target for user, (_, target) in test.items()} == {
    "ten": "j",
    "twenty": "s",
    "three": "c",
    "nineteen": "s",
  }
  assert test["twenty"][0] == list("abcdefghijklmnopqr")


def test_ratio_does_not_lose_an_item_to_rounding():
  assert 0.29 * 100 < 29
  log = interactions.from_sequences([("u", [str(i) for i in range(100)])])
  split = splits.ratio(log, validation_share=0.29, test_share=0.29)
  assert split.train.length_U.tolist() == [42]
  assert split.test.length_N.tolist() == [71]


@pytest.mark.parametrize(
  "shares", [(0.9, 0.05), (0.05, 0.9), (0.49, 0.5), (0.5, 0.5 - 1e-12)]
)
def test_ratio_always_leaves_something_to_train_on(shares):
  rows = [(f"u{n}", [str(i) for i in range(n)]) for n in range(1, 30)]
  log = interactions.from_sequences(rows)
  split = splits.ratio(log, validation_share=shares[0], test_share=shares[1])
  assert split.train.length_U.min() >= 1
  assert len(split.validation) == len(split.test) == 27
  assert (split.validation.length_N < split.test.length_N).all()


# All of them.


@pytest.mark.parametrize("kind", splits.SPLITS)
@pytest.mark.parametrize("seed", range(3))
def test_what_is_held_out_does_not_reach_training(kind, seed):
  log = timed_log(random_timed_rows(seed=seed))
  split = splits.SPLITS[kind](log)
  within_E = np.arange(len(log.item_E)) - log.offset_U1[log.user_E]
  held_E = np.flatnonzero(within_E >= split.train.length_U[log.user_E])
  assert len(held_E) or kind == "none"
  item_E = log.item_E.copy()
  item_E[held_E] = np.random.default_rng(seed).permutation(item_E[held_E])
  exchanged = dataclasses.replace(log, item_E=item_E)
  other = splits.SPLITS[kind](exchanged)
  for name in ("offset_U1", "item_E", "time_E", "user_ids", "item_ids"):
    one, two = getattr(split.train, name), getattr(other.train, name)
    assert one.tobytes() == two.tobytes(), name
  if kind != "none":
    assert (item_E != log.item_E).any()
    assert (split.test.target_N != other.test.target_N).any()
    # And the other way round: what is trained on is not asked for.
    train_places = split.train.length_U[split.validation.user_N]
    assert (split.validation.length_N >= train_places).all()
    assert (split.test.length_N >= split.train.length_U[split.test.user_N]).all()


# By configuration.


def test_make_reads_the_config_and_knows_the_defaults():
  log = timed_log(random_timed_rows())
  config = config_lib.load("demo:tiny", overrides={"split.kind": "temporal"}).split
  default = splits.make(config, log)
  assert default.withheld_I is None
  assert default.sha256 == splits.temporal(log).sha256
  config = dataclasses.replace(config, gap=7, test_share=0.2)
  assert splits.make(config, log).sha256 == (
    splits.temporal(log, test_share=0.2, gap=7).sha256
  )
  config = dataclasses.replace(config, kind="ratio")  # has no gap
  assert splits.make(config, log).sha256 == splits.ratio(log, test_share=0.2).sha256
  for kind in ("leave_one_out", "none"):
    config = dataclasses.replace(config, kind=kind)
    assert splits.make(config, log).sha256 == splits.SPLITS[kind](log).sha256
    withheld = splits.withhold(splits.SPLITS[kind](log), 0.2)
    config_withheld = dataclasses.replace(config, withheld=0.2)
    assert splits.make(config_withheld, log).sha256 == withheld.sha256


def test_a_run_that_is_older_than_the_fields_goes_on():
  new = config_lib.load("toys:tiny")
  old = json.loads(config_lib.to_json(new))
  assert config_lib.lacking(old) == []
  for name in ("validation_share", "test_share", "gap", "withheld"):
    del old["split"][name]
  del old["ids"]["cold"]
  assert config_lib.lacking(old) == []
  assert config_lib.differences(old, new) == []
  read = config_lib.replace(config_lib.from_tree(old), {"split.gap": 3})
  assert (read.split.withheld, read.split.gap, read.ids.cold) == (0.0, 3, "apart")
  # What it did without them is no other run's.
  changes = {"split.withheld": 0.1, "ids.cold": "attributes"}
  assert config_lib.differences(old, config_lib.load("toys:tiny", None, changes)) == [
    'ids.cold: "apart" → "attributes"',
    "split.withheld: 0.0 → 0.1",
  ]
  # Other fields are missed as before.
  del old["data"]["min_len"]
  assert config_lib.lacking(old) == ["data.min_len"]
  assert config_lib.differences(old, new) == ["data.min_len: absent → 1"]
  # A run that has them is not resumed with others.
  known = json.loads(config_lib.to_json(new))
  other = config_lib.load("toys:tiny", overrides={"split.gap": 3})
  assert config_lib.differences(known, other) == ["split.gap: 0 → 3"]


def test_the_digest_names_parameters_and_times():
  rows = random_timed_rows()
  log = timed_log(rows)
  later = dataclasses.replace(log, time_E=log.time_E + 1)
  unknown = dataclasses.replace(log, time_E=None)
  digests = [
    splits.temporal(log).sha256,
    splits.temporal(later).sha256,
    splits.temporal(log, gap=1).sha256,
    splits.temporal(log, test_share=0.11).sha256,
    splits.temporal(log, validation_share=0.11).sha256,
    splits.ratio(log).sha256,
    splits.ratio(unknown).sha256,
    splits.ratio(log, test_share=0.11).sha256,
    splits.ratio(log, validation_share=0.11).sha256,
    splits.leave_one_out(log).sha256,
    splits.leave_one_out(unknown).sha256,
  ]
  assert len(set(digests)) == len(digests)


def test_the_digests_of_earlier_runs_stay():
  rows = {"one": ["a"], "two": ["a", "b"], "three": ["a", "b", "c"]}
  log = interactions.from_sequences(rows.items())
  for split, digest in (
    (splits.leave_one_out, "ca837783e40d5e98a09c8cebd02436c7054afee0236556804282d9078"),
    (splits.everything, "0ceaff170226fe7678e87d931850c801f354e8bda859a72c73afaf994a"),
  ):
    assert split(log).sha256.startswith(digest)


# The manifest.


def test_manifest_by_hand():
  rows = {
    "a": [(0, "x"), (1, "y"), (2, "z"), (3, "x"), (4, "x")],
    "b": [(0, "y"), (1, "x"), (2, "y"), (3, "z"), (4, "w")],
    "c": [(2, "z")],
  }
  log = timed_log(rows)
  split = splits.leave_one_out(log)
  found = split_summary.summary(split, log)
  assert found == {
    "kind": "leave_one_out",
    "parameters": {},
    "sha256": split.sha256,
    "users": 3,
    "items": 4,
    "interactions": 11,
    "log_times": {
      "first": "1970-01-01T00:00:00+00:00",
      "last": "1970-01-01T00:00:04+00:00",
    },
    "cut_times": None,
    "train": {"users": 3, "items": 3, "interactions": 7},
    "validation": {
      "requests": 2,
      "repeated_targets": 1,
      "cold_targets": 0,
      "untrained_users": 0,
    },
    "test": {
      "requests": 2,
      "repeated_targets": 1,
      "cold_targets": 1,
      "untrained_users": 0,
    },
  }
  withheld = splits.withhold(split, 0.25)
  assert log.item_ids[withheld.withheld_I].tolist() == ["y"]
  assert split_summary.summary(withheld, log) == found | {
    "parameters": {"withheld": 0.25},
    "sha256": withheld.sha256,
    "train": {"users": 3, "items": 2, "interactions": 4},
    "withheld_items": 1,
  }
  nothing = split_summary.summary(splits.everything(log), log)
  assert nothing["validation"] is nothing["test"] is None
  assert nothing["train"]["interactions"] == 11


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.parametrize("kind", splits.SPLITS)
def test_manifest_counts_and_is_json(kind, share):
  log = timed_log(random_timed_rows())
  split = splits.withhold(splits.SPLITS[kind](log), share)
  found = json.loads(json.dumps(split_summary.summary(split, log)))
  assert found["kind"] == kind
  trained = set(split.train.item_E.tolist())
  for name in ("validation", "test"):
    requests = getattr(split, name)
    if requests is None:
      assert found[name] is None
      continue
    pairs = [
      (requests.row(n).tolist(), t) for n, t in enumerate(requests.target_N.tolist())
    ]
    assert found[name] == {
      "requests": len(pairs),
      "repeated_targets": sum(target in history for history, target in pairs),
      "cold_targets": sum(target not in trained for _, target in pairs),
      "untrained_users": sum(len(split.train.row(u)) == 0 for u in requests.user_N),
    }
  if kind == "temporal":
    assert found["parameters"] == {
      "validation_share": 0.1,
      "test_share": 0.1,
      "gap": 0,
    } | ({"withheld": share} if share else {})
    for name, time in found["cut_times"].items():
      seconds = datetime.datetime.fromisoformat(time).timestamp()
      assert seconds == split.cut_times[name]


def test_manifest_of_nobody_question():
  log = interactions.from_sequences([("u", ["a", "b"])])
  found = split_summary.summary(splits.leave_one_out(log), log)
  assert found["test"]["requests"] == 0
  assert found["log_times"] is None


# Real logs.


def test_movielens_by_time(data_dir):
  fields = {"data.name": "ml-100k", "data.dir": str(data_dir)}
  config = config_lib.load("toys", overrides=fields)
  log = datasets.load(config).log
  split = splits.temporal(log)
  found = split_summary.summary(split, log)
  assert found["log_times"]["first"] == "1997-09-20T03:05:10+00:00"
  assert found["log_times"]["last"] == "1998-04-22T23:10:38+00:00"
  assert found["cut_times"]["validation_start"] == "1998-03-07T02:21:09+00:00"
  assert found["cut_times"]["test_start"] == "1998-03-31T22:11:49+00:00"
  assert found["train"] == {"users": 751, "items": 1_616, "interactions": 79_999}
  # Most people rate on one day: few are known when a window opens and come back in it.
  assert [found[name]["requests"] for name in ("validation", "test")] == [81, 90]
  assert found["test"]["cold_targets"] == 8
  assert found["test"]["untrained_users"] == 21


def test_toys_by_ratio_and_by_leave_one_out(data_dir):
  log = formats.read_sequences(data_dir / "toys" / "sequences.txt")
  one_out = split_summary.summary(splits.leave_one_out(log), log)
  assert (one_out["users"], one_out["items"]) == (19_412, 11_924)
  assert one_out["interactions"] == 167_597
  assert one_out["test"]["requests"] == 19_412
  assert one_out["test"]["cold_targets"] == 279
  assert one_out["train"]["interactions"] == 167_597 - 2 * 19_412
  assert split_summary.summary(splits.ratio(log), log)["test"]["requests"] == 19_412
  cold = split_summary.summary(splits.withhold(splits.leave_one_out(log), 0.02), log)
  assert cold["withheld_items"] == 238
  assert cold["validation"]["requests"] == 19_070
  assert cold["test"]["requests"] == 19_412
  assert cold["test"]["cold_targets"] == 555
  with pytest.raises(UserError, match="no times"):
    splits.temporal(log)
