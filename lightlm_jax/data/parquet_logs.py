"""Logs in Parquet files: the output of `prepare`, and a run's copy of its log.

preprocess/shards_out.py documents the output of `prepare`. The copy makes a run
self-contained: `interactions.parquet` has the columns user, item and, if known,
timestamp (seconds) and fraction (microseconds beyond them); `items.parquet` has item
and its metadata, in catalogue order.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np
import pyarrow
import pyarrow.compute

from lightlm_jax.data import formats
from lightlm_jax.data.interactions import Dataset, Interactions
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import json_text, parquet

_compute: Any = pyarrow.compute  # type checkers cannot see its functions
KIND = "lightlm_jax prepared log"
VERSION = 1
_FILES = ("interactions.parquet", "items.parquet")  # of a run's copy
_INT64 = pyarrow.int64()
_TYPES = {
  "timestamp": _INT64,
  "fraction": pyarrow.int32(),
  "attributes": pyarrow.list_(_INT64),
}  # others: strings


def read_prepared(folder: epath.Path) -> Dataset:
  """Reads the output of `prepare` and verifies its checksums.

  Users and items are numbered as by `interactions.from_sequences`; an item's text joins
  all columns of formats.TEXTS.

  Raises:
    UserError: the folder is damaged, incomplete, or of another kind or version.
  """
  try:
    with folder_lib.opened(folder) as whole:
      kind, version = whole.manifest["kind"], whole.manifest["version"]
      if (kind, version) != (KIND, VERSION):
        raise UserError(
          f"{folder / folder_lib.MANIFEST} is of {kind!r}, version {version}, and this "
          f"reads {KIND!r}, version {VERSION}; prepare the log anew"
        )
      return _prepared(whole)
  except folder_lib.NotWhole as error:
    raise UserError(f"{folder} is no whole prepared log ({error}); prepare it anew")


def _prepared(whole: folder_lib.Whole) -> Dataset:
  def table(file: Mapping[str, Any]) -> pyarrow.Table:
    return parquet.from_bytes(whole.read(file["name"], file["sha256"]))

  items = table(whole.manifest["items_parquet"])
  rows = pyarrow.concat_tables(
    [table(shard["parquet"]) for shard in whole.manifest["shards"]]
  )
  time_E = fraction_E = None
  if "times" in rows.column_names:
    moment_E = _compute.list_flatten(rows["times"]).cast(_INT64).to_numpy()
    time_E, fraction_E = moment_E // 10**6, (moment_E % 10**6).astype(np.int32)
    fraction_E = fraction_E if fraction_E.any() else None
  length_U = _compute.list_value_length(rows["items"]).to_numpy()
  log = Interactions(
    offset_U1=np.concatenate([[0], np.cumsum(length_U, dtype=int)]),
    item_E=_compute.list_flatten(rows["items"]).to_numpy(),
    user_ids=rows["user"].to_numpy().astype(np.str_),
    item_ids=items["item"].to_numpy().astype(np.str_),
    time_E=time_E,
    fraction_E=fraction_E,
  )
  found = (len(log.user_ids), len(log.item_ids), len(log.item_E))
  if found != tuple(whole.manifest[name] for name in ("users", "items", "rows")):
    raise ValueError(f"it has {found} users, items and rows")
  if not ((log.item_E >= 0) & (log.item_E < log.num_items)).all():
    raise ValueError("rows name items that items.parquet lacks")
  names = [name for name in formats.TEXTS if name in items.column_names]
  columns = {name: items[name].to_pylist() for name in names}
  texts = titles = attributes = None
  if columns:
    titles = columns.get("title") or next(iter(columns.values()))
    texts = [" ".join(filter(None, parts)) for parts in zip(*columns.values())]
  if "attributes" in items.column_names:
    attributes = formats.number_attributes(items["attributes"].to_pylist())
  return Dataset(log, titles, None, attributes, texts)


def write_snapshot(
  dataset: Dataset, folder: epath.Path, source: str | None = None
) -> None:
  """Writes a run's copy of its log, and last the manifest with the files' SHA-256.

  `source` is the SHA-256 by `datasets.source` of the log that was read; None = unknown.
  """
  if not processes.is_first():
    return
  log = dataset.log
  # Each id is written once, with a number per row: a log may have many rows.
  rows: dict[str, Any] = {
    "user": _numbered(log.user_E, log.user_ids),
    "item": _numbered(log.item_E, log.item_ids),
    "timestamp": log.time_E,
    "fraction": log.fraction_E,
  }
  items: dict[str, Any] = {
    "item": log.item_ids,
    "titles": dataset.titles,
    "texts": dataset.texts,
    "attributes": dataset.attributes,
  }
  files = {}
  for name, columns in zip(_FILES, (rows, items)):
    known = {
      column: values
      if isinstance(values, pyarrow.Array)
      else pyarrow.array(values, _TYPES.get(column, pyarrow.string()))
      for column, values in columns.items()
      if values is not None
    }
    files[name] = parquet.to_bytes(pyarrow.table(known))
  manifest = {"sha256": folder_lib.digests(files), "source": source}
  folder_lib.write(folder, files, manifest)


def read_snapshot(folder: epath.Path) -> Dataset | None:
  """Reads a run's copy of its log; None if missing; raises UserError if damaged."""
  if not (folder / folder_lib.MANIFEST).exists():
    return None
  try:
    with folder_lib.opened(folder) as whole:
      return _copied(*(parquet.from_bytes(whole.read(name)) for name in _FILES))
  except folder_lib.NotWhole as error:
    raise UserError(
      f"{folder} is not the log that was written ({error}); give a copy of it, or "
      "train anew"
    )


