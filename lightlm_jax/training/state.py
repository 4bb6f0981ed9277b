"""What a training run carries from step to step, and the optimiser that moves it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import optax

from lightlm_jax.errors import UserError
from lightlm_jax.training import mesh as mesh_lib

EMBEDDINGS = ("embedding", "word_embedding")  # tokens and whole words, by path


class TrainState(NamedTuple):
  """A plain pytree; `step` counts the batches seen and seeds every random draw."""

  step: jax.Array  # int32
  params: Any
  opt_state: Any


def optimiser(config: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """AdamW behind gradient clipping, warm-up and decay, from `config.train`.

  Norm scales and relative biases are not decayed: pulling them to zero is no prior.
  Embeddings start about sqrt(D) times larger than the weights, so one absolute rate
  would move them that much less; `embedding_rate` is their multiple of it (T5's
  Adafactor scales every update by the parameter's own size).
  """
  t = config.train
  accumulate = t.accumulate
  if t.schedule not in ("cosine", "linear"):
    raise UserError(f"config.train.schedule is {t.schedule!r}; choose cosine or linear")
  warmup, total = t.warmup_steps // accumulate, max(t.steps // accumulate, 1)
  after = max(total - warmup, 1)
  if t.schedule == "cosine":
    decay = optax.cosine_decay_schedule(t.learning_rate, after)
  else:
    decay = optax.linear_schedule(t.learning_rate, 0.0, after)
  warm = optax.linear_schedule(0.0, t.learning_rate, max(warmup, 1))
  schedule = optax.join_schedules([warm, decay], [warmup])
  chain = optax.chain(
    optax.clip_by_global_norm(t.clip_norm),
    optax.adamw(schedule, eps=1e-6, weight_decay=t.weight_decay, mask=_decayed),
    optax.masked(optax.scale(t.embedding_rate), _is_embedding),
  )
  if accumulate > 1:
    return optax.MultiSteps(chain, accumulate).gradient_transformation()
  return chain


def create(init, tx: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
  """The state at step 0, made where it will live: abstract first, then in place."""
  make, shardings = _maker(init, tx, mesh)
  return jax.jit(make, out_shardings=shardings)(jax.random.key(seed))


def abstract(init, tx: optax.GradientTransformation, mesh: Mesh) -> TrainState:
  """Shapes, dtypes and shardings of the state: what a checkpoint is restored into."""
  make, shardings = _maker(init, tx, mesh)
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    jax.eval_shape(make, jax.random.key(0)),
    shardings,
  )


def count_parameters(params) -> dict[str, int]:
  """All weights, and those outside the token and whole-word tables."""
  total = non_embedding = 0
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    total += leaf.size
    non_embedding += 0 if name in EMBEDDINGS else leaf.size
  return {"total": total, "non_embedding": non_embedding}


def _maker(init, tx, mesh):
  def make(rng):
    params = init(rng)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  return make, mesh_lib.shardings(jax.eval_shape(make, jax.random.key(0)), mesh)


def _path_mask(params, chosen):
  """A pytree of bools: is the parameter's path chosen?"""
  return jax.tree_util.tree_map_with_path(
    lambda path, _: chosen(jax.tree_util.keystr(path, simple=True, separator="/")),
    params,
  )


def _decayed(params):
  return _path_mask(params, lambda name: not name.endswith(("scale", "bias/table")))


def _is_embedding(params):
  return _path_mask(params, EMBEDDINGS.__contains__)
