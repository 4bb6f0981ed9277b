"""L2D (arXiv 2509.11524) on a trained run: items by hidden states, without a search.

Training is as it was. The memory is built from the training log: of every example the
state that its source led to, with the item that followed. The arithmetic is in
decoding/latent.py.
"""

import collections
from collections.abc import Callable, Mapping
import functools
import hashlib
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.decoding import latent
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import System

DECODINGS = ("latent_global", "latent_local")
OPTIONS = (
  "nearest",
  "memory_share",
  "prior",
  "state",
)  # fields of `decoding` that they read
DTYPE = np.float16
_BATCHES_IN_FLIGHT = 2  # unbounded dispatch with collectives deadlocks CPU devices
_ARRAYS = ("states", "items")


def build(
  config: ml_collections.ConfigDict, system: System, memory: latent.Memory
) -> System:
  """The system that asks the memory where `system` would search.

  Args:
    config: of a run; `decoding.kind` is one of DECODINGS.
    system: which has a `state`.
    memory: of its training examples: see `remember`.

  Raises:
    UserError: the memory holds fewer examples than are to be looked at.
  """
  kind, nearest = config.decoding.kind, config.decoding.nearest
  if kind == "latent_local" and nearest > len(memory.item_N):
    raise UserError(
      f"config.decoding.nearest is {nearest:,}, and the memory holds "
      f"{len(memory.item_N):,} examples; give a smaller --nearest"
    )

  def scores(params, tables: Any, batch):
    own, memory = tables
    state_BD = system.state(params, own, batch)
    if kind == "latent_global":
      return latent.global_scores(state_BD, memory)
    return latent.local_scores(state_BD, memory, nearest)

  return system._replace(
    tables=(system.tables, memory),
    rank_I=np.arange(len(system.rank_I), dtype=np.int32),
    scores=scores,
    recommend=item_scores.recommender(scores),
    hallucinated=None,
  )


def remember(
  system: System,
  params: Any,
  train: Interactions,
  *,
  share: float,
  seed: int,
  batch_size: int,
  mesh: Mesh,
) -> tuple[np.ndarray, np.ndarray]:
  """The states of training examples, and the items that followed them.

  Args:
    system: which has a `state`.
    params: of the run.
    train: every interaction is an example, the items before it its history.
    share: of the examples that are kept.
    seed: of which those are.
    batch_size: examples at once, a multiple of the mesh's `data`.
    mesh: devices that share a batch.

  Returns:
    state_ND float16 and item_N int32, in the order of the log.
  """
  feed, plan = feed_lib.positions(
    train, seed=0, batch_size=batch_size, widths=(system.max_history,)
  )
  E = len(train.item_E)
  kept_N = np.arange(E)
  if share < 1:
    rng = np.random.default_rng(seed)
    kept_N = np.sort(rng.choice(E, max(1, round(share * E)), replace=False))
  everywhere = mesh_lib.replicated(mesh)
  feed, tables = mesh_lib.put((feed, system.tables), everywhere)

  @functools.partial(jax.jit, out_shardings=everywhere)
  def states(params, tables, feed, row_B):
    real_B = jnp.ones(row_B.shape, bool)
    batch = feed_lib.rows_at(feed, row_B, real_B, jnp.uint32(0), plan=plan, bucket=0)
    return system.state(params, tables, batch).astype(DTYPE)

  found, in_flight = [], collections.deque()
  for first in range(0, len(kept_N), batch_size):
    full_B = np.resize(kept_N[first : first + batch_size], batch_size)
    row = mesh_lib.put(full_B.astype(np.uint32), mesh_lib.by_rows(mesh))
    if len(in_flight) == _BATCHES_IN_FLIGHT:
      found.append(jax.device_get(in_flight.popleft()))
    in_flight.append(states(params, tables, feed, row))
  found += jax.device_get(list(in_flight))
  return np.concatenate(found)[: len(kept_N)], train.item_E[kept_N]


def cached(
  folder: epath.Path,
  about: Mapping[str, Any],
  make: Callable[[], tuple[np.ndarray, np.ndarray]],
  say: Callable[[str], None],
) -> tuple[np.ndarray, np.ndarray]:
  """A memory from its folder, or made by `make()` and put there.

  Args:
    folder: of a run.
    about: what the memory is of, as JSON holds it, with `ids_sha256`.
    make: see `remember`.
    say: prints a line.

  Returns:
    state_ND float16 and item_N int32.

  Raises:
    UserError: the folder holds a memory of other ids, or cannot be written.
  """
  try:
    found = json_text.loads((folder / "manifest.json").read_text())
  except (OSError, ValueError):
    found = None
  found = found if isinstance(found, dict) else {}
  if found.get("ids_sha256", about["ids_sha256"]) != about["ids_sha256"]:
    raise UserError(
      f"{folder} is the memory of a run with other ids; remove it, and it is built "
      "anew from this run's"
    )
  if found.items() >= about.items():
    arrays = _read(folder, found)
    if arrays is not None:
      return arrays
  say("the memory is built from the training log …")
  arrays = make()
  with processes.together("write the memory"):
    _write(folder, about, arrays)
  megabytes = arrays[0].nbytes / 2**20
  say(f"{len(arrays[1]):,} examples, {megabytes:,.0f} MiB, in {folder}")
  return arrays


def _read(folder: epath.Path, manifest: Mapping[str, Any]):
  """The arrays; None where they are not those that the manifest vouches for."""
  arrays = []
  for name in _ARRAYS:
    try:
      with (folder / f"{name}.npy").open("rb") as file:
        arrays.append(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError):
      return None
    if _digest(arrays[-1]) != manifest.get(f"{name}_sha256"):
      return None
  return tuple(arrays)


def _write(folder: epath.Path, about: Mapping[str, Any], arrays) -> None:
  """The arrays and, last, the manifest that makes them valid; one process does it."""
  if not processes.is_first():
    return
  digests = {}
  try:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in zip(_ARRAYS, arrays):
      with (folder / f"{name}.npy").open("wb") as file:
        np.save(file, array, allow_pickle=False)
      digests[f"{name}_sha256"] = _digest(array)
  except OSError as error:
    raise UserError(f"cannot write {folder}: {error.strerror or error}")
  workdir_lib.write_json(folder / "manifest.json", {**about, **digests})


def _digest(array: np.ndarray) -> str:
  return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