def snapshot_source(folder: epath.Path) -> str | None:
  """Returns the `source` that `write_snapshot` was given; None = unknown, no copy."""
  path = folder / folder_lib.MANIFEST
  if not path.exists():
    return None
  return json_text.read(path, "give a copy of it, or train anew").get("source")


def _numbered(index_E: np.ndarray, ids: np.ndarray) -> pyarrow.Array:
  raw = pyarrow.array(ids, pyarrow.string())
  return pyarrow.DictionaryArray.from_arrays(index_E.astype(np.int32), raw)


def _indices(column: pyarrow.ChunkedArray) -> tuple[np.ndarray, list[str]]:
  """Returns each value's index in a list of distinct values, and that list."""
  if not pyarrow.types.is_dictionary(column.type):  # of an older version
    column = column.dictionary_encode()
  whole = column.unify_dictionaries().combine_chunks()
  return whole.indices.to_numpy(), whole.dictionary.to_pylist()


def _copied(rows: pyarrow.Table, items: pyarrow.Table) -> Dataset:
  known = {name: items[name].to_pylist() for name in items.column_names}
  index = {item: n for n, item in enumerate(known["item"])}
  user_E, users = _indices(rows["user"])
  item_E, listed = _indices(rows["item"])
  first_U = np.flatnonzero(np.append(True, user_E[1:] != user_E[:-1]))
  times = {
    field: rows[name].to_numpy()
    for field, name in (("time_E", "timestamp"), ("fraction_E", "fraction"))
    if name in rows.column_names
  }
  log = Interactions(
    offset_U1=np.append(first_U, len(user_E)).astype(np.int64),
    item_E=np.array([index[item] for item in listed], np.int32)[item_E],
    user_ids=np.array(users, np.str_)[user_E[first_U]],
    item_ids=np.array(known["item"], np.str_),
    **times,
  )
  attributes = known.get("attributes")
  if attributes is not None:
    attributes = [np.array(numbers, np.int64) for numbers in attributes]
  return Dataset(log, known.get("titles"), None, attributes, known.get("texts"))
