"""Reads the folder of `python -m lightlm_jax.prepare`; see preprocess/shards_out.py."""

from collections.abc import Mapping
from typing import Any

from etils import epath
import numpy as np
import pyarrow

from lightlm_jax.data import formats
from lightlm_jax.data.interactions import Dataset, Interactions
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import parquet

KIND = "lightlm_jax prepared log"
VERSION = 1


def is_prepared(folder: epath.Path) -> bool:
  return (folder / folder_lib.MANIFEST).exists()


def read(folder: epath.Path) -> Dataset:
  """Reads a folder and verifies its checksums.

  Users and items are numbered as by `interactions.from_sequences`; an item's text joins
  all columns of formats.TEXTS.

  Raises:
    UserError: it is damaged or incomplete, or of another kind or version.
  """
  try:
    with folder_lib.opened(folder) as whole:
      kind, version = whole.manifest["kind"], whole.manifest["version"]
      if (kind, version) != (KIND, VERSION):
        raise UserError(
          f"{folder / folder_lib.MANIFEST} is of {kind!r}, version {version}, and this "
          f"reads {KIND!r}, version {VERSION}; prepare the log anew"
        )
      catalogue = _table(whole, whole.manifest["items_parquet"])
      return _dataset(_log(whole, catalogue), catalogue)
  except folder_lib.NotWhole as error:
    raise UserError(f"{folder} is no whole prepared log ({error}); prepare it anew")


def _log(whole: folder_lib.Whole, catalogue: pyarrow.Table) -> Interactions:
  users, items, times, lengths = [], [], [], []
  for shard in whole.manifest["shards"]:
    table = _table(whole, shard["parquet"])
    rows = table["items"].combine_chunks()
    users.append(table["user"].to_numpy())
    items.append(np.asarray(rows.flatten()))
    lengths.append(np.diff(np.asarray(rows.offsets)))
    if "times" in table.column_names:
      micros = table["times"].combine_chunks().flatten().cast(pyarrow.int64())
      times.append(np.asarray(micros) // 10**6)
  log = Interactions(
    offset_U1=np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=int)]),
    item_E=np.concatenate(items),
    user_ids=np.concatenate(users).astype(np.str_),
    item_ids=catalogue["item"].to_numpy().astype(np.str_),
    time_E=np.concatenate(times) if times else None,
  )
  found = (len(log.user_ids), len(log.item_ids), len(log.item_E))
  if found != tuple(whole.manifest[name] for name in ("users", "items", "rows")):
    raise ValueError(f"it has {found} users, items and rows")
  if not ((log.item_E >= 0) & (log.item_E < log.num_items)).all():
    raise ValueError("rows name items that items.parquet lacks")
  return log


def _table(whole: folder_lib.Whole, file: Mapping[str, Any]) -> pyarrow.Table:
  return parquet.from_bytes(whole.read(file["name"], file["sha256"]))


def _dataset(log: Interactions, catalogue: pyarrow.Table) -> Dataset:
  names = [name for name in formats.TEXTS if name in catalogue.column_names]
  columns = {name: catalogue[name].to_pylist() for name in names}
  texts = titles = attributes = None
  if columns:
    titles = columns.get("title") or next(iter(columns.values()))
    texts = [" ".join(filter(None, parts)) for parts in zip(*columns.values())]
  if "attributes" in catalogue.column_names:
    attributes = formats.number_attributes(catalogue["attributes"].to_pylist())
  return Dataset(log, titles, None, attributes, texts)
