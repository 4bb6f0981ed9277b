"""Summarises a split in numbers, without any id, for a run's split.json."""

import datetime
from typing import Any

import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests, Split


def summary(split: Split, log: Interactions) -> dict[str, Any]:
  """Returns the size of every part of a split of `log`, ready for JSON.

  Returns:
    A dict: kind, parameters and sha256 of the split; users, items and interactions of
    the log; log_times {first, last} (None = unknown); cut_times (None = no split by
    time); train {users, items, interactions}; validation and test (None = not held out)
    {requests, repeated_targets, cold_targets, untrained_users}; withheld_items, only if
    items are withheld. Times are ISO 8601, UTC. Repeated targets are in the request's
    own history; cold targets and untrained users have no training interactions.
  """
  bought_I = np.bincount(split.train.item_E, minlength=log.num_items)
  length_U = split.train.length_U

  def held_out(requests: Requests | None):
    if requests is None:
      return None
    return {
      "requests": len(requests),
      "repeated_targets": int(requests.repeated_N.sum()),
      "cold_targets": int((bought_I[requests.target_N] == 0).sum()),
      "untrained_users": int((length_U[requests.user_N] == 0).sum()),
    }

  log_times = None
  if log.time_E is not None and len(log.time_E):
    log_times = {"first": _iso(log.time_E.min()), "last": _iso(log.time_E.max())}
  cut_times = split.cut_times and {n: _iso(s) for n, s in split.cut_times.items()}
  withheld = {}
  if split.withheld_I is not None:
    withheld["withheld_items"] = int(split.withheld_I.sum())
  return {
    "kind": split.kind,
    "parameters": dict(split.parameters),
    "sha256": split.sha256,
    "users": log.num_users,
    "items": log.num_items,
    "interactions": len(log.item_E),
    "log_times": log_times,
    "cut_times": cut_times,
    "train": {
      "users": int((length_U > 0).sum()),
      "items": int((bought_I > 0).sum()),
      "interactions": len(split.train.item_E),
    },
    "validation": held_out(split.validation),
    "test": held_out(split.test),
  } | withheld


def _iso(seconds: int) -> str:
  return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).isoformat()
