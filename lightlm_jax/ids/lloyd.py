"""K-Means on a mesh: Lloyd's iterations (1982), with points sharded over devices.

For catalogues too large for scikit-learn's K-Means on one machine's processors.
Letters: N points in S stacks of R rows; D width, K centres.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

# Rows whose distances to all centres are in memory at once.
STACK = 8_192


def assign(
  value_ND: np.ndarray, start_KD: np.ndarray, mesh: Mesh, *, iterations: int
) -> np.ndarray:
  """Returns each point's nearest centre, as found by K-Means, [N] int64.

  K-Means starts from the centres `start_KD` and stops when no point changes its centre,
  or after `iterations`. A centre without points does not move; of equally near centres
  a point gets the first. Sums are float32 and their rounding depends on the number of
  devices, so that a point almost midway between two centres may get either.
  """
  N, D = value_ND.shape
  rows = mesh.size * -(-N // (mesh.size * STACK)) * STACK
  value_ND = np.pad(value_ND.astype(np.float32), ((0, rows - N), (0, 0)))
  real_N = np.arange(rows) < N
  divided = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  label_N = _iterate(
    jax.device_put(value_ND.reshape(-1, STACK, D), divided),
    jax.device_put(real_N.reshape(-1, STACK), divided),
    jnp.asarray(start_KD, jnp.float32),
    iterations,
    mesh=mesh,
  )
  return np.asarray(label_N).reshape(-1)[:N].astype(np.int64)


@functools.partial(jax.jit, static_argnames="mesh")
def _iterate(value_SRD, real_SR, start_KD, iterations, *, mesh: Mesh):
  """Runs `assign` on stacks of points; returns each point's centre, [S, R] int32."""
  axes = mesh.axis_names

  def iterate(value_SRD, real_SR, centre_KD):
    def step(carry):
      label_SR, centre_KD, _, number = carry
      new_SR, sum_KD, size_K = _nearest(value_SRD, real_SR, centre_KD)
      moved = jnp.count_nonzero((new_SR != label_SR) & real_SR)
      sum_KD, size_K, moved = jax.lax.psum((sum_KD, size_K, moved), axes)
      mean_KD = sum_KD / jnp.maximum(size_K, 1)[:, None]
      centre_KD = jnp.where(size_K[:, None] > 0, mean_KD, centre_KD)
      return new_SR, centre_KD, moved, number + 1

    def goes_on(carry):
      _, _, moved, number = carry
      return (moved > 0) & (number < iterations)

    nowhere_SR = jnp.full(real_SR.shape, -1, jnp.int32)
    return jax.lax.while_loop(goes_on, step, (nowhere_SR, centre_KD, 1, 0))[0]

  divided = PartitionSpec(axes)
  return jax.shard_map(
    iterate,
    mesh=mesh,
    in_specs=(divided, divided, PartitionSpec()),
    out_specs=divided,
    check_vma=False,
  )(value_SRD, real_SR, start_KD)


def _nearest(value_SRD, real_SR, centre_KD):
  """Returns each point's nearest centre, and sum and number of each centre's points.

  Shapes are [S, R], [K, D] and [K]; the points are those of one device.
  """
  # By default an accelerator rounds the factors, which can change the nearest centre.
  einsum = functools.partial(jnp.einsum, precision="highest")
  square_K = einsum("kd,kd->k", centre_KD, centre_KD)

  def stack(carry, rows):
    sum_KD, size_K = carry
    value_RD, real_R = rows
    near_RK = 2 * einsum("rd,kd->rk", value_RD, centre_KD) - square_K[None, :]
    label_R = near_RK.argmax(axis=1).astype(jnp.int32)
    member_RK = jax.nn.one_hot(label_R, len(centre_KD)) * real_R[:, None]
    sum_KD += einsum("rk,rd->kd", member_RK, value_RD)
    return (sum_KD, size_K + member_RK.sum(axis=0)), label_R

  zero = jnp.zeros_like(centre_KD), jnp.zeros_like(square_K)
  (sum_KD, size_K), label_SR = jax.lax.scan(stack, zero, (value_SRD, real_SR))
  return label_SR, sum_KD, size_K
