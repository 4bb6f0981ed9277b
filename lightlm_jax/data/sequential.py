"""Is a log sequential at all? What its order says, against its order shuffled."""

from typing import NamedTuple

import numpy as np

from lightlm_jax.data.interactions import Interactions

SUPPORT, CONFIDENCE = 5, 0.1
SHUFFLES = 5
FEWEST = 10  # rules of which a share says something


class ShuffleTest(NamedTuple):
  """How many rules "b follows a" a log holds, and how many by chance.

  Attributes:
    rules: pairs (a, b) where b stands right behind a at least SUPPORT times, and behind
      at least CONFIDENCE of what stands behind a.
    shuffled: as many of the same log, each user's items in random order, a number a
      shuffle.
  """

  rules: int
  shuffled: tuple[int, ...]

  @property
  def lost(self) -> float | None:
    """The share of the rules that order makes; None where there are too few to say."""
    if self.rules < FEWEST:
      return None
    return 1 - float(np.mean(self.shuffled)) / self.rules

  def __str__(self) -> str:
    said = (
      f"order: {self.rules:,} rules that one item follows another, "
      f"{np.mean(self.shuffled):,.0f} with shuffled histories"
    )
    if self.lost is None:
      return f"{said}; too few to say whether the log is sequential"
    return f"{said}: {100 * self.lost:.0f} % are made by the order"


def shuffle_test(log: Interactions, seed: int = 0) -> ShuffleTest:
  """Counts sequential rules before and after shuffling every user's items.

  Klenitskiy et al., "Does It Look Sequential?" (RecSys 2024, arXiv 2408.12008), section
  3.1, with rules of two items. Around 0 what is lost says that only the company of
  items counts in this log, not their order; towards 1, that order is what there is.

  Args:
    log: the whole log, nothing of it held out.
    seed: of the shuffles.
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
