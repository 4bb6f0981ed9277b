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
  """Returns the mean of -log p(target | source) over the requests, in nats.

  Seen items are not excluded: the softmax is that of training. For the arguments see
  `evaluator.evaluate`.
  """
  copied = batched_inference.everywhere(mesh)
  params, built = batched_inference.prepared(built, params, mesh)
  nll = batched_inference.compiled(built.system, "nll", copied)

  def ask(batch, excluded_BE):
    return nll(params, built.tables, batch)

  total = 0.0
  for index, nll_B in batched_inference.answers(
    ask, built, requests, batch_size=batch_size, mesh=mesh
  ):
    total += float(nll_B[: len(index)].sum(dtype=np.float64))
  return total / len(requests)
