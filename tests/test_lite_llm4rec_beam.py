"""The beam arm: its search against brute force, and what learns from what."""

import functools

from compiled import Compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_lite_llm4rec import (
  HISTORIES,
  TARGETS,
  I,
  make_config,
  make_texts,
  run_config,
  write_folder,
)
from test_next_item import make_batch, make_rows

from lightlm_jax import config as config_lib
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.runs import evaluate, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import lite_llm4rec_beam

SOURCES = ("hierarchical", "flat")
every_source = pytest.mark.parametrize("source", SOURCES)
# Ids of two tokens, but of item 7 three, and of 8 one.
CODES = [(i % 5, 5 + i // 5) for i in range(I)]
CODES[7], CODES[8] = (2, 6, 1), (11,)


@functools.cache
def build(source):
  config = make_config(None, system="lite_llm4rec_beam", model__source=source)
  items_IL = codes_lib.stack_codes(CODES)
  book = codes_lib.code_book(items_IL, items_IL[:0], {})
  system = Compiled(lite_llm4rec_beam.build(config, make_texts(), book))
  params = system.init(jax.random.key(0))
  return system, jax.tree.map(lambda x: x * (2 if x.ndim > 1 else 1), params)


def all_allowed(B):
  return Allowed(no_shared_mask(), np.zeros(B, np.int32), np.zeros((B, 0), np.int32))


def losses_of_items(system, params, items):
  """[I]: the loss of the history with the item behind it, summed over positions."""
  found = []
  for item in range(I):
    batch = make_rows([items], [item], [[0]])
    value, _ = system.loss(params, system.tables, batch, jax.random.key(0))
    found.append(float(value) * len(items))
  return np.array(found)


@every_source
def test_a_wide_beam_ranks_like_the_loss_of_every_item(source):
  system, params = build(source)
  length_I = np.array([len(code) for code in CODES])
  histories = [HISTORIES[1], [5, 9]]
  best = system.recommend(
    params, system.tables, make_batch(histories, [0, 0]), all_allowed(2), k=I
  )
  for row, items in enumerate(histories):
    loss_I = losses_of_items(system, params, items)
    order = best.items_BK[row]
    assert sorted(order.tolist()) == list(range(I))
    # Summed log-probabilities; the loss is the mean over an id's tokens. What comes
    # before the last position adds the same to every item's loss.
    before = 0.0
    if len(items) > 1:
      before = losses_of_items(system, params, items[:1])[items[1]]
    expected_I = -(loss_I - before) * length_I
    np.testing.assert_allclose(best.scores_BK[row], expected_I[order], rtol=1e-3)


@every_source
def test_the_rows_of_a_batch_do_not_matter_to_the_loss(source):
  system, params = build(source)
  values = []
  for rows in ([[0], [1], [2], [3]], [[3, 0], [2, 1]]):
    batch = make_rows(HISTORIES, TARGETS, rows)
    value, metrics = system.loss(params, system.tables, batch, jax.random.key(0))
    assert metrics["tokens"] == sum(map(len, HISTORIES))
    values.append(value)
  np.testing.assert_allclose(*values, rtol=1e-4)


def test_cached_vectors_give_the_same_list():
  system, params = build("hierarchical")
  cached = system.prepare(params, system.tables)
  batch = make_batch([*HISTORIES, []], [*TARGETS, 0])
  a, b = (
    system.recommend(params, tables, batch, all_allowed(5), k=10)
    for tables in (cached, system.tables)
  )
  np.testing.assert_array_equal(a.items_BK, b.items_BK)
  np.testing.assert_allclose(a.scores_BK, b.scores_BK, rtol=1e-6)
  assert jnp.isfinite(a.scores_BK[-1]).all(), "who has no history gets a list too"


@every_source
def test_every_weight_learns(source):
  system, params = build(source)
  batch = make_rows(HISTORIES, TARGETS, [[3, 0], [2, 1]])
  gradient = jax.jit(jax.grad(system.loss, has_aux=True))
  found, _ = gradient(params, system.tables, batch, jax.random.key(0))
  size = {
    jax.tree_util.keystr(path): float(np.abs(x).max())
    for path, x in jax.tree_util.tree_leaves_with_path(found)
  }
  assert min(size.values()) > 0, size


@pytest.mark.slow
@pytest.mark.usefixtures("_compiled_once")
@every_source
def test_the_trainer_trains_and_judges_it(source, tmp_path):
  write_folder(tmp_path)
  config = run_config(
    tmp_path, system="lite_llm4rec_beam", model__source=source, ids__kind="rid"
  )
  results = train.train(config, tmp_path / "run")
  assert results["ids"]["kind"] == "rid"
  assert results["decoding"] == "beam"
  assert evaluate.evaluate(tmp_path / "run")["metrics"] == results["metrics"]
  with pytest.raises(UserError, match="has no states to remember"):
    evaluate.evaluate(tmp_path / "run", overrides={"decoding.kind": "latent_global"})


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"model.tied": True}, "no field 'model.tied' .it is a field of item_decoder"),
    ({"train.loss": "binary"}, "no field 'train.loss' "),
    ({"decoding.kind": "exact"}, "decoding.kind is 'exact'; choose one of beam"),
  ],
)
def test_what_cannot_be_built_is_refused_in_a_line(fields, message):
  fields = {"system": "lite_llm4rec_beam"} | fields
  with pytest.raises(UserError, match=message):
    config_lib.check(config_lib.load("lite_llm4rec", "tiny", fields))
