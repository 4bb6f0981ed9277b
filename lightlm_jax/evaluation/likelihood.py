"""The loss of held-out items: what scaling studies fit, in one unit for all systems."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np

from lightlm_jax.data.splits import Requests
from lightlm_jax.inference import batched_inference as asking
from lightlm_jax.systems.base import System


def mean_nll(
  system: System, params: Any, requests: Requests, *, batch_size: int, mesh: Mesh
) -> float:
  """-log p(target | source) in nats, the mean over the requests, in float64.

  Seen items are not excluded: the softmax is that of training.

  Args:
    system: with `nll`.
    params: its parameters, on the device.
    requests: at least one.
    batch_size: requests at once, a multiple of the mesh's "data" axis.
    mesh: devices that share a batch.
  """
  copied = asking.everywhere(mesh)
  params, tables = asking.prepared(system, params, mesh)
  nll = _compiled(system.nll, copied)
  total = 0.0
  for index, nll_B in asking.answers(
    lambda batch, excluded_BE: nll(params, tables, batch),
    requests,
    batch_size=batch_size,
    max_history=system.max_history,
    rank_I=np.asarray(system.rank_I),
    mesh=mesh,
  ):
    total += float(nll_B[: len(index)].sum(dtype=np.float64))
  return total / len(requests)


@functools.lru_cache(maxsize=16)
def _compiled(nll: Callable, out_sharding: NamedSharding | None) -> Callable:
  return jax.jit(nll, out_shardings=out_sharding)
