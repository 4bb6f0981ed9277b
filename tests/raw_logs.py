"""Logs by raw ids that the tests of data share."""

import dataclasses

from hypothesis import strategies as st
import numpy as np

from lightlm_jax.data import interactions

# Numbers that look alike, and letters of one, two and four bytes.
RAW = st.sampled_from("7 07 007 70 a A ä 𝄞 u-1".split()) | st.text("01x", min_size=1)
LOGS = st.dictionaries(RAW, st.lists(RAW, min_size=1, max_size=6), min_size=1)
# As in u.data: two users, equal times, an item whose name differs by case alone.
HEADER = "user-id\titem-id\trating\ttimestamp\n"
RATED = "u2\tc\t1\t30\nu1\ta\t3\t20\nu1\tb\t2.5\t10\nu1\tA\t5\t20\n"

# Few times and few items, so that many are equal.
TIMED_ROWS = st.dictionaries(
  st.text("uvw", min_size=1, max_size=4),
  st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abcdefg")), min_size=1),
  min_size=1,
).map(lambda rows: {u: sorted(row, key=lambda p: p[0]) for u, row in rows.items()})


def raw_rows(log):
  """The log as it was given: raw user → raw items."""
  return {
    str(user): log.item_ids[log.row(u)].tolist() for u, user in enumerate(log.user_ids)
  }


def same(a, b):
  return all(
    x is y if x is None or y is None else x.dtype == y.dtype and np.array_equal(x, y)
    for x, y in zip(dataclasses.astuple(a), dataclasses.astuple(b), strict=True)
  )


def timed_rows(log):
  """Raw user → (seconds, raw item), oldest first."""
  rated = list(zip(log.time_E.tolist(), log.item_ids[log.item_E].tolist()))
  return {
    str(user): rated[log.offset_U1[u] : log.offset_U1[u + 1]]
    for u, user in enumerate(log.user_ids)
  }


def random_rows(num_users=50, num_items=40, longest=7, seed=0):
  rng = np.random.default_rng(seed)
  return {
    f"u{u}": [f"i{i}" for i in rng.integers(num_items, size=rng.integers(1, longest))]
    for u in range(num_users)
  }


def question(requests, log):
  """Raw user → (raw history, raw target); nobody is asked twice."""
  assert len(set(requests.user_N.tolist())) == len(requests)
  assert requests.user_N.dtype == requests.target_N.dtype == np.int32
  return {
    str(log.user_ids[user]): (
      log.item_ids[requests.row(n)].tolist(),
      str(log.item_ids[requests.target_N[n]]),
    )
    for n, user in enumerate(requests.user_N)
  }


def timed_log(rows):
  return interactions.from_sequences(
    ((user, [item for _, item in row]) for user, row in rows.items()),
    times=[[time for time, _ in row] for row in rows.values()],
  )


def random_timed_rows(num_users=60, longest=20, seed=0):
  rng = np.random.default_rng(seed)
  return {
    f"u{u}": sorted(
      ((int(rng.integers(1_000)), f"i{rng.integers(30)}") for _ in range(length)),
      key=lambda pair: pair[0],
    )
    for u, length in enumerate(rng.integers(1, longest, size=num_users))
  }
