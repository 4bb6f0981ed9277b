"""Rejects unreadable rows and filters low ratings; both engines use this file."""

from collections import Counter

import polars as pl
import pyarrow

from lightlm_jax.preprocess import readers, times, values
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.tally import SHOWN, Tally
from lightlm_jax.runtime.errors import UserError

LONGEST = 512  # maximum characters of an id: ids are stored in fixed-width arrays
SCHEMA = pyarrow.schema(
  [
    ("user", pyarrow.large_string()),
    ("item", pyarrow.large_string()),
    ("time", pyarrow.int64()),  # microseconds since 1970; null in a log without times
    ("file", pyarrow.int32()),
    ("line", pyarrow.int64()),
    ("place", pyarrow.int32()),  # within the line
  ]
)


def read(
  source: Source, piece: readers.Piece, options: Options, parts: int
) -> tuple[dict[int, pyarrow.Table], Tally]:
  """Reads a piece; returns {part: the rows kept, in file order} and the piece's tally.

  `parts` is the number of parts of the log; a hash of the user chooses a row's part.

  Raises:
    UserError: a row cannot be read, and --strict is given.
  """
  table, tally = readers.parse(source, piece)
  raw = pl.DataFrame(table)
  frame = raw.select(
    _ids(raw["user"]),
    _ids(raw["item"]),
    "line",
    file=pl.lit(source.index, pl.Int32),
    place="place" if "place" in raw.columns else pl.lit(0, pl.Int32),
    time=pl.lit(None, pl.Int64),
  )
  ids = pl.col("user", "item")
  checks = {
    "no_user": (pl.col("user") == "").fill_null(True),
    "no_item": (pl.col("item") == "").fill_null(True),
    "nul": pl.any_horizontal(ids.str.contains("\0", literal=True)),
    "too_long": pl.any_horizontal(ids.str.len_chars() > LONGEST),
  }
  if options.time_unit is not None:
    micros = times.micros(raw["time"], options.time_unit)
    if options.clock is not None:
      micros += times.micros_of_day(raw["clock"], options.clock)
    frame = frame.with_columns(micros.alias("time"))
    checks["bad_time"] = pl.col("time").is_null()
  if options.min_rating is not None:
    frame = frame.with_columns(_numbers(raw["rating"]).alias("rating"))
    checks["bad_rating"] = pl.col("rating").is_null()
  if options.keep:
    kinds = raw["event"].cast(pl.String).str.strip_chars()
    frame = frame.with_columns(kinds.is_in(options.keep).fill_null(False).alias("kept"))
  reasons = [pl.when(check).then(pl.lit(name)) for name, check in checks.items()]
  frame = frame.with_columns(why=pl.coalesce(reasons))  # the first reason counts

  tally += _rejected(raw.with_columns(frame["why"]), source.index)
  if options.strict and tally.rejected:
    row = tally.first({source.index: source.path})
    raise UserError(f"{row}; without --strict such rows are counted and left out")
  frame = frame.filter(pl.col("why").is_null())
  if options.min_rating is not None:
    is_high = frame["rating"] >= options.min_rating
    tally.filtered["low_rating"] += int((~is_high).sum())
    frame = frame.filter(is_high)
  if options.keep:
    tally.filtered["event"] += int((~frame["kept"]).sum())
    frame = frame.filter("kept")
  tally.check(len(frame), f"file {source.index}")
  part = pl.col("user").hash(0) % parts
  frame = frame.with_columns(part=part).sort("part", maintain_order=True)
  table = frame.select(SCHEMA.names).to_arrow().cast(SCHEMA)
  runs = frame["part"].rle().struct.unnest()
  runs = runs.with_columns(start=pl.col("len").cum_sum() - pl.col("len"))
  return {n: table.slice(start, rows) for rows, n, start in runs.iter_rows()}, tally


def _rejected(raw: pl.DataFrame, file: int) -> Tally:
  """Counts the rejected rows of file number `file`: those with a reason in `why`."""
  tally = Tally()
  # Times become numbers: an invalid one may be out of range for Python.
  bad = raw.filter(pl.col("why").is_not_null()).with_columns(
    pl.selectors.temporal().to_physical()
  )
  for (reason,), rows in bad.group_by("why", maintain_order=True):
    examples = []
    for row in rows.drop("why", "place", strict=False).head(SHOWN).to_dicts():
      line = row.pop("line")
      words = ", ".join(f"{name} {value!r}" for name, value in row.items())
      examples.append((file, line, words[:80]))
    tally += Tally(rejected=Counter({reason: len(rows)}), examples={reason: examples})
  return tally


def _ids(series: pl.Series) -> pl.Series:
  """Converts ids to stripped strings, 12.0 to 12; null if missing or no id."""
  if series.dtype.is_float():
    # pandas stores whole numbers as floats if a column has missing values.
    is_whole = series.is_finite() & (series == series.round()) & (series.abs() < 2**53)
    series = series.set(~is_whole.fill_null(False), None).cast(pl.Int64)
  if series.dtype.is_temporal() or series.dtype == pl.Null:
    return times.nulls(series, pl.String)
  texts = series.cast(pl.String).str.strip_chars()
  if texts.str.ends_with(".0").any():
    texts = texts.str.replace(r"^(-?\d+)\.0$", "$1")
  return texts.set(texts.is_in(values.NULLS), None)


def _numbers(series: pl.Series) -> pl.Series:
  if series.dtype == pl.String:
    series = series.str.strip_chars()
  if series.dtype.is_temporal():
    return times.nulls(series, pl.Float64)
  number = series.cast(pl.Float64, strict=False)
  return number.set(~number.is_finite().fill_null(False), None)
