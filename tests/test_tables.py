"""A log from whatever table somebody has, and its copy beside a run."""

import datetime
import json

from etils import epath
from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import polars
import pyarrow
import pytest

from lightlm_jax.data import interactions, parquet_logs
from lightlm_jax.data.interactions import Dataset
from lightlm_jax.preprocess import tables
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import parquet

ROWS = {
  "user": ["b", "a", "b", "a", "b"],
  "item": ["x", "y", "y", "z", "x"],
  "timestamp": [30, 20, 10, 20, 30],
}
SEQUENCES = {"b": ["y", "x", "x"], "a": ["y", "z"]}
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
TITLES = {
  "item": ["x", "z", "?"],
  "title": ["Ex", "Zed", "No"],
  "brand": ["A", None, ""],
}


def sequences(log):
  return {
    user: log.item_ids[log.row(n)].tolist() for n, user in enumerate(log.user_ids)
  }


def same(one, other):
  for name in ("offset_U1", "item_E", "user_ids", "item_ids", "time_E"):
    mine, its = getattr(one, name), getattr(other, name)
    assert (mine is None) == (its is None), name
    if mine is not None:
      assert mine.dtype.kind == its.dtype.kind
      np.testing.assert_array_equal(mine, its)


def as_file(suffix, folder, rows):
  path = folder / f"log{suffix}"
  frame = polars.DataFrame(rows)
  writers = {
    ".parquet": frame.write_parquet,
    ".csv": frame.write_csv,
    ".tsv": lambda file: frame.write_csv(file, separator="\t"),
    ".jsonl": frame.write_ndjson,
  }
  writers[suffix](path)
  return path


def tables_of(folder):
  pandas = pytest.importorskip("pandas", reason="pandas is not installed")
  yield pandas.DataFrame(ROWS)
  yield pandas.DataFrame(ROWS, index=[5, 4, 3, 2, 1])


def test_every_kind_of_table_is_one_log(tmp_path):
  wanted = interactions.from_sequences(
    SEQUENCES.items(), times=[[10, 30, 30], [20, 20]]
  )
  assert sequences(wanted) == SEQUENCES
  for table in (
    ROWS,
    polars.DataFrame(ROWS),
    polars.LazyFrame(ROWS),
    pyarrow.table(ROWS),
    polars.DataFrame(ROWS).with_columns(polars.col("user").cast(polars.Categorical)),
    polars.DataFrame(ROWS).with_columns(extra=polars.lit(1.5)),
    *(as_file(suffix, tmp_path, ROWS) for suffix in SUFFIXES),
  ):
    same(tables.dataset(table).log, wanted)


def test_pandas_is_a_table_whatever_its_index(tmp_path):
  for table in tables_of(tmp_path):
    assert sequences(tables.dataset(table).log) == SEQUENCES


def test_times_are_dates_or_seconds_and_without_them_rows_have_an_order():
  dates = [datetime.datetime(1970, 1, 1, 0, 0, second) for second in ROWS["timestamp"]]
  for times in (dates, [date.isoformat() for date in dates]):
    log = tables.dataset({**ROWS, "timestamp": times}).log
    same(log, tables.dataset(ROWS).log)
  bare = tables.dataset({name: ROWS[name] for name in ("user", "item")}).log
  assert sequences(bare) == {"b": ["x", "y", "x"], "a": ["y", "z"]}
  assert bare.time_E is None


def test_times_of_one_second_have_an_order():
  early, late = (datetime.datetime(2024, 1, 1, 0, 0, 0, n) for n in (100_000, 900_000))
  rows = {"user": ["u", "u"], "item": ["late", "early"], "timestamp": [late, early]}
  pandas = pytest.importorskip("pandas", reason="pandas is not installed")
  for table in (polars.DataFrame(rows), pyarrow.table(rows), pandas.DataFrame(rows)):
    assert sequences(tables.dataset(table).log) == {"u": ["early", "late"]}


def test_whole_numbers_are_ids_as_texts():
  log = tables.dataset({"user": [10, 9, 10], "item": [1, 2, 3]}).log
  assert sequences(log) == {"10": ["1", "3"], "9": ["2"]}


@pytest.mark.parametrize(
  ("rows", "message"),
  [
    ({"user": ["a"]}, "the interactions is the item; it has user: rename"),
    ({"user": ["a", None], "item": ["x", "y"]}, "1 of 2 rows .* line 2: no user"),
    ({"user": ["a", ""], "item": ["x", "y"]}, "1 of 2 rows .* line 2: no user"),
    ({"user": ["a\0"], "item": ["x"]}, "line 1: a user or item id that holds a NUL"),
    ({"user": [1.5], "item": ["x"]}, "line 1: no user id .text or whole number"),
    ({"user": [], "item": []}, "without rows"),
    (polars.DataFrame({**ROWS, "timestamp": 1}).clear(), "without rows"),
    ({**ROWS, "timestamp": [1, 2, 3, 4, None]}, "1 of 5 rows .* line 5: no time"),
    (
      {**ROWS, "timestamp": ["soon"] * 5},
      "the unit of 'timestamp' .*soon.* give dates",
    ),
    ({"user": ["a"], "item": ["x", "y"]}, "are no table"),
    (3, "are no table"),
    ("/nowhere/log.csv", "^/nowhere/log.csv does not exist"),
    ("/nowhere/log.xls", "log.xls does not exist"),
    (__file__, "does not tell its format"),
  ],
)
def test_what_is_no_log_is_one_line(rows, message):
  with pytest.raises(UserError, match=message):
    tables.dataset(rows)


