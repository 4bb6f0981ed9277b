"""Systems are values: equal ones share every compiled program."""

import jax
import numpy as np
import pytest
import served as small

from lightlm_jax.data import splits
from lightlm_jax.evaluation import evaluator
from lightlm_jax.inference import serve
from lightlm_jax.systems import base
from lightlm_jax.training import speed

every_system = pytest.mark.parametrize(
  "name",
  [
    pytest.param(name, marks=() if name in small.FAST else pytest.mark.slow)
    for name in small.NAMES
  ],
)
PROTOCOLS = {
  base.Trainable: "lightlm item_decoder lite_llm4rec lite_llm4rec_beam bpr_mf sasrec "
  "bsarec",
  base.Fitted: "pop recent_pop item_knn ease",
  base.ScoresItems: "item_decoder lite_llm4rec pop recent_pop item_knn ease bpr_mf "
  "sasrec bsarec",
  base.HasLikelihood: "lightlm item_decoder lite_llm4rec lite_llm4rec_beam sasrec "
  "bsarec",
  base.HasState: "lightlm",
  base.WritesFreely: "lightlm",
  base.SharesWork: "lite_llm4rec lite_llm4rec_beam",
}


@pytest.mark.parametrize("name", small.NAMES)
def test_what_a_system_can_do_is_told_by_protocols(name):
  _, built, _ = small.build(name)
  for protocol, names in PROTOCOLS.items():
    assert isinstance(built.system, protocol) == (name in names.split()), protocol


@pytest.mark.parametrize("name", small.NAMES)
def test_no_system_holds_an_array(name):
  _, built, _ = small.build(name)
  leaves = jax.tree.leaves(vars(built.system))
  assert [x for x in leaves if isinstance(x, jax.Array | np.ndarray)] == []


def test_a_loss_without_logits_has_no_likelihood():
  for name, fields in (("sasrec", {}), ("lite_llm4rec", {"model__tied": False})):
    _, built, _ = small.build(name, train__loss="binary", **fields)
    assert not isinstance(built.system, base.HasLikelihood)


def use(built, params):
  """All that a run asks of a system after training, of the search by one rule."""
  log, mesh = small.log(), small.one_device()
  requests = splits.leave_one_out(log).test
  options = {"batch_size": 8, "mesh": mesh}
  rules = evaluator.RULES[:1]  # each is a search to compile
  evaluator.evaluate(
    built, params, requests, num_items=log.num_items, k=5, rules=rules, **options
  )
  if isinstance(built.system, base.HasLikelihood):
    evaluator.mean(built, params, requests, "nll", **options)
  if isinstance(built.system, base.WritesFreely):
    evaluator.mean(built, params, requests, "invalid_beams", **options)
  serve.recommend(serve.ready(built, params, mesh, 8), requests, k=5)


@every_system
def test_a_rebuilt_equal_system_compiles_nothing(name):
  _, built, params = small.build(name)
  use(built, params)
  _, again = small.built_only.__wrapped__(name)
  assert again.system is not built.system
  assert again.system == built.system
  assert hash(again.system) == hash(built.system)
  with speed.count_compilations() as made:
    use(again, params)
  assert made.count == 0


def test_another_setting_is_another_system():
  _, built, _ = small.build("lightlm")
  _, other, _ = small.build("lightlm", decoding__beam_size=7)
  assert other.system != built.system
