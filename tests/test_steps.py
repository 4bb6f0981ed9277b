"""Many steps to a dispatch are those steps one by one, and nan moves nothing."""

from collections.abc import Callable
import functools
from typing import NamedTuple

from compiled import gather
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import interactions
from lightlm_jax.runtime import mesh
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import registry
from lightlm_jax.training import loop, state, step

K = 8


class Spoiled(NamedTuple):
  """What the steps see of a system."""

  loss: Callable
  init: Callable


class Run:
  """A small BSARec, for its buckets: batches of two shapes and of three lengths."""

  def __init__(self, change_loss=lambda loss: loss):
    fields = {
      "seed": 5,
      "input.history": 9,
      "model.d_model": 8,
      "train.batch_size": 4,
      "train.history_buckets": (3,),
      "train.warmup_steps": 1,
    }
    config = config_lib.load("bsarec", "tiny", fields)
    rng = np.random.default_rng(0)
    log = interactions.from_sequences(
      (f"user {u}", [f"item {i}" for i in rng.integers(12, size=length)])
      for u, length in enumerate((2, 9, 4, 6, 3))
    )
    built = registry.build("bsarec", config, log, None)
    self.unchanged = built.system
    self.system = Spoiled(change_loss(built.system.loss), built.system.init)
    self.tx = state.optimiser(config)
    self.devices = mesh.make(1, 1)
    self.feed, self.plan = loop.make_feed(built, log, config)
    assert len(self.plan.widths) == 2
    self.abstract = state.abstract(self.system.init, self.tx, self.devices)
    self.steps = step.make_steps(
      self.system, self.tx, self.plan, self.devices, 5, self.abstract
    )

  def start(self):
    return state.create(self.system.init, self.tx, 5, self.abstract)

  def go(self, current, first, end, tables=(), *, stop=False):
    what = step.dispatch(self.plan, first, end, K)
    stop_requested_D = step.stop_flags(stop, self.devices)
    return self.steps(current, tables, self.feed, what, stop_requested_D)


@functools.cache
def plain():
  """A run as it is; its steps are compiled once."""
  return Run()


def equal(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_dispatch_is_its_steps_one_by_one():
  """Bit for bit, over more than an epoch; and no number of steps compiles anything."""
  run = plain()
  alone, losses = run.start(), []
  for s in range(2 * K):
    alone, report = run.go(alone, s, s + 1)
    assert (report.taken, report.finite) == (1, True)
    losses.append(report.metrics.loss[0])
  _, report = run.go(run.start(), 0, 1, stop=True)
  assert report.stop_requested
  together, found = run.start(), []
  for first, end in ((0, 5), (5, 6), (6, 14), (14, 16)):
    together, report = run.go(together, first, end)
    assert (report.taken, report.finite, report.stop_requested) == (
      end - first,
      True,
      False,
    )
    found.extend(report.metrics.loss[: end - first])
  equal(together, alone)
  np.testing.assert_array_equal(found, losses)
  assert len(set(map(float, losses))) == 2 * K > run.plan.steps_per_epoch
  assert run.steps._cache_size() == 1


def test_it_is_plain_gradient_descent():
  """The steps against the optimiser called by hand, batch by batch."""
  run = plain()
  found, _ = run.go(run.start(), 0, 3)
  current = run.start()
  params, opt_state = current.params, current.opt_state
  gradient = jax.jit(jax.grad(run.system.loss, has_aux=True))
  update = jax.jit(run.tx.update)
  for s in range(3):
    bucket, key, batch = run.plan.at(np.array(s))
    examples = gather(run.feed, key, batch, plan=run.plan, bucket=int(bucket))
    rng = jax.random.fold_in(jax.random.key(5), s)
    grads, _ = gradient(params, (), examples, rng)
    updates, opt_state = update(grads, opt_state, params)
    params = jax.tree.map(jnp.add, params, updates)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6),
    found.params,
    params,
  )
  assert int(found.step) == 3


def poison(loss, spoil):
  """`loss`, spoiled for batches with a target of which `tables` says so."""

  def spoiled(params, bad_I, batch, rng):
    value, metrics = loss(params, (), batch, rng)
    fine = 1.0 - bad_I[batch.target_B].max()
    weight = jax.tree.leaves(params)[0].sum()
    return value + spoil(fine, weight), metrics

  return spoiled


SPOILS = {
  "nan": lambda fine, weight: jnp.where(fine, 0.0, jnp.nan),
  "inf": lambda fine, weight: jnp.where(fine, 0.0, jnp.inf),
  # Its value is 1 or 0, its slope at 0 is none.
  "gradient": lambda fine, weight: jnp.sqrt(weight * 0 + fine),
}


@pytest.mark.parametrize(
  "kind", ["nan", pytest.param("inf", marks=pytest.mark.slow), "gradient"]
)
def test_what_is_not_finite_moves_nothing_and_ends_the_dispatch(kind):
  run = Run(functools.partial(poison, spoil=SPOILS[kind]))
  targets = [set(targets_of(run, s)) for s in range(6)]
  bad = next(i for i in targets[5] if not any(i in earlier for earlier in targets[:5]))
  bad_I = np.zeros(12, np.float32)
  good, _ = run.go(run.start(), 0, 5, bad_I)
  good = jax.device_get(good)  # donated by the next dispatch
  bad_I[bad] = 1
  current, report = run.go(run.start(), 0, 8, bad_I)
  assert (report.taken, report.finite) == (5, False)
  equal(current, good)
  # What was sent before anybody looked does nothing, though its batches are fine.
  current, later = run.go(current, 8, 12, np.zeros_like(bad_I))
  assert (later.taken, later.finite) == (0, False)
  equal(current, good)
  says = {"nan": "the loss is nan", "inf": "the loss is inf"}
  says = says.get(kind, "the gradient is not finite")
  with pytest.raises(UserError, match=f"{says} at step 6; lower train.learning_rate"):
    step.wait_for(0, 8, report)


def targets_of(run, s):
  bucket, key, batch = run.plan.at(np.array(s))
  found = gather(run.feed, key, batch, plan=run.plan, bucket=int(bucket))
  return found.target_B[found.weight_B > 0].tolist()


def test_equal_runs_share_their_compiled_steps():
  """Built twice from the same configuration, the whole is one program."""
  runs = Run(), Run()
  one, other = (
    step.make_steps(run.unchanged, run.tx, run.plan, run.devices, 5, run.abstract)
    for run in runs
  )
  assert one is other
