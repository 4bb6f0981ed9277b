"""The k largest of many numbers, exactly, by the largest of each block first."""

import jax
import jax.numpy as jnp

_BLOCK = 32
# Below so many numbers for each that is kept, sorting them all costs no more.
_WORTH_IT = 64


def top_k(value_BN: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """`jax.lax.top_k` over long rows, of equals the first included: the same answer.

  At least k numbers come before any number outside the k blocks with the largest
  maxima, so that only those blocks are looked at.

  Args:
    value_BN: float32 [B, N], -inf allowed.
    k: K, at most N.

  Returns:
    The values [B, K], largest first, and their int32 places.
  """
  B, N = value_BN.shape
  if N < _WORTH_IT * k:
    return jax.lax.top_k(value_BN, k)
  padding = ((0, 0), (0, -N % _BLOCK))
  block_BGX = jnp.pad(value_BN, padding, constant_values=-jnp.inf)
  block_BGX = block_BGX.reshape(B, -1, _BLOCK)
  _, best_BK = jax.lax.top_k(block_BGX.max(axis=2), k)
  best_BK = jnp.sort(best_BK, axis=1)  # of equals, the first block's stay first
  kept_BKX = jnp.take_along_axis(block_BGX, best_BK[..., None], axis=1)
  value_BK, place_BK = jax.lax.top_k(kept_BKX.reshape(B, k * _BLOCK), k)
  block_BK = jnp.take_along_axis(best_BK, place_BK // _BLOCK, axis=1)
  return value_BK, block_BK * _BLOCK + place_BK % _BLOCK
