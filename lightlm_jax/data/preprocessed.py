"""Reads what `python -m lightlm_jax.prepare` left; see preprocess/shards_out.py."""

from collections.abc import Mapping
import hashlib
import io
from typing import Any, NamedTuple

from etils import epath
import numpy as np
import pyarrow
import pyarrow.parquet

from lightlm_jax.data import formats
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text

KIND = "lightlm_jax prepared log"
VERSION = 1
MANIFEST = "manifest.json"


class Prepared(NamedTuple):
  """A log with what is said of its items; None where nothing is.

  Attributes:
    log: users and items as `interactions.from_sequences` would number them.
    titles: [I] texts.
    texts: [I], of all columns of formats.TEXTS.
    attributes: [I] int64 arrays, numbered from 0.
  """

  log: Interactions
  titles: list[str] | None
  texts: list[str] | None
  attributes: list[np.ndarray] | None


def is_prepared(folder: epath.Path) -> bool:
  return (folder / MANIFEST).exists()


def read(folder: epath.Path) -> Prepared:
  """Reads a folder, and checks that it is what was written.

  Raises:
    UserError: it is not whole, or of another kind or version.
  """
  about = _manifest(folder)
  try:
    users, items, times, lengths = [], [], [], []
    for shard in about["shards"]:
      table = _table(folder, shard["parquet"])
      rows = table["items"].combine_chunks()
      users.append(table["user"].to_numpy())
      items.append(np.asarray(rows.flatten()))
      lengths.append(np.diff(np.asarray(rows.offsets)))
      if "times" in table.column_names:
        micros = table["times"].combine_chunks().flatten().cast(pyarrow.int64())
        times.append(np.asarray(micros) // 10**6)
    catalogue = _table(folder, about["items_parquet"])
    log = Interactions(
      offset_U1=np.concatenate([[0], np.cumsum(np.concatenate(lengths), dtype=int)]),
      item_E=np.concatenate(items),
      user_ids=np.concatenate(users).astype(np.str_),
      item_ids=catalogue["item"].to_numpy().astype(np.str_),
      time_E=np.concatenate(times) if times else None,
    )
  except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException) as error:
    raise _damaged(folder, error)
  found = (len(log.user_ids), len(log.item_ids), len(log.item_E))
  if found != (about["users"], about["items"], about["rows"]):
    raise _damaged(folder, f"it has {found} users, items and rows")
  if not ((log.item_E >= 0) & (log.item_E < log.num_items)).all():
    raise _damaged(folder, "rows name items that items.parquet lacks")
  return Prepared(log, *_words(catalogue))


def _manifest(folder: epath.Path) -> Mapping[str, Any]:
  path = folder / MANIFEST
  try:
    about = json_text.loads(path.read_text())
    kind, version = about["kind"], about["version"]
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise _damaged(folder, error)
  if (kind, version) != (KIND, VERSION):
    raise UserError(
      f"{path} is of {kind!r}, version {version}, and this reads {KIND!r}, version "
      f"{VERSION}; prepare the log anew"
    )
  return about


def _table(folder: epath.Path, file: Mapping[str, Any]) -> pyarrow.Table:
  if epath.Path(file["name"]).name != file["name"]:
    raise ValueError(f"{file['name']} is no file of the folder")
  content = (folder / file["name"]).read_bytes()
  if hashlib.sha256(content).hexdigest() != file["sha256"]:
    raise ValueError(f"{file['name']} is not what was written")
  # Not `read_table`, whose threads outlive the reading: see evaluation/users.py.
  with pyarrow.parquet.ParquetFile(io.BytesIO(content), pre_buffer=False) as table:
    return table.read(use_threads=False)


def _words(catalogue: pyarrow.Table):
  """Titles, texts and attributes of the items."""
  columns = {
    name: catalogue[name].to_pylist()
    for name in formats.TEXTS
    if name in catalogue.column_names
  }
  texts = titles = attributes = None
  if columns:
    titles = columns.get("title") or next(iter(columns.values()))
    texts = [" ".join(filter(None, parts)) for parts in zip(*columns.values())]
  if "attributes" in catalogue.column_names:
    attributes = formats.number_attributes(catalogue["attributes"].to_pylist())
  return titles, texts, attributes


def _damaged(folder: epath.Path, why) -> UserError:
  return UserError(f"{folder} is no whole prepared log ({why}); prepare it anew")
