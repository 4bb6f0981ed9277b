"""Tests whether a log is sequential, by comparing it with shuffled histories."""

from typing import NamedTuple

import numpy as np

from lightlm_jax.data.interactions import Interactions

SUPPORT, CONFIDENCE = 5, 0.1
SHUFFLES = 5
FEWEST = 10  # with fewer rules no share is reported


class ShuffleTest(NamedTuple):
  """The number of rules "b follows a" in a log, and in shuffled copies of it.

  A pair (a, b) of items is a rule if b directly follows a in histories at least SUPPORT
  times, and in at least the share CONFIDENCE of all cases where some item follows a.
  """

  rules: int
  shuffled: tuple[int, ...]  # rules after each shuffle of every user's items

  @property
  def lost(self) -> float | None:
    """The share of the rules that shuffling destroys; None if rules < FEWEST."""
    if self.rules < FEWEST:
      return None
    return 1 - float(np.mean(self.shuffled)) / self.rules

  def __str__(self) -> str:
    counts = (
      f"order: {self.rules:,} rules that one item follows another, "
      f"{np.mean(self.shuffled):,.0f} with shuffled histories"
    )
    if self.lost is None:
      return f"{counts}; too few to say whether the log is sequential"
    return f"{counts}: {100 * self.lost:.0f} % are made by the order"


def shuffle_test(log: Interactions, seed: int = 0) -> ShuffleTest:
  """Counts the log's sequential rules, before and after shuffling each user's items.

  The test is that of Klenitskiy et al., "Does It Look Sequential?" (RecSys 2024, arXiv
  2408.12008), section 3.1, for rules of two items. If the result's `lost` is near 0,
  co-occurrence explains the rules; if it is near 1, the order of items does.
  """
  rng = np.random.default_rng(seed)
  user_E = log.user_E
  shuffled = []
  for _ in range(SHUFFLES):
    order_E = np.lexsort((rng.random(len(user_E)), user_E))
    shuffled.append(_rules(log.item_E[order_E], user_E, log.num_items))
  return ShuffleTest(_rules(log.item_E, user_E, log.num_items), tuple(shuffled))


def _rules(item_E: np.ndarray, user_E: np.ndarray, num_items: int) -> int:
  is_pair_E = user_E[1:] == user_E[:-1]
  before_P = item_E[:-1][is_pair_E].astype(np.int64)
  after_P = item_E[1:][is_pair_E]
  pair_R, support_R = np.unique(before_P * num_items + after_P, return_counts=True)
  followed_I = np.bincount(before_P, minlength=num_items)
  confidence_R = support_R / followed_I[pair_R // num_items]
  return int(((support_R >= SUPPORT) & (confidence_R >= CONFIDENCE)).sum())
