"""Compiles training steps: one dispatch runs several in a loop on the device.

The host sends only the indices of batches. The number of steps is an input of the
program, so that a change of this number needs no compilation.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import Trainable
from lightlm_jax.training import state as state_lib
from lightlm_jax.training.state import TrainState


class Dispatch(NamedTuple):
  """The steps that one call of the program runs, and the batch of each step."""

  first: np.int32  # must be the step of the state, else the dispatch is skipped
  end: np.int32  # one past the last step; at most `first` + K
  bucket_K: np.ndarray  # see `feed.Plan.at`; entries from `end` on are not read
  key_K: np.ndarray
  batch_K: np.ndarray


class StepMetrics(NamedTuple):
  """Metrics of one step, float32 scalars; in `Report`, of K steps, [K] float32."""

  loss: jax.Array
  examples: jax.Array  # number of examples of positive weight
  tokens: jax.Array  # number of tokens without padding; see `Trainable.loss`
  capacity_tokens: jax.Array  # number of tokens with padding


class Report(NamedTuple):
  """The results of a dispatch apart from the new training state."""

  metrics: StepMetrics  # [K] of its steps
  taken: jax.Array  # int32, number of steps that changed the state
  finite: jax.Array  # bool, whether every loss and gradient norm was finite
  stop_requested: jax.Array  # bool, whether any process asks the others to stop


def dispatch(plan: feed_lib.Plan, first: int, end: int, K: int) -> Dispatch:
  """Builds the dispatch of the steps first, …, end - 1, at most K steps."""
  order = plan.at(np.arange(first, first + K))
  return Dispatch(np.int32(first), np.int32(end), *order)


def stop_flags(requested: bool, mesh: Mesh) -> jax.Array:
  """Returns [D] bool: per device, whether its process asks all processes to stop."""
  every_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  return mesh_lib.put(np.full(mesh.size, requested), every_device)


def make_steps(
  system: Trainable,
  tx: optax.GradientTransformation,
  plan: feed_lib.Plan,
  mesh: Mesh,
  seed: int,
  abstract: TrainState,
) -> Callable[..., tuple[TrainState, Report]]:
  """Returns the jitted function that runs a dispatch, the same for equal arguments.

  It maps (state, tables, feed, dispatch, stop_requested_D) to (state, Report). `feed`
  is the log, or the dispatch's batches [K, B, …] from disk; for `stop_requested_D` see
  `stop_flags`. The state is donated and keeps the shardings of `abstract`.

  A step with a non-finite loss or gradient norm leaves the state unchanged and ends the
  dispatch. A dispatch whose `first` is not the state's step does nothing: the host
  sent it before learning that an earlier step had failed.
  """
  # Fixed shardings, as others would make the next dispatch compile again.
  leaves, tree = jax.tree.flatten(state_lib.shardings_of(abstract))
  return _make_steps(system, tx, plan, mesh, seed, tree, tuple(leaves))


@functools.lru_cache(maxsize=4)
def _make_steps(
  system: Trainable,
  tx: optax.GradientTransformation,
  plan: feed_lib.Plan,
  mesh: Mesh,
  seed: int,
  tree: Any,
  leaves: tuple[NamedSharding, ...],
) -> Callable[..., tuple[TrainState, Report]]:
  """Builds what `make_steps` returns; `leaves` and `tree` are the state's shardings."""
  rows = mesh_lib.by_rows(mesh)
  shardings = jax.tree.unflatten(tree, leaves)

  def learn(params, tables, feed, key, batch, rng, *, bucket):
    examples = feed_lib.gather(feed, key, batch, plan=plan, bucket=bucket)
    examples = jax.lax.with_sharding_constraint(examples, rows)
    gradient = jax.value_and_grad(system.loss, has_aux=True)
    (loss, counts), grads = gradient(params, tables, examples, rng)
    weighted = (examples.weight_B > 0).sum()
    metrics = StepMetrics(loss, weighted, counts["tokens"], counts["capacity_tokens"])
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), metrics), grads

  # Each bucket has its own batch shape.
  buckets = [functools.partial(learn, bucket=n) for n in range(len(plan.widths))]

  @functools.partial(
    jax.jit, donate_argnums=0, out_shardings=(shardings, mesh_lib.replicated(mesh))
  )
  def steps(state: TrainState, tables, feed, what: Dispatch, stop_requested_D):
    def goes_on(carry):
      state, report = carry
      return report.finite & (state.step < what.end)

    def step(carry):
      state, report = carry
      k = report.taken
      rng = jax.random.fold_in(jax.random.key(seed), state.step)
      own = jax.tree.map(lambda x: x[k], feed) if isinstance(feed, Batch) else feed
      operands = (state.params, tables, own, what.key_K[k], what.batch_K[k], rng)
      metrics, grads = jax.lax.switch(what.bucket_K[k], buckets, *operands)
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      finite = jnp.isfinite(metrics.loss) & jnp.isfinite(optax.tree.norm(grads))
      state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        TrainState(state.step + 1, params, opt_state),
        state,
      )
      metrics = jax.tree.map(lambda x_K, x: x_K.at[k].set(x), report.metrics, metrics)
      taken = report.taken + finite.astype(jnp.int32)
      return state, Report(metrics, taken, finite, report.stop_requested)

    zeros_K = jnp.zeros(what.key_K.shape, jnp.float32)
    report = Report(
      StepMetrics(*(zeros_K,) * len(StepMetrics._fields)),
      taken=jnp.zeros((), jnp.int32),
      finite=state.step == what.first,
      stop_requested=stop_requested_D.any(),
    )
    return jax.lax.while_loop(goes_on, step, (state, report))

  return steps


def wait_for(first: int, end: int, report: Report) -> Report:
  """Waits for the dispatch of steps first, …, end - 1; returns its report on the host.

  Raises:
    UserError: a loss or gradient is not finite.
  """
  report = jax.device_get(report)
  if not report.finite:
    loss = report.metrics.loss[report.taken]
    what = "the gradient is not finite" if np.isfinite(loss) else f"the loss is {loss}"
    raise UserError(
      f"{what} at step {first + report.taken + 1}; lower train.learning_rate or "
      "train.clip_norm and start again in another --workdir"
    )
  return report
