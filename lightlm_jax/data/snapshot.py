"""A copy of the training log beside the run, so that the run is self-contained.

`interactions.parquet` has the columns user, item and optionally timestamp (seconds),
with users and their rows in order; `items.parquet` has the catalogue in order: item and
its metadata. The manifest with their SHA-256 is written last.
"""

from typing import Any

from etils import epath
import numpy as np
import pyarrow

from lightlm_jax.data.interactions import Dataset, Interactions
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import parquet

_FILES = ("interactions.parquet", "items.parquet")
_INT64 = pyarrow.int64()
_TYPES = {"timestamp": _INT64, "attributes": pyarrow.list_(_INT64)}  # others are texts


def write(dataset: Dataset, folder: epath.Path) -> None:
  """Writes the log, its catalogue and the items' metadata."""
  log = dataset.log
  rows: dict[str, Any] = {
    "user": log.user_ids[log.user_E],
    "item": log.item_ids[log.item_E],
    "timestamp": log.time_E,
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
      column: pyarrow.array(values, _TYPES.get(column, pyarrow.string()))
      for column, values in columns.items()
      if values is not None
    }
    files[name] = parquet.to_bytes(pyarrow.table(known))
  if processes.is_first():
    folder_lib.write(folder, files, {"sha256": folder_lib.digests(files)})


def read(folder: epath.Path) -> Dataset | None:
  """Reads the log; None if there is none.

  Raises:
    UserError: it is damaged.
  """
  if not (folder / folder_lib.MANIFEST).exists():
    return None
  try:
    with folder_lib.opened(folder) as whole:
      return _dataset(*(parquet.from_bytes(whole.read(name)) for name in _FILES))
  except folder_lib.NotWhole as error:
    raise UserError(
      f"{folder} is not the log that was written ({error}); give a copy of it, or "
      "train anew"
    )


def _dataset(rows: pyarrow.Table, items: pyarrow.Table) -> Dataset:
  known = {name: items[name].to_pylist() for name in items.column_names}
  index = {item: n for n, item in enumerate(known["item"])}
  user_E = np.array(rows["user"].to_pylist(), np.str_)
  first_U = np.flatnonzero(np.append(True, user_E[1:] != user_E[:-1]))
  time_E = None
  if "timestamp" in rows.column_names:
    time_E = rows["timestamp"].to_numpy().astype(np.int64)
  log = Interactions(
    offset_U1=np.append(first_U, len(user_E)).astype(np.int64),
    item_E=np.array([index[item] for item in rows["item"].to_pylist()], np.int32),
    user_ids=user_E[first_U],
    item_ids=np.array(known["item"], np.str_),
    time_E=time_E,
  )
  attributes = known.get("attributes")
  if attributes is not None:
    attributes = [np.array(numbers, np.int64) for numbers in attributes]
  return Dataset(log, known.get("titles"), None, attributes, known.get("texts"))
