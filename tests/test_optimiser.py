"""What one update does to the weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.training import state as state_lib


def test_two_half_batches_make_one_update():
  config = config_lib.load("demo:tiny", overrides={"train.warmup_steps": 0})
  twice = {"train.accumulate": 2, "train.steps": 2 * config.train.steps}
  halves = config_lib.replace(config, twice)
  params = {"query": jnp.array([1.0, -2.0]), "scale": jnp.array([0.5])}
  grads = [
    {"query": jnp.array([0.3, 0.1]), "scale": jnp.array([-0.2])},
    {"query": jnp.array([-0.1, 0.5]), "scale": jnp.array([0.4])},
  ]
  mean = jax.tree.map(lambda a, b: (a + b) / 2, *grads)

  def run(config, all_grads):
    tx = state_lib.optimiser(config)
    value, state, seen = params, tx.init(params), []
    for grad in all_grads:
      updates, state = tx.update(grad, state, value)
      value = jax.tree.map(jnp.add, value, updates)
      seen.append(value)
    return seen

  whole = run(config, [mean] * 3)
  half = run(halves, grads * 3)
  for place in (0, 2, 4):  # a half batch alone moves nothing
    before = half[place - 1] if place else params
    jax.tree.map(np.testing.assert_array_equal, half[place], before)
  for a, b in zip(whole, half[1::2]):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)
  assert not np.allclose(half[1]["query"], params["query"])


def test_norms_and_biases_are_not_decayed():
  config = config_lib.load(
    "demo:tiny", overrides={"train.warmup_steps": 0, "train.weight_decay": 0.5}
  )
  tx = state_lib.optimiser(config)
  params = {
    "block": {"norm": {"scale": jnp.ones(2)}, "query": jnp.ones(2)},
    "bias": {"table": jnp.ones(2)},
  }
  updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
  assert (updates["block"]["query"] < 0).all()
  assert not updates["block"]["norm"]["scale"].any()
  assert not updates["bias"]["table"].any()


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_rate_warms_up_and_ends_at_zero(schedule):
  overrides = {
    "train.schedule": schedule,
    "train.steps": 10,
    "train.warmup_steps": 4,
    "train.weight_decay": 0.0,
    "train.learning_rate": 0.01,
  }
  tx = state_lib.optimiser(config_lib.load("demo:tiny", overrides=overrides))
  params = {"query": jnp.zeros(1)}
  state, moves = tx.init(params), []
  for _ in range(11):
    # A constant gradient: Adam moves by exactly the learning rate.
    updates, state = tx.update({"query": jnp.ones(1)}, state, params)
    moves.append(-float(updates["query"][0]))
  assert moves[:5] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01], rel=1e-3)
  assert moves[4:] == sorted(moves[4:], reverse=True)
  assert moves[10] == pytest.approx(0, abs=1e-9)


def test_the_average_of_the_weights_is_evaluated():
  """Over all updates, in early ones mostly the newest weights."""
  overrides = {"train.average": 0.5, "train.accumulate": 2, "train.warmup_steps": 0}
  tx = state_lib.optimiser(config_lib.load("demo", "tiny", overrides))
  params = {"w": jnp.ones(3)}
  state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))
  wanted_3 = np.ones(3)
  for number in range(8):
    grads = {"w": jnp.array([1.0, -2.0, number])}
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    new = jax.tree.map(jnp.add, state.params, updates)
    state = state_lib.TrainState(state.step + 1, new, opt_state)
    if number % 2:  # two half batches are one update
      keep = min(0.5, (1 + number // 2) / (10 + number // 2))
      wanted_3 = keep * wanted_3 + (1 - keep) * np.asarray(new["w"])
    np.testing.assert_allclose(state_lib.evaluated(state)["w"], wanted_3, rtol=1e-5)
  assert np.abs(wanted_3 - np.asarray(state.params["w"])).max() > 1e-4
  plain = state_lib.optimiser(config_lib.load("demo", "tiny"))
  state = state._replace(opt_state=plain.init(params))
  assert state_lib.evaluated(state) is state.params
