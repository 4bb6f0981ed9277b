"""An exact top-k of many numbers per row, computed by each device for its own rows."""

import functools
from typing import Any

import jax
from jax.experimental.custom_partitioning import custom_partitioning
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

_BLOCK = 32
# With fewer than so many numbers per kept one, a plain top-k is as fast.
_WORTH_IT = 128


def top_k(value_BN: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """Returns the result of `jax.lax.top_k`, ties included, but faster on long rows.

  A long row is cut into blocks. Its k largest numbers are within the k blocks with the
  largest maxima; only those are searched. `value_BN` is float32, -inf allowed, k ≤ N.
  The result is the values [B, K], largest first, and their int32 places in the row.
  """
  B, N = value_BN.shape
  if N < _WORTH_IT * k:
    return _top_k(value_BN, k)
  padding = ((0, 0), (0, -N % _BLOCK))
  block_BGX = jnp.pad(value_BN, padding, constant_values=-jnp.inf)
  block_BGX = block_BGX.reshape(B, -1, _BLOCK)
  _, best_BK = _top_k(block_BGX.max(axis=2), k)
  best_BK = jnp.sort(best_BK, axis=1)  # ties go to the first block
  kept_BKX = jnp.take_along_axis(block_BGX, best_BK[..., None], axis=1)
  value_BK, place_BK = _top_k(kept_BKX.reshape(B, k * _BLOCK), k)
  block_BK = jnp.take_along_axis(best_BK, place_BK // _BLOCK, axis=1)
  return value_BK, block_BK * _BLOCK + place_BK % _BLOCK


# On CPUs and GPUs XLA does not shard TopK by rows: it would send all rows to every
# device. On TPUs it does; ahead-of-time compilation for a TPU topology has no custom
# partitioning.
def _top_k(value_BN: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  found: Any = jax.lax.platform_dependent(
    value_BN,
    tpu=lambda value_BN: tuple(jax.lax.top_k(value_BN, k)),
    default=lambda value_BN: _top_k_apart(value_BN, k),
  )
  return found


def _top_k_apart(value_BN: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  # XLA gives constants of arithmetic on the places the sharding rule of the rows, which
  # does not compile for two GPUs or more.
  value_BK, place_BK = _top_k_by_rows(value_BN, k)
  return value_BK, jax.lax.optimization_barrier(place_BK)


@functools.partial(custom_partitioning, static_argnums=(1,))
def _top_k_by_rows(value_BN: jax.Array, k: int):
  return tuple(jax.lax.top_k(value_BN, k))


def _partition(k, mesh, arguments, results):
  spec = arguments[0].sharding.spec
  rows = NamedSharding(mesh, PartitionSpec(spec[0] if spec else None))
  return mesh, lambda value_BN: tuple(jax.lax.top_k(value_BN, k)), (rows, rows), (rows,)


_top_k_by_rows.def_partition(_partition, sharding_rule="b n -> b k, b k")
