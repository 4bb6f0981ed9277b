"""One log in many forms: byte for byte the same folder, or a refusal in one line."""

import bz2
import csv
import datetime
import gzip
import importlib.util
import io
import json
import pathlib
import tempfile
import zipfile

import numpy as np
import polars as pl
import pyarrow
import pyarrow.parquet
import pytest

from lightlm_jax.preprocess import pipeline
from lightlm_jax.runtime.errors import UserError

NAMES = ("user_id", "item_id", "timestamp")
TEXTS = ("a b", "ü", 'x"y', "1e5", "007", "NA1", "x;y", "c,d", "A-1", "0", "-7", "z/=+")


def rows_of(seed):
  """Rows of a random log, [(user, item, seconds)]; ids are texts or whole numbers."""
  rng = np.random.default_rng(seed)
  whole_users, whole_items = rng.integers(2, size=2)

  def ids(whole, number):
    start = int(rng.integers(10**9))
    return [
      str(start + n) if whole else f"{TEXTS[rng.integers(len(TEXTS))]}{n}"
      for n in range(number)
    ]

  users, items = ids(whole_users, rng.integers(1, 30)), ids(whole_items, 12)
  first, size = int(rng.integers(8 * 10**8, 16 * 10**8)), int(rng.integers(1, 200))
  # No two rows of a user at the same time: their order would be that of a hash.
  times = first + rng.permutation(10**6)[:size] * int(rng.integers(1, 50))
  return [
    (users[rng.integers(len(users))], items[rng.integers(12)], int(time))
    for time in times
  ]


def delimited(rows, delimiter=",", quoting=csv.QUOTE_MINIMAL, names=NAMES):
  text = io.StringIO()
  writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator="\n")
  writer.writerows([names, *rows] if names else rows)
  return text.getvalue().encode()


def parquet(columns):
  sink = io.BytesIO()
  pyarrow.parquet.write_table(pyarrow.table(dict(zip(NAMES, columns))), sink)
  return sink.getvalue()


def zipped(content):
  sink = io.BytesIO()
  with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("log.csv", content)
  return sink.getvalue()


def numbers(column):
  """Whole numbers as such, as pandas and Spark keep them."""
  whole = all(x.isdecimal() and x == str(int(x)) for x in column)
  return [int(x) for x in column] if whole else column


def forms(rows):
  """Yields (input, {file: content}, options) for each form of the log."""
  users, items, times = (list(column) for column in zip(*rows))
  moments = [datetime.datetime.fromtimestamp(time, datetime.UTC) for time in times]
  plain = delimited(rows)
  objects = [dict(zip(NAMES, row)) for row in zip(numbers(users), items, times)]
  half = len(rows) // 2
  yield "log.csv", {"log.csv": plain}, {}
  yield "log.tsv", {"log.tsv": delimited(rows, "\t", csv.QUOTE_ALL)}, {}
  yield "log.csv", {"log.csv": delimited(rows, ";")}, {}
  yield "log.csv", {"log.csv": delimited(rows, quoting=csv.QUOTE_ALL)}, {}
  lines = "\n".join(map(json.dumps, objects)).encode()
  yield "log.jsonl", {"log.jsonl": lines}, {}
  yield "log.parquet", {"log.parquet": parquet((users, items, times))}, {}
  typed = numbers(users), pyarrow.array(items).dictionary_encode(), moments
  yield "log.parquet", {"log.parquet": parquet(typed)}, {}
  millis = pl.DataFrame(dict(zip(NAMES, (users, items, [t * 1_000 for t in times]))))
  yield "log.csv", {"log.csv": millis.write_csv().encode()}, {}
  iso = [(u, i, moment.isoformat()) for u, i, moment in zip(users, items, moments)]
  yield "log.csv.gz", {"log.csv.gz": gzip.compress(delimited(iso))}, {}
  yield "log.csv.bz2", {"log.csv.bz2": bz2.compress(plain)}, {}
  zstd = pyarrow.compress(plain, codec="zstd", asbytes=True)
  yield "log.csv.zst", {"log.csv.zst": zstd}, {}
  yield "log.zip", {"log.zip": zipped(plain)}, {"format": "csv"}
  pieces = {"p-0.csv": delimited(rows[:half]), "p-1.csv": delimited(rows[half:])}
  yield "p-*.csv", pieces, {}
  pieces["p-1.csv"] = delimited(rows[half:], names=None)
  yield "p-*.csv", pieces, {}
  turned = delimited(
    [(t, 0.5, i, u) for u, i, t in rows], names=("ts", "x", "iid", "uid")
  )
  yield "log.csv", {"log.csv": turned}, {}
  yield "log.csv", {"log.csv": delimited(rows, names=None)}, {"yes": True}
  yield "log.csv", {"log.csv": delimited(rows, names=None)}, {"columns": NAMES}
  if importlib.util.find_spec("pandas"):
    import pandas  # noqa: PLC0415, optional

    frame = pandas.DataFrame(dict(zip(NAMES, (numbers(users), items, times))))
    yield "log.csv", {"log.csv": frame.to_csv().encode()}, {}


def check(seed):
  """Prepares a log in all forms; returns how many were read, and refused."""
  first, read, refused = None, 0, 0
  for pattern, contents, options in forms(rows_of(seed)):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      for file, content in contents.items():
        (folder / file).write_bytes(content)
      given = pipeline.Options(str(folder / pattern), str(folder / "out"), **options)
      manifest, line = None, ""
      try:
        manifest = pipeline.prepare(given)
      except UserError as error:
        line = str(error)
      if manifest is None:
        assert len(line.splitlines()) == 1
        assert not (folder / "out").exists()
        refused += 1
        continue
      shards = manifest["shards"], manifest["items_parquet"]
      first = first or shards
      assert shards == first, (seed, pattern, options)
      assert manifest["rejected"] == {}
      read += 1
  return read, refused


@pytest.mark.parametrize("seed", range(4))
def test_one_log_in_many_forms(seed):
  read, refused = check(seed)
  assert read >= 15
  assert refused <= 1


@pytest.mark.slow
def test_five_hundred_logs():
  found = [check(seed) for seed in range(500)]
  read, refused = map(sum, zip(*found))
  print(f"{len(found)} logs: {read} forms read, {refused} refused")
  assert refused < read / 20
