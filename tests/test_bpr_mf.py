"""BPR-MF against plain numpy, and on a log whose structure is known."""

import json

from compiled import Compiled, without_scores
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import splits
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.evaluation import evaluator
from lightlm_jax.systems import bpr_mf, registry

U, I, D = 6, 9, 4


def make_system(num_users=U, num_items=I, width=D):
  config = config_lib.load("bpr_mf:tiny", overrides={"model.d_model": width})
  return Compiled(bpr_mf.build(config, num_users, num_items))


def make_batch(users, targets=None, weights=None):
  B = len(users)
  none_BH = np.zeros((B, 0), np.int32)
  targets = np.full(B, -1) if targets is None else targets
  weights = np.ones(B) if weights is None else weights
  return Batch(
    user_B=np.array(users, np.int32),
    history_BH=none_BH,
    segment_BH=none_BH,
    target_B=np.array(targets, np.int32),
    weight_B=np.array(weights, np.float32),
  )


def make_params(seed=0, num_users=U, num_items=I):
  rng = np.random.default_rng(seed)
  shapes = {"user": (num_users, D), "item": (num_items, D), "item_bias": (num_items,)}
  return {name: rng.normal(size=s).astype(np.float32) for name, s in shapes.items()}


def test_parameters_are_small_and_the_bias_zero():
  params = make_system(width=16).init(jax.random.key(0))
  shapes = {name: (value.shape, value.dtype.name) for name, value in params.items()}
  assert shapes == {
    "user": ((U, 16), "float32"),
    "item": ((I, 16), "float32"),
    "item_bias": ((I,), "float32"),
  }
  assert not params["item_bias"].any()
  for name in ("user", "item"):
    assert 0 < np.abs(params[name]).max() < 0.1
  assert not np.array_equal(params["user"], params["item"][:U])


def test_loss_equals_numpy_on_the_same_negatives():
  system, params = make_system(), make_params()
  users, targets, weights = [0, 3, 5, 3, -1], [8, 0, 2, 1, 4], [1, 1, 0, 2, 1]
  batch, rng = make_batch(users, targets, weights), jax.random.key(7)
  negative_BM = bpr_mf.draw_negatives(rng, len(users), I)
  loss, metrics = system.loss(params, system.tables, batch, rng)

  def score(user, item):
    vector = params["user"][user] if user >= 0 else np.zeros(D)
    return vector @ params["item"][item] + params["item_bias"][item]

  total = 0.0
  for user, target, weight, negative_M in zip(users, targets, weights, negative_BM):
    for negative in negative_M:
      margin = score(user, target) - score(user, negative)
      total -= weight * np.log(1 / (1 + np.exp(-margin))) / len(negative_M)
  assert float(loss) == pytest.approx(total / sum(weights), rel=1e-5)
  assert metrics == {"tokens": 4, "capacity_tokens": 5}


def test_negatives_are_uniform_and_follow_the_rng():
  negative_BM = np.asarray(bpr_mf.draw_negatives(jax.random.key(1), 9_000, I))
  assert negative_BM.shape == (9_000, bpr_mf.NUM_NEGATIVES)
  count_I = np.bincount(negative_BM.ravel(), minlength=I)
  np.testing.assert_allclose(count_I / negative_BM.size, 1 / I, rtol=0.1)
  again_BM = bpr_mf.draw_negatives(jax.random.key(1), 9_000, I)
  np.testing.assert_array_equal(negative_BM, again_BM)
  assert (negative_BM != bpr_mf.draw_negatives(jax.random.key(2), 9_000, I)).any()


def test_rows_that_fill_the_batch_have_no_gradient():
  system, params = make_system(), make_params()
  gradient = jax.grad(system.loss, has_aux=True)
  rng = jax.random.key(0)
  grads, _ = gradient(params, (), make_batch([1, 2], [3, 4], [1, 0]), rng)
  assert grads["user"][1].any()
  assert not grads["user"][2].any()


def test_a_negative_that_is_the_target_has_no_gradient():
  system, params = make_system(num_items=1), make_params(num_items=1)
  gradient = jax.grad(system.loss, has_aux=True)
  grads, _ = gradient(params, (), make_batch([0, 2], [0, 0]), jax.random.key(0))
  assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


