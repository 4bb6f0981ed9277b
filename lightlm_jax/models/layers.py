"""Layers of a T5-style transformer (Raffel et al. 2020, section 2.1), without biases.

Activations are in `dtype`; parameters, softmax and norms are float32. Initial scales
are T5's: attention logits are not divided by the square root of the head's width,
because the query's initial scale includes this factor.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp


class Dropout(nn.Module):
  """Dropout that draws a random byte per element: cheaper than Flax's random float.

  The rate is rounded to a multiple of 1/256; kept elements are scaled accordingly.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dropped = min(round(self.rate * 256), 255)
    if dropped == 0 or not self.has_rng("dropout"):
      return x
    words = -(-x.size // 4)
    bits = jax.random.bits(self.make_rng("dropout"), (words,), jnp.uint32)
    byte = jax.lax.bitcast_convert_type(bits, jnp.uint8).reshape(-1)[: x.size]
    keep = byte.reshape(x.shape) >= dropped
    return jnp.where(keep, x * (256 / (256 - dropped)), 0)


class RMSNorm(nn.Module):
  """Root-mean-square norm: x / rms(x) * scale in float32 (Zhang & Sennrich 2019)."""

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale_D = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(wide * wide, axis=-1, keepdims=True)
    scale = scale_D.reshape((1,) * (x.ndim - 1) + (-1,))
    return (wide * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(x.dtype)


class FeedForward(nn.Module):
  """A feed-forward network, relu(x W_in) W_out; its inner width is F."""

  F: int
  dropout_rate: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    D = x.shape[-1]
    inner = dense(self.F, D**-0.5, self.dtype, "inner")(x)
    inner = Dropout(self.dropout_rate)(nn.relu(inner))
    return dense(D, self.F**-0.5, self.dtype, "outer")(inner)


class RelativeBias(nn.Module):
  """T5's relative position bias: a learned number per head and bucket of distances."""

  H: int
  num_buckets: int
  max_distance: int
  bidirectional: bool
  init_std: float

  @nn.compact
  def __call__(self, query_position_L: jax.Array, key_position_M: jax.Array):
    """Returns the bias to add to the attention logits, [H, L, M] float32."""
    table = self.param(
      "table", nn.initializers.normal(self.init_std), (self.num_buckets, self.H)
    )
    distance_LM = key_position_M[None, :] - query_position_L[:, None]
    bucket_LM = relative_position_bucket(
      distance_LM,
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return table[bucket_LM].transpose(2, 0, 1)


def relative_position_bucket(
  distance: jax.Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> jax.Array:
  """Returns T5's bucket of each distance, int32 in [0, num_buckets).

  `distance` is int32, key position minus query position. Each small distance has its
  own bucket; larger distances share buckets of logarithmic width. The last bucket holds
  all from `max_distance` on. If `bidirectional`, half of the buckets are for keys after
  the query; otherwise such keys fall into bucket 0.
  """
  bucket = jnp.zeros_like(distance)
  if bidirectional:
    num_buckets //= 2
    bucket += num_buckets * (distance > 0)
    distance = jnp.abs(distance)
  else:
    distance = jnp.maximum(-distance, 0)
  exact = num_buckets // 2
  ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
  logarithmic = exact + (
    jnp.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
  ).astype(jnp.int32)
  logarithmic = jnp.minimum(logarithmic, num_buckets - 1)
  return bucket + jnp.where(distance < exact, distance, logarithmic)


class Projection(nn.Module):
  """A linear map of […, D] to H heads of width A: […, H, A]."""

  H: int
  A: int
  init_std: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    heads = dense(self.H * self.A, self.init_std, self.dtype, "kernel")(x)
    return heads.reshape(*x.shape[:-1], self.H, self.A)


def dense(features: int, init_std: float, dtype: jnp.dtype, name: str) -> nn.Dense:
  """Returns a linear map without a bias; initial weights are normally distributed."""
  init = nn.initializers.normal(init_std)
  return nn.Dense(features, use_bias=False, dtype=dtype, kernel_init=init, name=name)
