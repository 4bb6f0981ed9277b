"""Files that do harm if they are read as more than data."""

import io
import json
import pickle
import zipfile

import numpy as np
import pyarrow

from lightlm_jax.storage import parquet


class Bomb:
  """Once unpickled it leaves a file."""

  def __init__(self, mark):
    self.mark = str(mark)

  def __reduce__(self):
    return open, (self.mark, "w")


def bomb(mark):
  return pickle.dumps(Bomb(mark))


def object_arrays(mark, *names):
  """An .npz whose arrays are pickles."""
  content = io.BytesIO()
  array = np.array([Bomb(mark)], dtype=object)
  np.savez(content, **{name: array for name in names})
  return content.getvalue()


def object_array(mark):
  content = io.BytesIO()
  np.save(content, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
  return content.getvalue()


def extension_parquet(mark):
  """A table with a column of the type that pyarrow once unpickled when it was read."""
  metadata = {
    b"ARROW:extension:name": b"arrow.py_extension_type",
    b"ARROW:extension:metadata": bomb(mark),
  }
  fields = [
    pyarrow.field(name, pyarrow.string(), metadata=metadata)
    for name in ("user", "item")
  ]
  return parquet.to_bytes(pyarrow.table([["a"], ["x"]], schema=pyarrow.schema(fields)))


def kinds(mark):
  """Hostile files of every kind, by name."""
  plain = bomb(mark)
  zipped = io.BytesIO()
  with zipfile.ZipFile(zipped, "w") as archive:
    archive.writestr("items.npy", plain)
    archive.writestr("../../escaped.npy", plain)
  return {
    "pickle": plain,
    "npz of objects": object_arrays(mark, "items", "users"),
    "npy of objects": object_array(mark),
    "zip": zipped.getvalue(),
    "parquet": extension_parquet(mark),
    "json": json.dumps({"__reduce__": ["os.system", str(mark)]}).encode(),
  }