def test_ids_of_a_file_are_texts_whatever_they_look_like(tmp_path):
  for suffix, between in ((".csv", ","), (".tsv", "\t")):
    path = tmp_path / f"log{suffix}"
    rows = ("user,item,timestamp", "007,0042,5", "7,1e5,6")
    path.write_text("\n".join(rows).replace(",", between))
    log = tables.dataset(path).log
    assert sorted(log.user_ids) == ["007", "7"]
    assert sorted(log.item_ids) == ["0042", "1e5"]
    assert sorted(log.time_E) == [5, 6]


def test_a_damaged_file_is_one_line(tmp_path):
  for suffix in SUFFIXES:
    path = tmp_path / f"log{suffix}"
    path.write_bytes(b"\x80\x81 nonsense \xff")
    with pytest.raises(UserError, match=r"no Parquet file|is not UTF-8|no JSON object"):
      tables.dataset(path)


def test_texts_of_items_are_those_of_the_catalogue():
  dataset = tables.dataset(ROWS, TITLES)
  ids = dataset.log.item_ids.tolist()
  assert dict(zip(ids, dataset.titles)) == {"x": "Ex", "y": "", "z": "Zed"}
  assert dict(zip(ids, dataset.texts)) == {"x": "Ex A", "y": "", "z": "Zed"}
  with pytest.raises(UserError, match="none of the columns title"):
    tables.dataset(ROWS, {"item": ["x"]})


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(
  st.dictionaries(names, st.lists(names, min_size=1, max_size=4), min_size=1),
  st.booleans(),
  st.booleans(),
)
def test_a_copy_is_the_log(tmp_path_factory, rows, has_times, has_texts):
  times = [range(len(items)) for items in rows.values()] if has_times else None
  log = interactions.from_sequences(rows.items(), times=times)
  known = [f"text {n}" for n in range(log.num_items)] if has_texts else None
  attributes = [np.arange(n % 3) for n in range(log.num_items)] if has_texts else None
  folder = epath.Path(tmp_path_factory.mktemp("log"))
  parquet_logs.write_snapshot(Dataset(log, known, None, attributes, known), folder)
  found = parquet_logs.read_snapshot(folder)
  same(found.log, log)
  assert (found.titles, found.texts) == (known, known)
  if has_texts:
    for one, other in zip(found.attributes, attributes, strict=True):
      np.testing.assert_array_equal(one, other)


def test_a_catalogue_keeps_items_that_nobody_has_any_more(tmp_path):
  log = interactions.from_sequences(SEQUENCES.items())
  log = interactions.keep_rows(log, log.user_ids == "a")
  folder = epath.Path(tmp_path)
  parquet_logs.write_snapshot(Dataset(log, None, None, None, None), folder)
  same(parquet_logs.read_snapshot(folder).log, log)


def test_a_copy_of_an_older_version_is_read(tmp_path):
  """Its rows had the ids themselves, where they now have numbers."""
  folder = epath.Path(tmp_path)
  log = interactions.from_sequences(SEQUENCES.items())
  parquet_logs.write_snapshot(Dataset(log, None, None, None, None), folder)
  rows = {"user": log.user_ids[log.user_E], "item": log.item_ids[log.item_E]}
  content = parquet.to_bytes(pyarrow.table({n: x.tolist() for n, x in rows.items()}))
  files = {"interactions.parquet": content}
  files["items.parquet"] = (folder / "items.parquet").read_bytes()
  folder_lib.write(folder, files, {"sha256": folder_lib.digests(files)})
  same(parquet_logs.read_snapshot(folder).log, log)
  assert parquet_logs.snapshot_source(folder) is None


def test_a_copy_that_has_changed_is_refused_and_none_is_none(tmp_path):
  folder = epath.Path(tmp_path / "log")
  assert parquet_logs.read_snapshot(folder) is None
  parquet_logs.write_snapshot(tables.dataset(ROWS), folder)
  wanted = json.loads((folder / "manifest.json").read_text())
  for name in ("interactions.parquet", "items.parquet"):
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1])
    with pytest.raises(UserError, match="not the log that was written"):
      parquet_logs.read_snapshot(folder)
    (folder / name).write_bytes(whole)
  for text in ("{", "[]", "{}", json.dumps({"sha256": {}})):
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match="not the log that was written"):
      parquet_logs.read_snapshot(folder)
  (folder / "manifest.json").write_text(json.dumps(wanted))
  assert sequences(parquet_logs.read_snapshot(folder).log) == SEQUENCES


def test_names_of_columns_cannot_break_the_line():
  rows = polars.DataFrame({"a\x1cb\x1b[31m": ["x"], "item\n": ["y"]})
  with pytest.raises(
    UserError, match=r"cannot tell the user: the interactions has .*; rename"
  ) as error:
    tables.dataset(rows)
  assert len(str(error.value).splitlines()) == 1
  assert str(error.value).isprintable()
