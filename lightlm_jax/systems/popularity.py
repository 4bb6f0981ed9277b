"""Popularity: the same list for everyone, most bought first: ever, or of late.

Where tastes move on, recent popularity is the fairer baseline (Ji et al. 2020, "A
Re-visit of the Popularity Baseline in Recommender Systems").
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.systems.base import Built, in_catalogue_order
from lightlm_jax.systems.item_scores import ItemScorer

# Without times: so many of each user's last interactions count. Chosen for NDCG@10 on
# the validation of Toys, Beauty and Yelp; 1 and 3 lie within a thousandth of it.
RECENT_PLACES = 2
RECENT_SHARE = 0.1  # with times: the last so many of all training interactions count


@dataclasses.dataclass(frozen=True, kw_only=True)
class Popularity(ItemScorer):
  """The baseline `pop`: parameters are [I] float32, interactions of each item."""

  name: str = "pop"

  def fit(self, train: Interactions) -> jax.Array:
    return _count(train.item_E, train.num_items)

  def scores(self, params: jax.Array, tables: Any, batch: Batch) -> jax.Array:
    """[B, I] float32: the counts, the same for each request."""
    return jnp.broadcast_to(params, (batch.history_BH.shape[0], params.shape[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecentPopularity(Popularity):
  """The baseline `recent_pop`: only the last interactions count.

  Where the log has times, those of the last `RECENT_SHARE` of all training
  interactions, with all that share the first one's time. Otherwise the order between
  users is unknown, and the last `RECENT_PLACES` of each user count.
  """

  name: str = "recent_pop"

  def fit(self, train: Interactions) -> jax.Array:
    if train.time_E is not None:
      newest = math.ceil(RECENT_SHARE * len(train.time_E))
      recent_E = train.time_E >= np.sort(train.time_E)[-newest]
    else:
      end_E = np.repeat(train.offset_U1[1:], train.length_U)
      recent_E = end_E - np.arange(len(end_E)) <= RECENT_PLACES
    return _count(train.item_E[recent_E], train.num_items)


def build(num_items: int, *, recent: bool = False) -> Built:
  """The baseline `pop` or `recent_pop` over I items."""
  system = RecentPopularity() if recent else Popularity()
  return in_catalogue_order(system, (), num_items)


def _count(item_E: np.ndarray, num_items: int) -> jax.Array:
  count_I = np.bincount(item_E, minlength=num_items)
  return jax.device_put(count_I.astype(np.float32))
