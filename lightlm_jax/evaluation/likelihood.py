"""The loss of held-out items in nats: comparable between systems, for scaling laws."""

from typing import Any

from jax.sharding import Mesh
import numpy as np

from lightlm_jax.data.splits import Requests
from lightlm_jax.inference import batched_inference
from lightlm_jax.systems.base import Built


def mean_nll(
  built: Built, params: Any, requests: Requests, *, batch_size: int, mesh: Mesh
) -> float:
  """-log p(target | source) in nats, the mean over the requests, in float64.

  Seen items are not excluded: the softmax is that of training.

  Args:
    built: of a system that has a likelihood.
    params: its parameters, on the device.
    requests: at least one.
    batch_size: requests at once, a multiple of the mesh's "data" axis.
    mesh: devices that share a batch.
  """
  copied = batched_inference.everywhere(mesh)
  params, built = batched_inference.prepared(built, params, mesh)
  nll = batched_inference.compiled(built.system, "nll", copied)
  total = 0.0
  for index, nll_B in batched_inference.answers(
    lambda batch, excluded_BE: nll(params, built.tables, batch),
    requests,
    batch_size=batch_size,
    max_history=built.system.max_history,
    rank_I=built.rank_I,
    mesh=mesh,
  ):
    total += float(nll_B[: len(index)].sum(dtype=np.float64))
  return total / len(requests)
