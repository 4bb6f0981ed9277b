"""Runs a system on batches of requests, for evaluation and for serving.

Batches have a few static shapes (histories and exclusions are padded to buckets), so
that each shape is compiled once.
"""

import collections
from collections.abc import Callable, Iterator
import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np

from lightlm_jax.data import batch as batch_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import Built, SharesWork, System

BATCHES_IN_FLIGHT = 2  # more dispatches with collectives deadlock CPU devices


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
  """Returns the sharding that replicates arrays on `mesh`; None without a mesh."""
  return None if mesh is None else mesh_lib.replicated(mesh)


def prepared(built: Built, params: Any, mesh: Mesh | None) -> tuple[Any, Built]:
  """Puts `params` and `built` on the mesh; runs a system's `prepare`, if any, once."""
  copied = everywhere(mesh)

  def on_mesh(x):
    held_by = x.sharding.num_devices if isinstance(x, jax.Array) else 0
    if copied is None or held_by == copied.num_devices:
      return x
    return mesh_lib.put(x, copied)

  params, tables = jax.tree.map(on_mesh, (params, built.tables))
  if isinstance(built.system, SharesWork) and not built.prepared:
    tables = compiled(built.system, "prepare", copied)(params, tables)
  return params, built._replace(tables=tables, prepared=True)


@functools.lru_cache(maxsize=64)
def compiled(
  system: System, method: str, out_sharding: NamedSharding | None
) -> Callable[..., Any]:
  """Returns a method of a system, jitted; equal systems share one program.

  `out_sharding` is the sharding of the results, None = one device.
  """
  return jax.jit(getattr(system, method), out_shardings=out_sharding)


def answers(
  ask: Callable[[Batch, jax.Array], Any],
  built: Built,
  requests: Requests,
  *,
  batch_size: int,
  mesh: Mesh | None,
) -> Iterator[tuple[np.ndarray, Any]]:
  """Runs all requests in batches, a few of which are on the devices at once.

  Args:
    ask: maps (batch, excluded_BE), on the devices, to arrays with a row per request;
      the exclusions are the requests' whole histories, see `Allowed.excluded_BE`.
    built: the system that `ask` calls; the shapes of the batches follow from it.
    requests: N requests in any order.
    batch_size: B, a multiple of the mesh's "data" axis.
    mesh: devices that share each batch; None = one device.

  Yields:
    The indices of at most B requests, and their results as host arrays of B rows; rows
    after the last index are padding.
  """
  rows = None if mesh is None else mesh_lib.by_rows(mesh)
  in_flight = collections.deque()
  for index, batch, excluded_BE in host_batches(built, requests, batch_size):
    if len(in_flight) == BATCHES_IN_FLIGHT:
      index_done, answer = in_flight.popleft()
      yield index_done, jax.device_get(answer)
    in_flight.append((index, ask(*put((batch, excluded_BE), rows))))
  for index_done, answer in in_flight:
    yield index_done, jax.device_get(answer)


def host_batches(
  built: Built, requests: Requests, batch_size: int
) -> Iterator[tuple[np.ndarray, Batch, np.ndarray]]:
  """Yields (request indices, batch, `Allowed.excluded_BE`), short histories first."""
  order_N = np.argsort(requests.length_N, kind="stable")
  for start in range(0, len(order_N), batch_size):
    index = order_N[start : start + batch_size]
    longest = int(requests.length_N[index[-1]])
    width = batch_lib.history_width(longest, built.system.max_history)
    batch = batch_lib.request_batch(requests, index, batch_size=batch_size, width=width)
    row_P, item_P = allowed_lib.seen_items(requests, index)
    excluded_BE = allowed_lib.exclusions(
      row_P, item_P, rank_I=built.rank_I, batch_size=batch_size
    )
    yield index, batch, excluded_BE


def put(tree: Any, sharding: NamedSharding | None) -> Any:
  """Puts the host arrays of `tree` on devices by `sharding`; None = on one device."""
  return jax.device_put(tree) if sharding is None else mesh_lib.put(tree, sharding)


def refuse_nan(
  system: System, user_B: np.ndarray, nan_B: np.ndarray, user_ids: np.ndarray | None
) -> None:
  """Raises a UserError if `nan_B` marks users with NaN scores; names the first of them.

  `user_B` are indices into `user_ids` ([U] raw ids) or, if that is None, of requests.
  """
  if nan_B.any():
    first = user_B[nan_B][0]
    name = f"index {first}" if user_ids is None else user_ids[first]
    raise UserError(
      f"{system.name} scores items with NaN for {nan_B.sum()} of {len(nan_B)} users of "
      f"a batch, first for user {name}; the parameters have diverged: go back to an "
      "earlier checkpoint or lower train.learning_rate"
    )
