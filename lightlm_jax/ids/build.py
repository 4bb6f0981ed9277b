"""Builds the code book of a configuration, and caches it."""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
from typing import Any

from etils import epath
import jax
from jax.sharding import AxisType, Mesh
import numpy as np

from lightlm_jax.config.schema import Ids
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import codes, grow, plain, quantise, spectral
from lightlm_jax.runtime.errors import UserError

KINDS = ("sci", "gci", "rid", "sid", "iid")
# Warnings that are logged when a kind is used.
WARNINGS = {
  "sid": "sid gives neighbours in time neighbouring numbers, which tell the next item; "
  "compare with it, do not rely on it"
}
# Part of every cache key; to be raised when the construction changes.
_VERSION = 5


def code_book(
  config: Ids,
  train: Interactions,
  seed: int,
  cache: epath.Path,
  attributes: Sequence[np.ndarray] | None = None,
) -> codes.CodeBook:
  """Returns the codes that `config` describes, built from the interactions `train`.

  `cache` is a folder of books, one per hash of all inputs; a book that it holds is read
  instead of built. `attributes` has an int array of attributes per item, None = the log
  has none; they are used only if `config.graph` is "attributes". All random numbers
  depend on `seed` alone.
  """
  manifest = _manifest(config, train, seed)
  if config.kind == "sci" and config.graph == "attributes":
    rows = (np.array([len(row), *row], "<i8").tobytes() for row in attributes or ())
    manifest["attributes_sha256"] = hashlib.sha256(b"".join(rows)).hexdigest()
  name = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
  folder = cache / name[:32]
  book = codes.load(folder)
  if book is None:
    book = codes.code_book(*_build(config, train, seed, attributes), manifest)
    try:
      codes.save(book, folder)
    except UserError:
      pass  # a cache that cannot be written only costs time
  return book


def book_of_run(
  config: Ids,
  train: Interactions,
  attributes: Sequence[np.ndarray] | None,
  seed: int,
  cache: epath.Path,
) -> codes.CodeBook:
  """Returns the book of `code_book`, with cold items placed as `config.cold` says.

  "apart" leaves the codes of cold items, which have no training interaction, as they
  are; "attributes" calls `grow.place_cold`. Raises a UserError if `attributes` is None
  but needed, no code is free for a cold item, or "attributes" is set for "iid" ids.
  """
  if config.cold != "apart" and config.kind == "iid":
    raise UserError(
      "config.ids.cold is 'attributes', but an iid id is one token and has no "
      "neighbours; choose another config.ids.kind, or set it to 'apart'"
    )
  book = code_book(config, train, seed, cache, attributes)
  if config.cold == "apart":
    return book
  cold_I = np.bincount(train.item_E, minlength=train.num_items) == 0
  return grow.place_cold(book, cold_I, attributes, seed=seed)


def digest(train: Interactions) -> str:
  """Returns the SHA-256 of the interactions that the ids are built from."""
  sha256 = hashlib.sha256()
  for array in (train.offset_U1, train.item_E):
    sha256.update(array.astype("<i8").tobytes())
  return sha256.hexdigest()


def _manifest(config: Ids, train: Interactions, seed: int) -> dict[str, Any]:
  """Returns what codes depend on, for JSON; raises a UserError if no item exists."""
  options = {
    "sci": ("graph", "branching", "leaf_size", "levels", "tokens", "base"),
    "gci": ("quantiser", "gci_levels", "centres", "gcn", "devices"),
    "rid": ("base",),
    "sid": ("base",),
    "iid": (),
  }
  if not train.num_items:
    raise UserError("the catalogue is empty: there is no item to write a code for")
  values = dataclasses.asdict(config)
  return {
    "kind": config.kind,
    "options": {name: values[name] for name in options[config.kind]}
    | ({"balanced": True} if config.kind == "sci" and config.balanced else {})
    | ({"books": config.books} if config.kind == "sci" and config.books > 1 else {}),
    "seed": seed,
    "num_users": train.num_users,
    "num_items": train.num_items,
    "interactions": len(train.item_E),
    "interactions_sha256": digest(train),
    "version": _VERSION,
  }


def _build(config: Ids, train: Interactions, seed, attributes):
  if config.kind == "rid":
    return plain.random_ids(train, config.base, seed)
  if config.kind == "sid":
    return plain.sequential_ids(train, config.base)
  if config.kind == "iid":
    return plain.independent_ids(train)
  if config.kind == "gci":
    return quantise.gci_ids(train, config, seed=seed, mesh=_mesh(config.devices))
  if config.books > 1:
    return spectral.several_books(train, config, seed=seed, attributes=attributes)
  return spectral.spectral_ids(train, config, seed=seed, attributes=attributes)


def _mesh(devices: int) -> Mesh | None:
  """Returns a mesh of `devices` devices of this process, -1 = all; None if 1."""
  if devices == 1:
    return None
  available = jax.local_devices()
  number = len(available) if devices == -1 else devices
  if not 1 <= number <= len(available):
    raise UserError(
      f"config.ids.devices is {devices}; this process has {len(available)}, -1 takes "
      "all of them"
    )
  devices_used, types = available[:number], (AxisType.Auto,)
  return jax.make_mesh((number,), ("share",), axis_types=types, devices=devices_used)
