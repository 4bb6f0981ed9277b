"""The metrics of slices of the requests, such as long histories or tail items.

A dimension cuts the requests into slices, each request into one: their users add up to
all users, and their means, weighted by users, to the mean over all. What makes a
request head or tail, known or not, is counted in the training interactions alone.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.evaluation.exposure import HEAD

# The longest history of each slice; one more holds what is longer.
LONGEST = (0, 2, 5, 10, 20, 50)
LENGTHS = ("0", "1-2", "3-5", "6-10", "11-20", "21-50", "51+")
MIDDLE = 0.3  # share of the catalogue, after the head, that counts as its middle


class Labels(NamedTuple):
  """One dimension.

  Attributes:
    names: of its slices, in the order of a table.
    index_N: int64, each request's slice.
  """

  names: tuple[str, ...]
  index_N: np.ndarray


def label(requests: Requests, train: Interactions) -> dict[str, Labels]:
  """Every dimension that there is, by name; see the functions below."""
  bought_I = np.bincount(train.item_E, minlength=train.num_items)
  return {
    "history": by_length(requests.length_N),
    "user": by_user(train.length_U[requests.user_N]),
    "target": by_popularity(requests.target_N, bought_I),
    "repeat": by_repeat(requests.repeated_N),
  }


def summarise(
  values: Mapping[str, np.ndarray], labels: Mapping[str, Labels]
) -> dict[str, dict[str, dict[str, Any]]]:
  """Means by slice.

  Args:
    values: metric → its value for each of N requests, numbers or bool.
    labels: dimension → its `Labels` of the same requests.

  Returns:
    {dimension: {slice: {users, mean {metric: float64}}}}, slices in the order of their
    names; the means of a slice of nobody are None.
  """
  return {
    dimension: {
      name: {
        "users": int(inside_N.sum()),
        "mean": {
          metric: float(np.mean(value_N[inside_N])) if inside_N.any() else None
          for metric, value_N in values.items()
        },
      }
      for place, name in enumerate(names)
      for inside_N in [index_N == place]
    }
    for dimension, (names, index_N) in labels.items()
  }


def by_length(length_N: np.ndarray) -> Labels:
  """Requests by the length of their whole history, read or not: the bins `LENGTHS`."""
  return Labels(LENGTHS, np.searchsorted(LONGEST, length_N, side="left"))


def by_user(length_N: np.ndarray) -> Labels:
  """Requests by their user's training interactions: in_training, or new with none.

  A new user is known at the time of asking from held-out interactions alone, which
  splits by time bring about.
  """
  return Labels(("in_training", "new"), (np.asarray(length_N) == 0).astype(np.int64))


def by_popularity(target_N: np.ndarray, bought_I: np.ndarray) -> Labels:
  """Requests by how often their target was bought: head, middle, tail or cold.

  head: the most bought `HEAD` of the catalogue, as in exposure.py; middle: the next
  `MIDDLE`; tail: the others that training holds; cold: never in training. Items bought
  equally often are in one slice, so that no item number decides: an item is in the
  head if fewer than that many items were bought more often, and so on. Head and middle
  may thus be larger than their shares.

  Args:
    target_N: catalogue indices.
    bought_I: training interactions of each item.
  """
  head, both = (max(1, round(share * len(bought_I))) for share in (HEAD, HEAD + MIDDLE))
  ascending_I = np.sort(bought_I)
  bought_N = np.asarray(bought_I)[target_N]
  more_N = len(ascending_I) - np.searchsorted(ascending_I, bought_N, side="right")
  index_N = np.searchsorted([head, both], more_N, side="right")
  return Labels(("head", "middle", "tail", "cold"), np.where(bought_N, index_N, 3))


def by_repeat(repeated_N: np.ndarray) -> Labels:
  """Requests by whether their target is in their history: first_time or repeated."""
  return Labels(("first_time", "repeated"), np.asarray(repeated_N).astype(np.int64))
