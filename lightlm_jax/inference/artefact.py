"""Exports a system as a folder from which it is served without this package.

The program is StableHLO (jax.export) and covers everything from a history of catalogue
indices to recommendations: encoder, beam search over the trie, exclusions, open items
(those that may be recommended). Weights and trie are named arguments, so that the
program is small and holds no data. The batch size is symbolic: any size works, and jax
compiles once for each.

All files are StableHLO, JSON, safetensors or text: reading them executes no code.
"""

from collections.abc import Iterator, Sequence
import contextlib
import importlib.resources
import importlib.util
import json
from typing import Any, NamedTuple

from etils import epath
import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.inference.serve import Served
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib

FORMAT = "lightlm_jax artefact 1"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
WEIGHTS = "weights.safetensors"
_RANK = "catalogue/rank"  # name of a weight: each item's place in code order


class Program(NamedTuple):
  """An exported program with its weights."""

  serialized: bytes  # StableHLO with its calling convention, as jax.export writes it
  weights: dict[str, np.ndarray]  # by name; only those that the program reads
  contract: dict[str, Any]  # the arguments and results, as JSON for the manifest
  reads_users: bool  # whether the result depends on the user, not on the history alone


def check_installed() -> None:
  """Raises a UserError if the libraries of the extra `export` are not installed."""
  for name in ("flatbuffers", "safetensors"):
    if importlib.util.find_spec(name) is None:
      raise UserError(
        f"an artefact is written by {name}, which is not installed; install with "
        "pip install -c constraints.txt -e '.[export]'"
      )


def program(
  served: Served, *, k: int, history: int, exclusions: int, platforms: Sequence[str]
) -> Program:
  """Exports `System.recommend` with exclusions and a mask of recommendable items.

  Each request gets at most `k` items; its history holds up to `history` items, its
  exclusions up to `exclusions`. The program is lowered for `platforms`, of PLATFORMS.
  """
  system = served.built.system
  rank_I = np.asarray(served.built.rank_I, np.int32)
  num_items = len(rank_I)
  leaves, tree = jax.tree_util.tree_flatten_with_path(
    {"params": served.params, "tables": served.built.tables}
  )
  names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
  weights = dict(zip(names, (leaf for _, leaf in leaves), strict=True))
  weights[_RANK] = jnp.asarray(rank_I)
  dtypes = {name: jnp.asarray(leaf).dtype for name, leaf in weights.items()}
  shapes = {name: jnp.shape(leaf) for name, leaf in weights.items()}

  def recommend(weights, user_B, history_BH, excluded_BE, open_I):
    # Weights that the program never reads are left out: zeros keep the tree whole.
    def leaf(name):
      given = weights.get(name)
      return jnp.zeros(shapes[name], dtypes[name]) if given is None else given

    parts = jax.tree.unflatten(tree, [leaf(name) for name in names])
    rank_I = leaf(_RANK)
    batch = Batch(
      user_B=user_B,
      history_BH=history_BH,
      segment_BH=(history_BH >= 0).astype(jnp.int32),
      target_B=jnp.full_like(user_B, -1),
      weight_B=jnp.ones_like(user_B, jnp.float32),
    )
    is_item_BE = excluded_BE >= 0
    rank_BE = jnp.where(is_item_BE, rank_I[jnp.maximum(excluded_BE, 0)], num_items)
    open_R = jnp.zeros(num_items, jnp.int32).at[rank_I].set(open_I.astype(jnp.int32))
    prefix_MI1 = jnp.pad(jnp.cumsum(open_R), (1, 0))[None]
    allowed = Allowed(prefix_MI1, jnp.zeros_like(user_B), jnp.sort(rank_BE, axis=1))
    best = system.recommend(parts["params"], parts["tables"], batch, allowed, k=k)
    return best.items_BK, best.scores_BK

  def arguments(B, chosen):
    return (
      {name: jax.ShapeDtypeStruct(shapes[name], dtypes[name]) for name in chosen},
      jax.ShapeDtypeStruct((B,), jnp.int32),
      jax.ShapeDtypeStruct((B, history), jnp.int32),
      jax.ShapeDtypeStruct((B, exclusions), jnp.int32),
      jax.ShapeDtypeStruct((num_items,), jnp.bool_),
    )

  # Only with a fixed batch size does jax.export tell which arguments are read.
  fixed = jax.export.export(jax.jit(recommend), platforms=("cpu",))(
    *arguments(2, weights)
  )
  inputs = [*sorted(weights), "user", "history", "excluded", "open"]
  kept = {inputs[place] for place in fixed.module_kept_var_idx}
  chosen = [name for name in sorted(weights) if name in kept]
  (B,) = jax.export.symbolic_shape("b")
  with _without_locations():
    exported = jax.export.export(jax.jit(recommend), platforms=tuple(platforms))(
      *arguments(B, chosen)
    )
  contract = {
    "arguments": {
      "weights": WEIGHTS,
      "user": ["b"],
      "history": ["b", history],
      "excluded": ["b", exclusions],
      "open": [num_items],
    },
    "results": {"items": ["b", k], "scores": ["b", k]},
    "platforms": list(exported.platforms),
    "calling_convention": exported.calling_convention_version,
    "jax": jax.__version__,
  }
  found = {name: np.asarray(weights[name]) for name in chosen}
  return Program(bytes(exported.serialize()), found, contract, "user" in kept)


@contextlib.contextmanager
def _without_locations() -> Iterator[None]:
  """Keeps this machine's source paths out of programs lowered inside the context."""
  config: Any = jax.config  # its type does not declare its attributes
  before = config.jax_traceback_in_locations_limit
  jax.config.update("jax_traceback_in_locations_limit", 0)
  try:
    yield
  finally:
    jax.config.update("jax_traceback_in_locations_limit", before)


def write(
  folder: epath.Path,
  exported: Program,
  item_ids: np.ndarray,
  user_ids: np.ndarray,
  about: dict[str, Any],
) -> dict[str, Any]:
  """Writes `exported` as a folder, completely or not at all; returns the manifest.

  `about` is JSON on the program's origin. User ids are written if the program reads
  them. Raises a UserError if the folder exists or cannot be written.
  """
  from safetensors import numpy as safetensors  # noqa: PLC0415, of the extra `export`

  readme = importlib.resources.files("lightlm_jax.inference") / "artefact.md"
  users = user_ids.tolist() if exported.reads_users else []
  contents = {
    "program.stablehlo": exported.serialized,
    WEIGHTS: safetensors.save(
      {name: np.ascontiguousarray(x) for name, x in exported.weights.items()}
    ),
    "items.json": json.dumps(item_ids.tolist()).encode(),
    "users.json": json.dumps(users).encode(),
    "README.md": readme.read_bytes(),
  }
  manifest = {
    "format": FORMAT,
    **about,
    "items": len(item_ids),
    "users": len(users),
    **exported.contract,
    "sha256": folder_lib.digests(contents),
  }
  if folder.exists():
    raise UserError(f"{folder} exists already; remove it, or give another --output")
  with atomic.new_folder(folder) as part:
    folder_lib.write(part, contents, manifest)
  return manifest
