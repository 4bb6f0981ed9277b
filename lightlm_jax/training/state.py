"""The training state and the optimiser."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from lightlm_jax.config.schema import LearnedConfig, Train
from lightlm_jax.runtime import mesh as mesh_lib

# Paths of the embedding tables: of tokens, items, whole words and repeated items.
EMBEDDINGS = ("embedding", "output", "word_embedding", "writer/embedding")
EMBEDDINGS += ("repeat_bias",)


class Average(NamedTuple):
  """The moving average of the parameters, a part of the optimiser's state."""

  updates: jax.Array  # int32, how many it has seen
  averaged_params: Any


class TrainState(NamedTuple):
  """The training state; random draws depend on the seed and `step`, a batch count."""

  step: jax.Array  # int32
  params: Any
  opt_state: Any


def optimiser(config: LearnedConfig) -> optax.GradientTransformation:
  """Builds AdamW, with gradient clipping and a learning rate that warms up and decays.

  Norm scales and relative position biases have no weight decay. Embeddings start about
  sqrt(D) times larger than other weights, where D is the model's width, and would
  change relatively less at the same learning rate. So `config.train.embedding_rate`
  multiplies the embeddings' rate. (T5's Adafactor scales updates by parameter norms.)
  """
  names = ("steps", "accumulate", "warmup_steps", "schedule", "learning_rate")
  names += ("embedding_rate", "weight_decay", "clip_norm", "average")
  return _optimiser(Train(**{name: getattr(config.train, name) for name in names}))


# Cached: compiled steps are looked up by the identity of the optimiser.
@functools.lru_cache(maxsize=16)
def _optimiser(t: Train) -> optax.GradientTransformation:
  warmup = t.warmup_steps // t.accumulate
  after = max(t.steps // t.accumulate - warmup, 1)
  if t.schedule == "cosine":
    decay = optax.cosine_decay_schedule(t.learning_rate, after)
  else:
    decay = optax.linear_schedule(t.learning_rate, 0.0, after)
  warm = optax.linear_schedule(0.0, t.learning_rate, max(warmup, 1))
  chain = optax.chain(
    optax.clip_by_global_norm(t.clip_norm),
    optax.adamw(
      optax.join_schedules([warm, decay], [warmup]),
      eps=1e-6,
      weight_decay=t.weight_decay,
      mask=_decayed,
    ),
    optax.masked(optax.scale(t.embedding_rate), _is_embedding),
    *([_moving_average(t.average)] if t.average else []),
  )
  if t.accumulate > 1:
    return optax.MultiSteps(chain, t.accumulate).gradient_transformation()
  return chain


def abstract(
  init, tx: optax.GradientTransformation, mesh: Mesh, *, shard_optimiser: bool = False
) -> TrainState:
  """Returns the state as shapes, dtypes and shardings, to restore checkpoints onto.

  `init` maps a random key to parameters. Parameters and optimiser state are sharded
  over the axis "model"; with `shard_optimiser` optimiser state is over "data" too.
  """
  shapes = jax.eval_shape(_maker(init, tx), jax.random.key(0))
  shardings: Any = TrainState(
    mesh_lib.replicated(mesh),  # pyright: ignore[reportArgumentType]
    mesh_lib.shardings(shapes.params, mesh),
    mesh_lib.shardings(shapes.opt_state, mesh, over_data=shard_optimiser, warn=False),
  )
  return jax.tree.map(
    lambda leaf, place: leaf.update(sharding=place), shapes, shardings
  )


def create(
  init, tx: optax.GradientTransformation, seed: int, abstract: TrainState
) -> TrainState:
  """Creates the state of step 0, with the shardings of `abstract`."""
  make = jax.jit(_maker(init, tx), out_shardings=shardings_of(abstract))
  return make(jax.random.key(seed))


def evaluated(state: TrainState) -> Any:
  """Returns the parameters to evaluate: their moving average, if there is one."""
  averaged = optax.tree_utils.tree_get(state.opt_state, "averaged_params")
  return state.params if averaged is None else averaged


def shardings_of(abstract: TrainState) -> TrainState:
  """Returns the sharding of each leaf of an abstract state."""
  return jax.tree.map(lambda leaf: leaf.sharding, abstract)


def count_parameters(params) -> dict[str, int]:
  """Counts all parameters, "total", and those outside EMBEDDINGS, "non_embedding"."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  size = {mesh_lib.path_name(path): leaf.size for path, leaf in leaves}
  embedding = sum(size.get(name, 0) for name in EMBEDDINGS)
  return {"total": sum(size.values()), "non_embedding": sum(size.values()) - embedding}


def _maker(init, tx):
  def make(rng):
    params = init(rng)
    return TrainState(jnp.zeros((), jnp.int32), params, tx.init(params))

  return make


def _moving_average(decay: float) -> optax.GradientTransformation:
  """Tracks the `Average` and leaves updates unchanged; its decay rises to `decay`."""

  def init(params):
    return Average(jnp.zeros((), jnp.int32), jax.tree.map(jnp.array, params))

  def update(updates, state, params: Any = None):
    number = state.updates.astype(jnp.float32)
    keep = jnp.minimum(decay, (1 + number) / (10 + number))
    new = optax.apply_updates(params, updates)
    mixed = optax.incremental_update(new, state.averaged_params, 1 - keep)
    return updates, Average(state.updates + 1, mixed)

  return optax.GradientTransformation(init, update)


def _decayed(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: not mesh_lib.path_name(path).endswith(("scale", "bias/table")),
    params,
  )


def _is_embedding(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: mesh_lib.path_name(path) in EMBEDDINGS, params
  )