def test_scores_are_products_and_biases_and_of_the_unknown_user_the_biases():
  system, params = make_system(), make_params()
  scores_BI = system.scores(params, system.tables, make_batch([4, -1, 0]))
  assert (scores_BI.shape, scores_BI.dtype) == ((3, I), jnp.float32)
  expected_UI = params["user"] @ params["item"].T + params["item_bias"]
  np.testing.assert_allclose(scores_BI[0], expected_UI[4], rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(scores_BI[2], expected_UI[0], rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(scores_BI[1], params["item_bias"])


@pytest.mark.parametrize("user", [2, -1])
def test_one_step_against_the_gradient_widens_the_margin(user):
  # Of two items one is the target: the other is the only negative that can differ.
  system, params = make_system(num_items=2), make_params(num_items=2)
  batch = make_batch([user] * 16, [1] * 16)
  gradient = jax.grad(system.loss, has_aux=True)
  grads, _ = gradient(params, (), batch, jax.random.key(3))
  moved = jax.tree.map(lambda value, grad: value - 0.1 * grad, params, grads)

  def margin(params):
    score_I = system.scores(params, (), make_batch([user]))[0]
    return float(score_I[1] - score_I[0])

  assert margin(moved) > margin(params) + 1e-3
  others = [u for u in range(U) if u != user]
  assert not grads["user"][jnp.array(others)].any()


def block_log(num_users=60, num_items=24, length=8):
  """Users of the lower half buy in the lower half of the catalogue, others above."""
  rng = np.random.default_rng(0)
  half = num_items // 2
  item_UE = np.stack([rng.permutation(half)[:length] for _ in range(num_users)])
  item_UE[num_users // 2 :] += half
  return Interactions(
    offset_U1=np.arange(num_users + 1) * length,
    item_E=item_UE.ravel().astype(np.int32),
    user_ids=np.arange(num_users).astype(str),
    item_ids=np.arange(num_items).astype(str),
  )


def test_two_blocks_are_learned():
  log = block_log()
  split = splits.leave_one_out(log)
  config = config_lib.load("bpr_mf:tiny", overrides={"model.d_model": 2})
  system = Compiled(registry.build("bpr_mf", config, split.train, None))
  tx = optax.adamw(0.02, weight_decay=1.0)
  batch = make_batch(split.train.user_E, split.train.item_E)

  def step(carry, rng):
    params, opt_state = carry
    gradient = jax.value_and_grad(system.loss, has_aux=True)
    (loss, _), grads = gradient(params, (), batch, rng)
    updates, opt_state = tx.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  params = system.init(jax.random.key(0))
  carry, rngs = (params, tx.init(params)), jax.random.split(jax.random.key(1), 150)
  (params, _), losses = jax.lax.scan(step, carry, rngs)
  assert losses[0] == pytest.approx(np.log(2), abs=1e-3)
  assert losses[-1] < 0.7 * losses[0]

  half = log.num_items // 2
  scores_UI = np.array(system.scores(params, (), make_batch(range(log.num_users))))
  scores_UI[log.num_users // 2 :] = np.roll(scores_UI[log.num_users // 2 :], half, 1)
  # Every item of a user's own block, the two held out too, above every other one.
  assert (scores_UI[:, :half].min(axis=1) > scores_UI[:, half:].max(axis=1)).all()

  arguments = {"num_items": log.num_items, "batch_size": 32}
  ranks = evaluator.evaluate(system.built, params, split.test, **arguments)
  rank_N = ranks["seen_excluded"].rank_N
  # Seven of a block's twelve items are seen: five are left.
  assert ((rank_N >= 1) & (rank_N <= half - 7)).all()
  listed = evaluator.evaluate(
    without_scores(system.built), params, split.test, k=log.num_items, **arguments
  )
  np.testing.assert_array_equal(listed["seen_excluded"].rank_N, rank_N)


def test_card_asks_for_what_a_run_can_do():
  config = config_lib.load("bpr_mf")
  config_lib.check(config)
  assert config.system == "bpr_mf"
  tiny = config_lib.load("bpr_mf:tiny")
  assert tiny.preset == "tiny"
  assert tiny.train.steps < config.train.steps


def test_command_line_trains_and_judges_it_like_lightlm(
  train_command, demo_run, tmp_path
):
  arguments = ("--config=demo:tiny", "--config.system=bpr_mf")
  done = train_command(*arguments, f"--workdir={tmp_path}")
  assert done.returncode == 0, done.stderr
  assert "Traceback" not in done.stderr
  assert [line for line in done.stdout.splitlines() if line.startswith("bpr_mf ")]

  results = json.loads((tmp_path / "results.json").read_text())
  lightlm = json.loads((demo_run[0] / "results.json").read_text())
  assert results.keys() == lightlm.keys()
  for name in ("ids", "decoding", "beam_size", "hallucination_rate"):
    assert results[name] is None
  for name in ("split_sha256", "num_users", "seed", "baselines"):
    assert results[name] == lightlm[name]
  assert (results["system"], results["steps"]) == ("bpr_mf", 40)
  assert results["best_step"] in (10, 20, 30, 40)
  # 300 users and 80 items, 32 wide, and the items' biases.
  assert results["params"]["total"] == (300 + 80) * 32 + 80
  assert min(results["examples_per_second"], results["users_per_second"]) > 0
  for split in ("validation", "metrics"):
    for rule, values in results[split].items():
      assert values.keys() == lightlm[split][rule].keys()
      assert 0 < values["ndcg@10"] <= values["hr@10"] <= 1
