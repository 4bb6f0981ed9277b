"""A few users' recommendations as text, printed at the end of a run."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.inference import batched_inference
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems.base import Built

_USERS, _ITEMS = 3, 3


def recommended(
  built: Built,
  params: Any,
  requests: Requests,
  log: Interactions,
  titles: list[str] | None,
  mesh: Mesh,
) -> Iterator[str]:
  """Yields two lines for each of the first users: last items, and recommendations."""
  requests = requests.take(np.arange(min(_USERS, len(requests))))
  (first,) = batched_inference.host_batches(built, requests, len(requests))
  index, batch, excluded_BE = first
  masks: Any = allowed_lib.no_shared_mask(), np.zeros(len(index), np.int32), excluded_BE
  everywhere = mesh_lib.replicated(mesh)
  recommend = batched_inference.compiled(
    built.system, "recommend", everywhere, k=_ITEMS
  )
  best = jax.device_get(
    recommend(params, built.tables, batch, allowed_lib.Allowed(*masks))
  )

  def name(item: int) -> str:
    return (titles[item] if titles else "") or f"item {log.item_ids[item]}"

  for n, row in enumerate(np.argsort(index)):
    had = ", ".join(name(item) for item in requests.row(n)[-_ITEMS:])
    shown = ", ".join(name(i) for i in best.items_BK[row][best.valid_BK[row]])
    yield f"user {log.user_ids[requests.user_N[n]]} had … {had}"
    yield f"  next: {shown}   (bought: {name(requests.target_N[n])})"
