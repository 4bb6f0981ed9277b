"""Serves recommendations: requests in, lists of items out."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np
import pyarrow

from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.inference import batched_inference
from lightlm_jax.runtime import processes
from lightlm_jax.systems.base import Built, System


class Served(NamedTuple):
  """A system ready to recommend, on this process's devices."""

  built: Built  # with its tables on the mesh, and prepared
  params: Any  # on the mesh
  mesh: Mesh  # of this process's devices alone: no process waits for another
  batch_size: int  # the largest batch


def ready(built: Built, params: Any, mesh: Mesh, batch_size: int) -> Served:
  """Prepares a system for serving on this process's own devices.

  The tables of `built`, on a `mesh` that spans all processes, and `params` are copied
  to this process's devices. `batch_size` is a multiple of the number of these devices.
  """
  if processes.several():
    devices = np.array(jax.local_devices()).reshape(-1, 1)
    params, tables = jax.tree.map(
      lambda x: x.addressable_data(0) if isinstance(x, jax.Array) else x,
      (params, built.tables),
    )
    built, mesh = built._replace(tables=tables), Mesh(devices, ("data", "model"))
  params, built = batched_inference.prepared(built, params, mesh)
  return Served(built, params, mesh, batch_size)


def recommend(
  served: Served,
  requests: Requests,
  *,
  k: int,
  exclude_seen: bool = True,
  allowed_I: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the best K items of each request; raises a UserError if a score is NaN.

  One program is compiled per bucket of batch size, history length and number of
  exclusions, and another if `allowed_I` is given. New values in it need no compilation.

  Args:
    served: from `ready`.
    requests: N requests, whose targets are ignored.
    k: K, the largest number of items per request; static.
    exclude_seen: whether items of a request's whole history are excluded.
    allowed_I: bool, the items that may be recommended to anyone; None = all.

  Returns:
    items_NK int32 catalogue indices and scores_NK float32, padded with -1 and -inf.
  """
  (system, tables, rank_I, *_), mesh = served.built, served.mesh
  copied = batched_inference.everywhere(mesh)
  prefix_MI1 = allowed_lib.no_shared_mask()
  if allowed_I is not None:
    prefix_MI1 = allowed_lib.shared_masks(allowed_I[None], rank_I)
  prefix_MI1 = batched_inference.put(prefix_MI1, copied)
  program = _program(system, k, copied)

  def ask(batch, excluded_BE):
    excluded_BE = excluded_BE if exclude_seen else excluded_BE[:, :0]
    return program(served.params, tables, batch, prefix_MI1, excluded_BE)

  items_NK = np.full((len(requests), k), -1, np.int32)
  scores_NK = np.full((len(requests), k), -np.inf, np.float32)
  for index, (items_BK, scores_BK, nan_B) in batched_inference.answers(
    ask,
    served.built,
    requests,
    batch_size=_batch_size(len(requests), served.batch_size, mesh.shape["data"]),
    mesh=mesh,
  ):
    batched_inference.refuse_nan(system, index, nan_B[: len(index)], None)
    items_NK[index] = items_BK[: len(index)]
    scores_NK[index] = scores_BK[: len(index)]
  return items_NK, scores_NK


def table(
  names: np.ndarray,
  items_NK: np.ndarray,
  scores_NK: np.ndarray,
  item_ids: np.ndarray,
  texts: np.ndarray | None = None,
) -> pyarrow.Table:
  """Returns a table with a row per item: user, rank (from 1), item, score[, text].

  `names` [N] of users, raw `item_ids` [I] and `texts` [I] of items are str. There is
  a column `text` only if `texts` is given. Padding, item -1, gets no row.
  """
  row_R, place_R = np.nonzero(items_NK >= 0)
  item_R = items_NK[row_R, place_R]
  columns = {
    "user": pyarrow.array(names[row_R], pyarrow.string()),
    "rank": pyarrow.array(1 + place_R, pyarrow.int32()),
    "item": pyarrow.array(item_ids[item_R], pyarrow.string()),
    "score": pyarrow.array(scores_NK[row_R, place_R], pyarrow.float32()),
  }
  if texts is not None:
    columns["text"] = pyarrow.array(texts[item_R], pyarrow.string())
  return pyarrow.table(columns)


@functools.lru_cache(maxsize=16)
def _program(system: System, k: int, out_sharding: NamedSharding | None):
  def ask(params, tables, batch, prefix_MI1, excluded_BE):
    allowed = Allowed(prefix_MI1, jnp.zeros_like(batch.user_B), excluded_BE)
    best = system.recommend(params, tables, batch, allowed, k=k)
    return best.items_BK, best.scores_BK, jnp.isnan(best.scores_BK).any(axis=1)

  return jax.jit(ask, out_shardings=out_sharding)


def _batch_size(number: int, most: int, devices: int) -> int:
  """Returns the first of `devices` × 1, 4, 16, … that is ≥ `number`, at most `most`."""
  size = devices
  while size < min(number, most):
    size *= 4
  return min(size, most)
