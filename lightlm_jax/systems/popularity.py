"""Popularity baselines: items ranked by their number of interactions, all or recent.

Where popularity changes with time, recent popularity is the stronger baseline (Ji et
al. 2020, "A Re-visit of the Popularity Baseline in Recommender Systems").
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

# In logs without times: how many of each user's last interactions are recent. Chosen by
# validation NDCG@10 on Toys, Beauty and Yelp, where 1 and 3 differ by less than .001.
RECENT_PLACES = 2
RECENT_SHARE = 0.1  # in logs with times: the share of interactions that are recent


@dataclasses.dataclass(frozen=True, kw_only=True)
class Popularity(ItemScorer):
  """The baseline `pop`; parameters are each item's interaction count, [I] float32."""

  name: str = "pop"

  def fit(self, train: Interactions) -> jax.Array:
    return _count(train.item_E, train.num_items)

  def scores(self, params: jax.Array, tables: Any, batch: Batch) -> jax.Array:
    """Returns the counts, the same for each request, [B, I] float32."""
    return jnp.broadcast_to(params, (batch.history_BH.shape[0], params.shape[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecentPopularity(Popularity):
  """The baseline `recent_pop`, which counts recent interactions only.

  If the log has times, the latest `RECENT_SHARE` of all training interactions are
  recent, and so are others at the time of the earliest of these. Without times,
  the order between users is unknown; each user's last `RECENT_PLACES` are recent.
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
  """Builds the baseline `pop` or, if `recent`, `recent_pop` for I items."""
  system = RecentPopularity() if recent else Popularity()
  return in_catalogue_order(system, (), num_items)


def _count(item_E: np.ndarray, num_items: int) -> jax.Array:
  count_I = np.bincount(item_E, minlength=num_items)
  return jax.device_put(count_I.astype(np.float32))
