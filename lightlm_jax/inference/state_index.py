"""L2D (arXiv 2509.11524): ranks items by a trained model's states, without a search.

The state index holds, for all training examples or a share of them, the model's hidden
state after the history, and the next item. Arithmetic: decoding/latent.py.
"""

import collections
from collections.abc import Callable, Mapping
import dataclasses
import functools
import hashlib
import logging
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from lightlm_jax.config import LightLMConfig
from lightlm_jax.config.model_groups import INDEXED
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.decoding import latent
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.inference.batched_inference import BATCHES_IN_FLIGHT
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import arrays, atomic
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.systems.base import Built, HasState, System, in_catalogue_order
from lightlm_jax.systems.item_scores import (
  ItemScorer,
  allowed_items,
  top_candidates,
  top_items,
)
from lightlm_jax.systems.lightlm import LightLM

logger = logging.getLogger(__name__)

DECODINGS = INDEXED
# Fields of config.decoding that these decodings read.
OPTIONS = ("nearest", "memory_share", "prior", "state", "index_weight")
DTYPE = np.float16
_ARRAYS = ("states", "items")
# Items of the index that fused decoding adds to those of the beams: 40 in place of 10
# cost a third more and change nothing on Toys' validation.
_ADDED = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateIndexSystem(ItemScorer):
  """Scores items with the state index; `tables` are (the model's tables, the index)."""

  model: HasState
  kind: str  # of DECODINGS
  nearest: int  # number of nearest examples that "latent_local" averages

  def scores(
    self, params: Any, tables: tuple[Any, latent.StateIndex], batch: Batch
  ) -> jax.Array:
    own, index = tables
    state_BD = self.model.state(params, own, batch)
    if self.kind == "latent_global":
      return latent.global_scores(state_BD, index)
    return latent.local_scores(state_BD, index, self.nearest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FusedSystem(System):
  """Ranks the best items of beam search and of the state index, in one list.

  The score of an item is its log-probability, as in exact decoding, plus `weight` times
  the `log_posterior` of the state index. Tables are those of `StateIndexSystem`.
  """

  model: LightLM
  weight: float

  def recommend(
    self,
    params: Any,
    tables: tuple[Any, latent.StateIndex],
    batch: Batch,
    allowed: Allowed,
    *,
    k: int,
  ) -> Recommendations:
    """Returns the K best of the items found by beam search or by the state index."""
    own, index = tables
    decoder = self.model.decoder(params, own, batch)
    beam_size = max(k, self.model.decoding.beam_size)
    found = self.model.found(decoder, own, allowed, k=beam_size)
    if self.model.decoding.state == "decoder":
      state_BD = self.model.decoder_state(decoder, own)
    else:
      state_BD = self.model.state(params, own, batch)
    posterior_BI = latent.log_posterior(state_BD, index)
    item_R = own.trie.item_R[:-1]
    allowed_BR = allowed_items(allowed, len(item_R)) & (item_R >= 0)[None]
    near = top_items(posterior_BI[:, jnp.maximum(item_R, 0)], allowed_BR, _ADDED)
    items_BK = jnp.where(near.valid_BK, item_R[near.items_BK], -1)
    known_BK = (items_BK[..., None] == found.items_BK[:, None]).any(axis=2)
    log_p_BK = self.model.scores_of(decoder, own, allowed, jnp.maximum(items_BK, 0))

    def both(a_BK, b_BK):
      return jnp.concatenate([a_BK, b_BK], axis=1)

    items_BX = both(found.items_BK, items_BK)
    valid_BX = both(found.valid_BK, near.valid_BK & ~known_BK)
    place_BX = jnp.maximum(items_BX, 0)
    score_BX = both(found.scores_BK, log_p_BK)
    score_BX += self.weight * jnp.take_along_axis(posterior_BI, place_BX, axis=1)
    return top_candidates(items_BX, score_BX, valid_BX, k)


def build(config: LightLMConfig, model: Built, index: latent.StateIndex) -> Built:
  """Builds the system that ranks items by the states of `model`'s training examples.

  Raises a UserError if `config.decoding` averages more examples than `index` has.
  """
  kind, nearest = config.decoding.kind, config.decoding.nearest
  if kind == "latent_local" and nearest > len(index.item_N):
    raise UserError(
      f"config.decoding.nearest is {nearest:,}, and the state index holds "
      f"{len(index.item_N):,} examples; give a smaller --nearest"
    )
  common = {"name": model.system.name, "max_history": model.system.max_history}
  if kind != "latent_local":  # which alone reads single states
    index = index._replace(state_ND=index.state_ND[:0], item_N=index.item_N[:0])
  if kind == "fused":
    assert isinstance(model.system, LightLM)
    weight = config.decoding.index_weight
    fused = FusedSystem(**common, model=model.system, weight=weight)
    return model._replace(system=fused, tables=(model.tables, index))
  assert isinstance(model.system, HasState)
  system = StateIndexSystem(**common, model=model.system, kind=kind, nearest=nearest)
  return in_catalogue_order(system, (model.tables, index), len(model.rank_I))


def index_states(
  model: Built,
  params: Any,
  train: Interactions,
  *,
  share: float,
  seed: int,
  batch_size: int,
  mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
  """Computes the hidden states that a model has after training examples' histories.

  Every interaction of `train` is an example, with the items before it as history; a
  `share` of them, drawn by `seed`, is kept. `batch_size` is a multiple of the mesh's
  `data` axis. Returns state_ND float16 and the following item_N int32, in log order.
  """
  system = model.system
  assert system.max_history is not None
  assert isinstance(system, HasState)
  feed, plan = feed_lib.positions(
    train, seed=0, batch_size=batch_size, widths=(system.max_history,)
  )
  E = len(train.item_E)
  kept_N = np.arange(E)
  if share < 1:
    rng = np.random.default_rng(seed)
    kept_N = np.sort(rng.choice(E, max(1, round(share * E)), replace=False))
  everywhere = mesh_lib.replicated(mesh)
  feed, tables = mesh_lib.put((feed, model.tables), everywhere)
  states = _states(system, plan, everywhere)

  found, in_flight = [], collections.deque()
  for first in range(0, len(kept_N), batch_size):
    full_B = np.resize(kept_N[first : first + batch_size], batch_size)
    row = mesh_lib.put(full_B.astype(np.uint32), mesh_lib.by_rows(mesh))
    if len(in_flight) == BATCHES_IN_FLIGHT:
      found.append(jax.device_get(in_flight.popleft()))
    in_flight.append(states(params, tables, feed, row))
  found += jax.device_get(list(in_flight))
  return np.concatenate(found)[: len(kept_N)], train.item_E[kept_N]


@functools.lru_cache(maxsize=4)
def _states(
  system: HasState, plan: feed_lib.Plan, everywhere: NamedSharding
) -> Callable[..., jax.Array]:
  """Compiles (params, tables, feed, row_B) → [B, D], the states of rows of the feed."""

  @functools.partial(jax.jit, out_shardings=everywhere)
  def states(params, tables, feed, row_B):
    real_B = jnp.ones(row_B.shape, bool)
    batch = feed_lib.rows_at(feed, row_B, real_B, jnp.uint32(0), plan=plan, bucket=0)
    return system.state(params, tables, batch).astype(DTYPE)

  return states


def cached(
  folder: epath.Path,
  about: Mapping[str, Any],
  make: Callable[[], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray]:
  """Reads a state index from its folder, or builds it by `make()` and writes it there.

  `about` is JSON on the index's origin, with the key "ids_sha256". An index of the same
  ids but another origin is replaced. Returns state_ND and item_N, see `index_states`.
  Raises a UserError if the folder holds an index of other ids or cannot be written.
  """
  try:
    with folder_lib.opened(folder) as (_, found):
      if found.get("ids_sha256", about["ids_sha256"]) != about["ids_sha256"]:
        raise UserError(
          f"{folder} is the state index of a run with other ids; remove it, and it is "
          "built again from this run's"
        )
      if found.items() >= about.items():
        return _read(folder, found)
  except folder_lib.NotWhole as error:
    if (folder / folder_lib.MANIFEST).exists():
      logger.warning(f"the state index in {folder} is damaged ({error})")
  atomic.check_folder(folder.parent)
  logger.info("building the state index from the training log …")
  made = make()
  with processes.fail_together("write the state index"):
    if processes.is_first():
      atomic.make_folder(folder)
      for name, array in zip(_ARRAYS, made):
        with atomic.writing(folder / f"{name}.npy") as file:
          np.save(file, array, allow_pickle=False)
      digests = {f"{n}_sha256": _digest(array) for n, array in zip(_ARRAYS, made)}
      folder_lib.write(folder, {}, {**about, **digests})
  megabytes = made[0].nbytes / 2**20
  logger.info(f"{len(made[1]):,} examples, {megabytes:,.0f} MiB, in {folder}")
  return made


def _read(
  folder: epath.Path, manifest: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray]:
  """Reads state_ND and item_N; raises a ValueError if a hash is not the manifest's."""
  found = []
  for name, dtype, ndim in zip(_ARRAYS, (DTYPE, np.int32), (2, 1)):
    path = folder / f"{name}.npy"
    with path.open("rb") as file:
      found.append(arrays.read(file, path.stat().length, dtype, ndim))
    if _digest(found[-1]) != manifest[f"{name}_sha256"]:
      raise ValueError(f"{name}.npy is not what was written")
  state_ND, item_N = found
  if len(state_ND) != len(item_N) or not len(item_N):
    raise ValueError(f"{len(state_ND)} states are of {len(item_N)} items")
  return state_ND, item_N


def _digest(array: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
