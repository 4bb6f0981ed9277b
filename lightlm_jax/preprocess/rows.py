"""Validation of rows: which are kept, rejected or filtered; used by both engines."""

from collections.abc import Iterator, Mapping
import itertools
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow

from lightlm_jax.preprocess import times
from lightlm_jax.preprocess.readers import Parsed
from lightlm_jax.preprocess.tally import SHOWN, Tally, of_rejected

LONGEST = 512  # characters of an id: ids are stored in fixed-width arrays
SCHEMA = pyarrow.schema(
  [
    ("user", pyarrow.large_string()),
    ("item", pyarrow.large_string()),
    ("time", pyarrow.int64()),  # microseconds since 1970; null in a log without times
    ("file", pyarrow.int32()),
    ("line", pyarrow.int64()),
    ("place", pyarrow.int32()),  # in the line
    ("part", pyarrow.int32()),  # of the log: all rows of a user are in one
  ]
)


class Rules(NamedTuple):
  """The rules for valid rows.

  Attributes:
    time_unit: one of times.UNITS; None = the log has no times.
    min_rating: the lowest rating to keep; None = ratings are ignored.
    parts: number of parts of the log.
  """

  time_unit: str | None
  min_rating: float | None
  parts: int


def valid(parsed: Parsed, file: int, rules: Rules) -> tuple[pyarrow.Table, Tally]:
  """Returns the rows to keep, by part, in file order within each; and the tally.

  Args:
    parsed: the rows of a piece.
    file: the number of the file.
    rules: for valid rows.
  """
  raw = pl.DataFrame(parsed.table)
  frame = pl.DataFrame({"line": raw["line"]}).with_columns(
    _ids(raw["user"]).alias("user"),
    _ids(raw["item"]).alias("item"),
    pl.lit(file, pl.Int32).alias("file"),
    raw["place"] if "place" in raw.columns else pl.lit(0, pl.Int32).alias("place"),
  )
  user, item, time = pl.col("user"), pl.col("item"), pl.col("time")
  empty = {name: (pl.col(name) == "").fill_null(True) for name in ("user", "item")}
  checks = {
    "no_user": empty["user"],
    "no_item": empty["item"],
    "nul": user.str.contains("\0", literal=True)
    | item.str.contains("\0", literal=True),
    "too_long": (user.str.len_chars() > LONGEST) | (item.str.len_chars() > LONGEST),
  }
  if rules.time_unit is None:
    frame = frame.with_columns(pl.lit(None, pl.Int64).alias("time"))
  else:
    micros = times.micros(raw["time"], rules.time_unit)
    frame = frame.with_columns(micros.alias("time"))
    checks["bad_time"] = time.is_null()
  if rules.min_rating is not None:
    rating = _numbers(raw["rating"])
    frame = frame.with_columns(rating.alias("rating"))
    checks["bad_rating"] = pl.col("rating").is_null()
  why = pl.lit(None, pl.String)
  for reason in reversed(checks):  # the first one counts
    why = pl.when(checks[reason]).then(pl.lit(reason)).otherwise(why)
  frame = frame.with_columns(why=why)

  bad = frame["why"].is_not_null()
  tally = of_rejected(parsed.rows, file, parsed.rejected)
  if bad.any():
    tally += _count(frame.filter(bad), raw.filter(bad), file)
    frame = frame.filter(~bad)
  if rules.min_rating is not None:
    high = frame["rating"] >= rules.min_rating
    tally.filtered["low_rating"] += len(frame) - int(high.sum())
    tally.filtered = +tally.filtered
    frame = frame.filter(high)
  frame = frame.with_columns(part=(user.hash(0) % rules.parts).cast(pl.Int32))
  frame = frame.sort("part", maintain_order=True)
  tally.check(len(frame), f"file {file}")
  return frame.select(SCHEMA.names).to_arrow().cast(SCHEMA), tally


def by_part(table: pyarrow.Table) -> Iterator[tuple[int, pyarrow.Table]]:
  """The rows of each part that has any, of what `valid` returns."""
  part_N = np.asarray(table["part"])
  starts = np.flatnonzero(np.diff(part_N, prepend=-1)).tolist()
  rest = table.drop_columns(["part"])
  for start, end in itertools.pairwise([*starts, len(table)]):
    yield int(part_N[start]), rest.slice(start, end - start)


def _count(bad: pl.DataFrame, raw: pl.DataFrame, file: int) -> Tally:
  """Returns the tally of rejected rows: counts by reason, and a few examples."""
  tally = Tally()
  # As numbers: an invalid time may be out of range for Python.
  shown = raw.with_columns(pl.selectors.temporal().to_physical(), bad["why"])
  for reason, rows in shown.group_by("why", maintain_order=True):
    tally.rejected[reason[0]] += len(rows)
    tally.examples[reason[0]] = [
      (file, row.pop("line"), _words(row))
      for row in rows.drop("why", "place", strict=False).head(SHOWN).to_dicts()
    ]
  return tally


def _words(row: Mapping[str, object]) -> str:
  return ", ".join(f"{name} {value!r}" for name, value in row.items())[:80]


def _ids(values: pl.Series) -> pl.Series:
  """Returns ids as stripped text; null if there is none."""
  if values.dtype.is_float():
    # pandas stores whole numbers as floats if a column has missing values.
    is_whole = values.is_finite() & (values == values.round()) & (values.abs() < 2**53)
    values = values.set(~is_whole.fill_null(False), None).cast(pl.Int64)
  if values.dtype.is_temporal() or values.dtype == pl.Null:
    return pl.Series(values.name, [None] * len(values), pl.String)
  return values.cast(pl.String).str.strip_chars()


def _numbers(values: pl.Series) -> pl.Series:
  if values.dtype == pl.String:
    values = values.str.strip_chars()
  if values.dtype.is_temporal():
    return pl.Series(values.name, [None] * len(values), pl.Float64)
  number = values.cast(pl.Float64, strict=False)
  return number.set(~number.is_finite().fill_null(False), None)
