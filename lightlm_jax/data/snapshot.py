"""The log that a run learned from, kept beside it, so that the run needs nothing else.

`interactions.parquet` has the columns user, item and perhaps timestamp (seconds), users
and their rows in order; `items.parquet` the catalogue in order: item, and what is known
of it. The manifest with their SHA-256 comes last.
"""

import hashlib

from etils import epath
import numpy as np
import pyarrow

from lightlm_jax.data.datasets import Dataset
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text, parquet
from lightlm_jax.storage import workdir as workdir_lib

_FILES = ("interactions.parquet", "items.parquet")
_MANIFEST = "manifest.json"


def write(dataset: Dataset, folder: epath.Path) -> None:
  """Writes the log, its catalogue and what is known of the items."""
  log = dataset.log
  rows = {
    "user": pyarrow.array(log.user_ids[log.user_E], pyarrow.string()),
    "item": pyarrow.array(log.item_ids[log.item_E], pyarrow.string()),
  }
  if log.time_E is not None:
    rows["timestamp"] = pyarrow.array(log.time_E)
  items = {"item": pyarrow.array(log.item_ids, pyarrow.string())}
  for name in ("titles", "texts"):
    if (known := getattr(dataset, name)) is not None:
      items[name] = pyarrow.array(known, pyarrow.string())
  if dataset.attributes is not None:
    lists = [attribute.tolist() for attribute in dataset.attributes]
    items["attributes"] = pyarrow.array(lists, pyarrow.list_(pyarrow.int64()))
  folder.mkdir(parents=True, exist_ok=True)
  digests = {}
  for name, columns in zip(_FILES, (rows, items)):
    content = parquet.to_bytes(pyarrow.table(columns))
    workdir_lib.write_whole(folder / name, content)
    digests[name] = hashlib.sha256(content).hexdigest()
  workdir_lib.write_json(folder / _MANIFEST, {"sha256": digests})


def read(folder: epath.Path) -> Dataset | None:
  """The log as it was written; None where there is none.

  Raises:
    UserError: it is not what was written.
  """
  if not (folder / _MANIFEST).exists():
    return None
  try:
    wanted = json_text.loads((folder / _MANIFEST).read_text())["sha256"]
    contents = [(folder / name).read_bytes() for name in _FILES]
    found = [hashlib.sha256(content).hexdigest() for content in contents]
    if found != [wanted[name] for name in _FILES]:
      raise ValueError("SHA-256 differs")
    rows, items = map(parquet.from_bytes, contents)
    return _dataset(rows, items)
  except (OSError, ValueError, KeyError, TypeError, pyarrow.ArrowException) as error:
    first, *_ = str(error).splitlines() or [type(error).__name__]
    raise UserError(
      f"{folder} is not the log that was written ({first}); give a copy of it, or "
      "train anew"
    )


def _dataset(rows: pyarrow.Table, items: pyarrow.Table) -> Dataset:
  item_ids = _texts_of(items["item"])
  index = {item: n for n, item in enumerate(item_ids.tolist())}
  user_E = _texts_of(rows["user"])
  first_U = np.flatnonzero(np.append(True, user_E[1:] != user_E[:-1]))
  time_E = None
  if "timestamp" in rows.column_names:
    time_E = rows["timestamp"].to_numpy().astype(np.int64)
  log = Interactions(
    offset_U1=np.append(first_U, len(user_E)).astype(np.int64),
    item_E=np.array([index[item] for item in rows["item"].to_pylist()], np.int32),
    user_ids=user_E[first_U],
    item_ids=item_ids,
    time_E=time_E,
  )
  known = {name: items[name].to_pylist() for name in items.column_names}
  attributes = known.get("attributes")
  if attributes is not None:
    attributes = [np.array(numbers, np.int64) for numbers in attributes]
  return Dataset(log, known.get("titles"), None, attributes, known.get("texts"))


def _texts_of(column: pyarrow.ChunkedArray) -> np.ndarray:
  return np.array(column.to_pylist(), np.str_)
