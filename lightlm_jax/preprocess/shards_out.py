"""The output of a preparation: shards of users, the catalogue, a manifest.

    interactions-00000-of-00002.parquet       user, items, times: a row for each user
    interactions-00000-of-00002.array_record  the same rows, for random access
    items.parquet                             item, rows, texts, attributes
    manifest.json                             counts, SHA-256, rejected rows by reason

The column `items` has row numbers of items.parquet, int32. Users and items are in the
order of a hash of their ids, so that their numbers carry no information. An ArrayRecord
record is a user's times, if known (int64 seconds since 1970), then the items (int32).
"""

from collections.abc import Sequence
import itertools
import os
import shutil
import tempfile
from typing import Any

from array_record.python import array_record_module
from etils import epath
import numpy as np
import pyarrow

from lightlm_jax.data.interactions import offsets_of_kept, tied
from lightlm_jax.preprocess.sequences import Users
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, parquet
from lightlm_jax.storage import folder as folder_lib

ITEMS = "items.parquet"
KINDS = ("parquet", "array_record")  # the two files of a shard
# See data/shards.py.
_WRITING = "group_size:16,uncompressed"


def write_shard(
  folder: epath.Path, number: int, shards: int, users: Users
) -> dict[str, Any]:
  """Writes the two files of shard `number` of `shards`; returns its manifest entry."""
  name = f"interactions-{number:05d}-of-{shards:05d}"
  tied_U = np.zeros(len(users.user_U), np.int64)
  offset = pyarrow.array(users.offset_U1.astype(np.int32))
  columns = {
    "user": users.user_U.cast(pyarrow.string()),
    "items": pyarrow.ListArray.from_arrays(offset, pyarrow.array(users.item_E)),
  }
  if users.time_E is not None:
    times = pyarrow.array(users.time_E).cast(pyarrow.timestamp("us", "UTC"))
    columns["times"] = pyarrow.ListArray.from_arrays(offset, times)
    tied_E = tied(users.offset_U1, users.time_E)
    tied_U = np.diff(offsets_of_kept(users.offset_U1, tied_E))
  length_U = np.diff(users.offset_U1)
  return {
    "users": len(users.user_U),
    "rows": len(users.item_E),
    "longest": int(length_U.max(initial=0)),
    "shortest": int(length_U.min(initial=2**31)),
    "tied_rows": int(tied_U.sum()),
    "tied_users": int((tied_U > 0).sum()),
    "parquet": write_parquet(folder / f"{name}.parquet", columns),
    "array_record": _write_records(folder / f"{name}.array_record", users),
  }


def write_parquet(path: epath.Path, columns: dict[str, Any]) -> dict[str, Any]:
  """Writes columns as a Parquet file; returns its name, size in bytes and SHA-256."""
  atomic.write_own(path, parquet.to_bytes(pyarrow.table(columns)))
  return _about(path)


def publish(
  work: epath.Path, target: epath.Path, names: Sequence[str], manifest: dict[str, Any]
) -> None:
  """Moves the files `names` from `work` to the new folder `target`, with a manifest.

  Locally all files appear at once; to a bucket they are copied, with the manifest last.
  """
  if "://" in str(work) or "://" in str(target):
    target.mkdir(parents=True, exist_ok=True)
    for name in names:
      (work / name).copy(target / name)
    folder_lib.write(target, {}, manifest)
    return
  with atomic.new_folder(target) as part:
    for name in names:
      shutil.move(work / name, part / name)
    folder_lib.write(part, {}, manifest)


def _write_records(path: epath.Path, users: Users) -> dict[str, Any]:
  """Writes users as ArrayRecord; returns the file's name, size in bytes and SHA-256."""
  is_local = "://" not in str(path)
  # Where --work says, unless that is a bucket, which the writer does not know.
  with tempfile.TemporaryDirectory(dir=path.parent if is_local else None) as local:
    file = os.path.join(local, "records")
    item_E, offset_U1 = users.item_E.astype("<i4"), users.offset_U1.tolist()
    time_E = None if users.time_E is None else (users.time_E // 10**6).astype("<i8")
    try:
      writer = array_record_module.ArrayRecordWriter(file, _WRITING)
      for start, end in itertools.pairwise(offset_U1):
        times = b"" if time_E is None else time_E[start:end].tobytes()
        writer.write(times + item_E[start:end].tobytes())
      writer.close()
    except RuntimeError as error:
      raise UserError(f"cannot write {path}: {first_line(error)}; check free space")
    if is_local:
      os.replace(file, path)
    else:
      atomic.write_own(path, epath.Path(file).read_bytes())
  return _about(path)


def _about(path: epath.Path) -> dict[str, Any]:
  length = path.stat().length
  return {"name": path.name, "bytes": length, "sha256": folder_lib.sha256(path)}
