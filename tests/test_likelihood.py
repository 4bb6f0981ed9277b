"""The loss of held-out items is the probability that a system gives them."""

from collections.abc import Callable
import dataclasses

from compiled import Scored
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_lightlm
import test_lite_llm4rec_beam
from test_next_item import make_batch

from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import base, item_scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithSoftmax(item_scores.Softmax, Scored):
  pass


@dataclasses.dataclass(frozen=True, kw_only=True)
class Surprised(base.System):
  function: Callable

  def nll(self, params, tables, batch):
    return self.function(params, tables, batch)


@pytest.mark.parametrize("name", ["lightlm", "hierarchical", "flat"])
def test_what_writes_ids_is_as_surprised_as_a_wide_search_scores(name):
  if name == "lightlm":
    system, *_ = test_lightlm.build()
    params = system.init(jax.random.key(0))
  else:
    system, params = test_lite_llm4rec_beam.build(name)
  num_items = len(system.rank_I)
  rows = [(2, [5, 9, 1], item, 1.0) for item in range(num_items)]
  batch = test_lightlm.make_batch(rows)
  nobody = np.zeros(num_items, np.int32)
  allowed = Allowed(no_shared_mask(), nobody, np.zeros((num_items, 0), np.int32))
  best = system.recommend(params, system.tables, batch, allowed, k=num_items)
  found_I = np.empty(num_items)
  found_I[best.items_BK[0]] = -best.scores_BK[0]
  nll_I = system.nll(params, system.tables, batch)
  assert np.ptp(nll_I) > 0.1
  np.testing.assert_allclose(nll_I, found_I, rtol=1e-4)


def test_scores_that_are_logits_make_a_distribution():
  score_I = jnp.array([2.0, -1.0, 0.5, 30.0])

  def scores(params, tables, batch):
    return params * score_I[None] * (batch.user_B == batch.user_B)[:, None]

  system = WithSoftmax(function=scores)
  share_I = np.exp(-system.nll(0.1, (), make_batch([[0]] * 4, [0, 1, 2, 3])))
  assert share_I.sum() == pytest.approx(1)
  assert share_I[0] / share_I[1] == pytest.approx(np.exp(0.3))


@pytest.mark.parametrize("batch_size", [2, 3, 8])
def test_the_mean_is_over_requests_whatever_the_batches(batch_size):
  """Each is asked with its own history, and what fills a batch counts for nothing."""

  def nll(params, tables, batch):
    length_B = (batch.segment_BH > 0).sum(axis=1)
    return params * batch.target_B + length_B

  lengths = [3, 0, 7, 1, 1]
  requests = Requests(
    user_N=np.arange(5, dtype=np.int32),
    offset_N1=np.append(0, np.cumsum(lengths)),
    item_E=np.zeros(sum(lengths), np.int32),
    target_N=np.array([1, 2, 3, 4, 0], np.int32),
  )
  system = base.in_catalogue_order(Surprised(name="made", function=nll), (), 5)
  options = {"batch_size": batch_size, "mesh": mesh_lib.make(1, 1)}
  found = evaluator.mean(system, np.float32(10), requests, "nll", **options)
  assert found == pytest.approx((10 * sum(range(5)) + sum(lengths)) / 5)
