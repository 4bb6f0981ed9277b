"""Tests how much of a next-item score hangs on the order of rows with equal times.

A log in which rows of equal times are sorted, by item say, looks sequential without
being so. The test ranks items by how often they directly follow the last item of a
history, first on the log as it is, then with ties in random orders.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import scipy.sparse

from lightlm_jax.data.interactions import Interactions, concatenate_rows, tied
from lightlm_jax.data.splits import Requests
from lightlm_jax.evaluation import metrics
from lightlm_jax.evaluation.leaks import CHUNK, MARGIN, SplitOf

ORDERS = 5  # random orders of the ties
MOST = 10_000  # requests that are ranked; users are in hash order: they are a sample


class TieTest(NamedTuple):
  """NDCG@10 of the validation targets, by what directly follows what in training."""

  share: float  # of the interactions that have the time of another one of their user
  ndcg_as_is: float
  ndcg_rebroken: tuple[float, ...]  # with ties in random orders

  @property
  def failure(self) -> str | None:
    """A line of text if the log's order of ties predicts the next item, else None."""
    middle, spread = np.mean(self.ndcg_rebroken), np.ptp(self.ndcg_rebroken)
    if self.ndcg_as_is <= middle + 2 * spread + MARGIN:
      return None
    return (
      f"the order of rows with equal times ({100 * self.share:.0f} % of the log) tells "
      f"the next item: NDCG@10 by what follows what is {self.ndcg_as_is:.3f}, with "
      f"these rows in other orders {middle:.3f}; prepare the log with --ties=hash"
    )

  def __str__(self) -> str:
    others = ", ".join(f"{value:.4f}" for value in self.ndcg_rebroken)
    return (
      f"equal times: {100 * self.share:.1f} % of the interactions; NDCG@10 by what "
      f"follows what {self.ndcg_as_is:.4f}; these in other orders {others}"
    )


def tie_test(log: Interactions, split_of: SplitOf, seed: int = 0) -> TieTest | None:
  """Tests the order of a user's interactions with equal times; None without times.

  Times of a log that was prepared count to the microsecond, those of other logs to the
  second: there, what happened within a second counts as tied.
  """
  moment_E = log.moment_E
  if moment_E is None:
    return None
  rng = np.random.default_rng(seed)
  tied_E = np.flatnonzero(tied(log.offset_U1, moment_E))
  by_E = moment_E[tied_E], log.user_E[tied_E]
  rebroken = []
  for _ in range(ORDERS):
    item_E = log.item_E.copy()
    order_E = np.lexsort((rng.random(len(tied_E)), *by_E))
    item_E[tied_E] = item_E[tied_E[order_E]]
    rebroken.append(_ndcg(dataclasses.replace(log, item_E=item_E), split_of))
  share = len(tied_E) / len(moment_E)
  return TieTest(share, _ndcg(log, split_of), tuple(rebroken))


def follower_ranks(
  train: Interactions, requests: Requests
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the targets' rank_N and ties_N, as in `Ranks`, in a ranking by counts.

  Items are ranked by how often they directly follow the last item of the request's
  history in `train`, ties by how often they occur there. No item is excluded.
  """
  is_pair_E = train.user_E[1:] == train.user_E[:-1]
  pair_P2 = train.item_E[:-1][is_pair_E], train.item_E[1:][is_pair_E]
  ones_P = np.ones(len(pair_P2[0]), np.int64)
  follows_II = scipy.sparse.csr_array((ones_P, pair_P2), (train.num_items,) * 2)
  # The key of an item that never follows: below 1 / unit of any that does.
  rare_I = np.bincount(train.item_E, minlength=train.num_items)
  unit, sorted_I = 1 + len(train.item_E), np.sort(rare_I)
  last_N = requests.item_E[requests.offset_N1[1:] - 1]
  above_N, equal_N = np.zeros((2, len(requests)), np.int64)
  for start in range(0, len(requests), CHUNK):
    rows = slice(start, start + CHUNK)
    target_R, last_R = requests.target_N[rows], last_N[rows]
    first_R = follows_II.indptr[last_R]
    length_R = follows_II.indptr[last_R + 1] - first_R
    row_P = np.repeat(np.arange(len(last_R)), length_R)
    item_P = concatenate_rows(follows_II.indices, first_R, length_R)
    key_P = rare_I[item_P] + unit * concatenate_rows(follows_II.data, first_R, length_R)
    key_R = rare_I[target_R]
    is_target_P = item_P == target_R[row_P]
    key_R[row_P[is_target_P]] = key_P[is_target_P]
    # All items by their occurrences alone, then those that follow by their own keys.
    left_R, right_R = (np.searchsorted(sorted_I, key_R, s) for s in ("left", "right"))
    above_R, equal_R = len(sorted_I) - right_R, right_R - left_R
    for sign, value_P in ((-1, rare_I[item_P]), (1, key_P)):
      for found_R, is_P in (
        (above_R, value_P > key_R[row_P]),
        (equal_R, value_P == key_R[row_P]),
      ):
        found_R += sign * np.bincount(row_P[is_P], minlength=len(found_R))
    above_N[rows], equal_N[rows] = above_R, equal_R
  return 1 + above_N, equal_N - 1


def _ndcg(log: Interactions, split_of: SplitOf) -> float:
  split = split_of(log)
  assert split.validation is not None
  requests = split.validation.take(np.arange(min(MOST, len(split.validation))))
  return float(metrics.ndcg(*follower_ranks(split.train, requests), k=10).mean())
