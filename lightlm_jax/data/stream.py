"""Batches from disk, read ahead by Grain while the device computes.

The rows of a step are a function of (seed, step), as on the device. No iterator state
is saved: a run that starts at step s reads from step s on.
"""

from collections.abc import Callable
from typing import Any

import grain
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.shards import Shards

_THREADS = 2
_DISPATCHES_AHEAD = 3


class Steps(grain.sources.RandomAccessDataSource):
  """The batch of every step, restricted to the rows of this process's devices."""

  def __init__(self, shards: Shards, plan: feed_lib.Plan, wanted_B: np.ndarray):
    self._shards, self._plan, self._wanted_B = shards, plan, wanted_B

  def __len__(self) -> int:
    return 2**31 - 1

  def __getitem__(self, step: int) -> Batch:
    bucket, key, batch = self._plan.at(np.array(step))
    row_B, real_B = self._plan.places(key, batch, int(bucket))
    return self._shards.rows(np.where(real_B & self._wanted_B, row_B.astype(int), -1))


def reader(
  shards: Shards, plan: feed_lib.Plan, mesh: Mesh, *, start: int, most: int
) -> Callable[[int], Batch]:
  """Returns a function that reads the batches of successive steps.

  Args:
    shards: the rows.
    plan: their order.
    mesh: rows are sharded over its axis `data`.
    start: the first step.
    most: K, steps of a dispatch.

  Returns:
    A function of a number of steps, at most K. It returns their batches [K, B, …] on
    the devices; batches beyond that number are padding.
  """
  B = plan.batch_size
  over_rows = NamedSharding(mesh, PartitionSpec(None, "data"))
  wanted_B = np.zeros(B, bool)
  indices: Any = over_rows.addressable_devices_indices_map((most, B)).values()
  for _, rows in indices:
    wanted_B[rows] = True
  read_ahead = grain.ReadOptions(
    num_threads=_THREADS, prefetch_buffer_size=_DISPATCHES_AHEAD * most
  )
  steps = grain.MapDataset.source(Steps(shards, plan, wanted_B))[start:]
  batches = iter(steps.to_iter_dataset(read_ahead))

  def read(number: int) -> Batch:
    found = [next(batches) for _ in range(number)]
    found += found[-1:] * (most - number)

    def put(*leaves) -> jax.Array:
      leaf = np.stack(leaves)
      return jax.make_array_from_callback(leaf.shape, over_rows, leaf.__getitem__)

    return jax.tree.map(put, *found)

  return read
