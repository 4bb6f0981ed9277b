"""Training steps, many to a dispatch: one program that loops on the device.

The host only says which batches come next, so that a step costs it next to nothing,
and how many of them: the number is data, and no number compiles anything anew.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems.base import Trainable
from lightlm_jax.training import state as state_lib
from lightlm_jax.training.state import TrainState


class Dispatch(NamedTuple):
  """Which steps the device takes, and what each is made of.

  Attributes:
    first: int32, the step that the state has to stand at.
    end: int32, one past the last step; at most `first` + K.
    bucket_K, key_K, batch_K: see `feed.Plan.at`; what lies behind `end` is not read.
  """

  first: np.int32
  end: np.int32
  bucket_K: np.ndarray
  key_K: np.ndarray
  batch_K: np.ndarray


class Numbers(NamedTuple):
  """Of a step, or [K] of each step taken, the one that was not sound included.

  Attributes:
    loss: of the step's batch, float32 as all of them.
    examples: what in it weighs something.
    tokens: what it really held; see `Trainable.loss`.
    places: what there was room for.
  """

  loss: jax.Array
  examples: jax.Array
  tokens: jax.Array
  places: jax.Array


class Report(NamedTuple):
  """What a dispatch leaves beside the state.

  Attributes:
    numbers: of its steps.
    taken: int32, steps that moved the state.
    sound: bool, whether the loss and the gradient's norm were finite.
    told: bool, whether any process had been told to end when it sent this.
  """

  numbers: Numbers
  taken: jax.Array
  sound: jax.Array
  told: jax.Array


def dispatch(plan: feed_lib.Plan, first: int, end: int, K: int) -> Dispatch:
  """The steps from `first` to `end` (excluded), at most K of them."""
  order = plan.at(np.arange(first, first + K))
  return Dispatch(np.int32(first), np.int32(end), *order)


def told_to_end(told: bool, mesh: Mesh) -> jax.Array:
  """What this process says to the others in its next dispatch."""
  every_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  return mesh_lib.put(np.full(mesh.size, told), every_device)


def make_steps(
  system: Trainable,
  tx: optax.GradientTransformation,
  plan: feed_lib.Plan,
  mesh: Mesh,
  seed: int,
  abstract: TrainState,
):
  """The compiled steps: (state, tables, feed, dispatch, told_D) → (state, Report).

  The feed is the log, or the batches [K, B, …] of the dispatch as read from disk.
  `told_D` is a bool for each device, its process's: see `told_to_end`. A step whose
  loss or gradient's norm is not finite leaves the state as it was before, and
  ends the dispatch. One whose `first` is not where the state stands does nothing: what
  was sent after such a step, before its report was read, is lost without harm. The
  state is donated, and lives where `abstract` says.
  """
  rows = mesh_lib.by_rows(mesh)
  # As the state came, or the next dispatch would be another program.
  shardings = state_lib.shardings_of(abstract)

  def learn(params, tables, feed, key, batch, rng, *, bucket):
    examples = feed_lib.gather(feed, key, batch, plan=plan, bucket=bucket)
    examples = jax.lax.with_sharding_constraint(examples, rows)
    gradient = jax.value_and_grad(system.loss, has_aux=True)
    (loss, metrics), grads = gradient(params, tables, examples, rng)
    weighs = (examples.weight_B > 0).sum()
    numbers = Numbers(loss, weighs, metrics["tokens"], metrics["capacity_tokens"])
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), numbers), grads

  # One shape of batch a bucket.
  buckets = [
    functools.partial(learn, bucket=bucket) for bucket in range(len(plan.widths))
  ]

  @functools.partial(
    jax.jit, donate_argnums=0, out_shardings=(shardings, mesh_lib.replicated(mesh))
  )
  def steps(state: TrainState, tables, feed, what: Dispatch, told_D):
    def goes_on(carry):
      state, report = carry
      return report.sound & (state.step < what.end)

    def step(carry):
      state, report = carry
      k = report.taken
      rng = jax.random.fold_in(jax.random.key(seed), state.step)
      own = jax.tree.map(lambda x: x[k], feed) if isinstance(feed, Batch) else feed
      operands = (state.params, tables, own, what.key_K[k], what.batch_K[k], rng)
      numbers, grads = jax.lax.switch(what.bucket_K[k], buckets, *operands)
      updates, opt_state = tx.update(grads, state.opt_state, state.params)
      params = optax.apply_updates(state.params, updates)
      sound = jnp.isfinite(numbers.loss) & jnp.isfinite(optax.tree.norm(grads))
      state = jax.tree.map(
        lambda new, old: jnp.where(sound, new, old),
        TrainState(state.step + 1, params, opt_state),
        state,
      )
      numbers = jax.tree.map(lambda x_K, x: x_K.at[k].set(x), report.numbers, numbers)
      taken = report.taken + sound.astype(jnp.int32)
      return state, Report(numbers, taken, sound, report.told)

    nothing_K = jnp.zeros(what.key_K.shape, jnp.float32)
    report = Report(
      Numbers(*(nothing_K,) * len(Numbers._fields)),
      taken=jnp.zeros((), jnp.int32),
      sound=state.step == what.first,
      told=told_D.any(),
    )
    return jax.lax.while_loop(goes_on, step, (state, report))

  return steps
