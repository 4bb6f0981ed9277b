"""Averages metrics over slices of requests, by history, user, target and repetition.

Each dimension puts every request into one slice. So the sizes of its slices add up to
all requests, and the slices' means, weighted by size, give the overall mean. An item's
popularity, and whether a user is new, follow from the training interactions only.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.evaluation.exposure import HEAD

# The upper end of each slice of history lengths; the last slice is open.
LONGEST = (0, 2, 5, 10, 20, 50)
LENGTHS = ("0", "1-2", "3-5", "6-10", "11-20", "21-50", "51+")
MIDDLE = 0.3  # the next most popular share after the head, called the middle


class Labels(NamedTuple):
  """The slice of each request in one dimension, such as the length of the history."""

  names: tuple[str, ...]  # of the slices, in the order of a table
  index_N: np.ndarray  # int64, the slice of each request


def label(requests: Requests, train: Interactions) -> dict[str, Labels]:
  """Returns {dimension: labels}; dimensions: history, user, target, repeat.

  A "new" user has no training interactions, as occurs in splits by time: the history
  then consists of held-out interactions. A "repeated" target is in the history.
  """
  bought_I = np.bincount(train.item_E, minlength=train.num_items)
  is_new_N = train.length_U[requests.user_N] == 0
  return {
    "history": by_length(requests.length_N),
    "user": Labels(("in_training", "new"), is_new_N.astype(np.int64)),
    "target": by_popularity(requests.target_N, bought_I),
    "repeat": Labels(("first_time", "repeated"), requests.repeated_N.astype(np.int64)),
  }


def summarise(
  values: Mapping[str, np.ndarray], labels: Mapping[str, Labels]
) -> dict[str, dict[str, dict[str, Any]]]:
  """Returns {dimension: {slice: {users, mean {metric: float64}}}}.

  The means of an empty slice are None.

  Args:
    values: metric → [N], the value of each request, numbers or bool.
    labels: dimension → its `Labels` for the same requests.
  """
  found = {}
  for dimension, (names, index_N) in labels.items():
    found[dimension] = {}
    for place, name in enumerate(names):
      inside_N = index_N == place
      mean = {
        metric: float(np.mean(value_N[inside_N])) if inside_N.any() else None
        for metric, value_N in values.items()
      }
      found[dimension][name] = {"users": int(inside_N.sum()), "mean": mean}
  return found


def by_length(length_N: np.ndarray) -> Labels:
  """Labels requests by the length of their whole history, in the bins `LENGTHS`."""
  return Labels(LENGTHS, np.searchsorted(LONGEST, length_N, side="left"))


def by_popularity(target_N: np.ndarray, bought_I: np.ndarray) -> Labels:
  """Labels requests by the popularity of their target: head, middle, tail or cold.

  bought_I is the number of training interactions of each item. The head is the most
  popular share `HEAD` of the catalogue, the middle the next share `MIDDLE`, the tail
  the other items with interactions; cold items have none. Items that tie at a border
  are in the more popular slice, so head and middle can exceed their shares.
  """
  head, both = (max(1, round(share * len(bought_I))) for share in (HEAD, HEAD + MIDDLE))
  ascending_I = np.sort(bought_I)
  bought_N = np.asarray(bought_I)[target_N]
  more_N = len(ascending_I) - np.searchsorted(ascending_I, bought_N, side="right")
  index_N = np.searchsorted([head, both], more_N, side="right")
  return Labels(("head", "middle", "tail", "cold"), np.where(bought_N, index_N, 3))
