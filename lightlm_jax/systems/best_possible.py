"""The best possible ranking on the synthetic shop, by the generator's probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch, request_batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.data.synthetic import Tastes
from lightlm_jax.systems.base import Built, in_catalogue_order
from lightlm_jax.systems.item_scores import ItemScorer

TINY = 1e-30  # a normal float32 whose logarithm and reciprocal are finite


@dataclasses.dataclass(frozen=True, kw_only=True)
class BestPossible(ItemScorer):
  """The system that no other beats on average, with seen items excluded.

  Scores are log-probabilities of the next purchase given the history.
  """

  name: str = "best_possible"

  def fit(self, train: Interactions | None = None) -> tuple:
    return ()

  def scores(self, params: tuple, tables: Tastes, batch: Batch) -> jax.Array:
    return jnp.log(jnp.maximum(next_probability(tables, batch.history_BH), TINY))


def best_possible(tastes: Tastes, num_items: int) -> Built:
  """Builds the system; raises a ValueError unless `tastes` covers `num_items` items."""
  if tastes.taste_CI.shape[1] != num_items:
    raise ValueError(
      f"the tastes cover {tastes.taste_CI.shape[1]} items, the catalogue {num_items}"
    )
  return in_catalogue_order(BestPossible(), _on_device(tastes), num_items)


def expected_best_ndcg(tastes: Tastes, requests: Requests, *, k: int = 10) -> float:
  """Returns the mean expected NDCG@k of the best ranking, seen items excluded.

  The mean is over `requests`, whose targets are not used. The expectation is over all
  items that the generator could draw as the user's last purchase.
  """
  tables = _on_device(tastes)
  best = jax.jit(lambda *args: jax.lax.top_k(next_probability(*args), k)[0])
  discount_K = 1.0 / np.log2(np.arange(k) + 2.0)
  B, H = 256, int(requests.length_N.max(initial=0))
  gain = []
  for start in range(0, len(requests), B):
    index = np.arange(start, min(start + B, len(requests)))
    batch = request_batch(requests, index, batch_size=B, width=H)
    prob_BK = jax.device_get(best(tables, jax.device_put(batch.history_BH)))
    gain.extend(prob_BK[: len(index)].astype(np.float64) @ discount_K)
  return float(np.mean(gain))


def next_probability(tables: Tastes, history_BH: jax.Array) -> jax.Array:
  """Returns the exact distribution of the next purchase if it is the user's last one.

  Late items (see data/synthetic.py) can only be a last purchase. The user's hidden
  community is marginalised by Bayes' rule, with the generator's own probabilities.
  Earlier purchases are treated as if they could have been late. The result is still
  exact, as this scales the likelihoods of all communities by the same factor.

  Args:
    tables: the tastes as float32 arrays.
    history_BH: int32 catalogue indices, right-aligned, distinct, -1 = padding.

  Returns:
    [B, I] float32: 0 for items of the history; rows sum to 1, or to
    1 - `tables.late_rate` if the history has all late items that the user could buy.
  """
  B, H = history_BH.shape
  taste_IC, late_IC = tables.taste_CI.T, tables.late_CI.T
  bought_BH = history_BH >= 0
  item_BH = jnp.maximum(history_BH, 0)
  # P = H + 1 places: the last one is the next purchase.
  before_BP = jnp.pad(history_BH, ((0, 0), (1, 0)), constant_values=-1)
  habit_BP = jnp.where(before_BP >= 0, tables.habit, 0.0)
  before_BP = jnp.maximum(before_BP, 0)

  taste_BHC = jnp.where(bought_BH[:, :, None], taste_IC[item_BH], 0.0)
  late_BHC = jnp.where(bought_BH[:, :, None], late_IC[item_BH], 0.0)
  # Entry [t, s]: purchase s as a follow-up of the one before t.
  follow_BHH = tables.follow_II[before_BP[:, :-1, None], item_BH[:, None, :]]
  follow_BHH = jnp.where(bought_BH[:, None, :], follow_BHH, 0.0)
  earlier_HH = jnp.tri(H, k=-1, dtype=bool)
  follow_left_BH = 1.0 - jnp.where(earlier_HH[None], follow_BHH, 0.0).sum(2)
  taste_left_BHC = 1.0 - (jnp.cumsum(taste_BHC, axis=1) - taste_BHC)
  late_left_BHC = 1.0 - (jnp.cumsum(late_BHC, axis=1) - late_BHC)
  follow_BH = jnp.diagonal(follow_BHH, axis1=1, axis2=2)

  h_BH1 = habit_BP[:, :-1, None]
  usual_BHC = (1.0 - h_BH1) * taste_BHC + h_BH1 * follow_BH[:, :, None]
  left_BHC = (1.0 - h_BH1) * taste_left_BHC + h_BH1 * follow_left_BH[:, :, None]
  prob_BHC = (1.0 - tables.late_rate) * usual_BHC / jnp.maximum(left_BHC, TINY)
  prob_BHC += tables.late_rate * late_BHC / jnp.maximum(late_left_BHC, TINY)
  log_BHC = jnp.where(bought_BH[:, :, None], jnp.log(jnp.maximum(prob_BHC, TINY)), 0.0)
  log_prior_C = jnp.log(jnp.maximum(tables.prior_C, TINY))
  community_BC = jax.nn.softmax(log_prior_C[None] + log_BHC.sum(1), axis=-1)

  unseen_BI = jnp.ones((B, len(taste_IC)))
  unseen_BI = unseen_BI.at[jnp.arange(B)[:, None], item_BH].min(1.0 - bought_BH)
  h_B1 = habit_BP[:, -1:]
  follow_BI = unseen_BI * tables.follow_II[before_BP[:, -1]]
  left_BC = (1.0 - h_B1) * _matmul(unseen_BI, taste_IC)
  left_BC += h_B1 * follow_BI.sum(1, keepdims=True)
  usual_BC = (1.0 - tables.late_rate) * community_BC / jnp.maximum(left_BC, TINY)
  late_left_BC = _matmul(unseen_BI, late_IC)
  late_BC = tables.late_rate * community_BC / jnp.maximum(late_left_BC, TINY)
  liked_BI = (1.0 - h_B1) * _matmul(usual_BC, taste_IC.T) + _matmul(late_BC, late_IC.T)
  return unseen_BI * liked_BI + h_B1 * usual_BC.sum(1, keepdims=True) * follow_BI


def _matmul(a: jax.Array, b: jax.Array | np.ndarray) -> jax.Array:
  # By default accelerators multiply float32 matrices with reduced precision.
  return jnp.matmul(a, b, precision="highest")


def _on_device(tastes: Tastes) -> Tastes:
  return Tastes(*(jax.device_put(np.asarray(leaf, np.float32)) for leaf in tastes))
