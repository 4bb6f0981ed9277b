"""A few users' recommendations as text, printed at the end of a run."""

from collections.abc import Iterator
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from lightlm_jax.data import batch as batch_lib
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.inference import batched_inference
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems.base import Built


def recommended(
  built: Built,
  params: Any,
  requests: Requests,
  log: Interactions,
  titles: list[str] | None,
  mesh: Mesh,
  *,
  users: int = 3,
  k: int = 3,
) -> Iterator[str]:
  """Yields two lines a user: the last items, and the recommendations."""
  index = np.arange(min(users, len(requests)))
  longest = int(requests.length_N[index].max())
  width = batch_lib.history_width(longest, built.system.max_history)
  batch = batch_lib.request_batch(requests, index, batch_size=len(index), width=width)
  row_P, item_P = allowed_lib.seen_items(requests, index)
  masks: Any = (
    allowed_lib.no_shared_mask(),
    np.zeros(len(index), np.int32),
    allowed_lib.exclusions(row_P, item_P, rank_I=built.rank_I, batch_size=len(index)),
  )
  everywhere = mesh_lib.replicated(mesh)
  recommend = batched_inference.compiled(built.system, "recommend", everywhere, k=k)
  best = jax.device_get(
    recommend(params, built.tables, batch, allowed_lib.Allowed(*masks))
  )

  def name(item: int) -> str:
    return (titles[item] if titles else "") or f"item {log.item_ids[item]}"

  for row, n in enumerate(index):
    had = ", ".join(name(item) for item in requests.row(int(n))[-k:])
    shown = ", ".join(name(i) for i in best.items_BK[row][best.valid_BK[row]])
    yield f"user {log.user_ids[requests.user_N[n]]} had … {had}"
    yield f"  next: {shown}   (bought: {name(requests.target_N[n])})"
