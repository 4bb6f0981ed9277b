"""Parses times of any common format to microseconds since 1970."""

from typing import Any

import polars as pl

# The values of --time_unit, and their meanings.
UNITS = {
  "s": "seconds since 1970",
  "ms": "milliseconds since 1970",
  "us": "microseconds since 1970",
  "ns": "nanoseconds since 1970",
  "iso": "ISO 8601 (without a zone: UTC)",
}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_END = 253_402_300_800  # seconds, end of the year 9999
_ISO = (
  r"^(\d{4}-\d{2}-\d{2})"
  r"(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?"
  r" ?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_NUMBER = r"^\d+(?:\.\d*)?(?:[eE]\+?\d+)?$"


def guess(values: pl.Series) -> str | None:
  """Guesses the unit of times, a key of UNITS; None if unclear.

  The unit is "iso" for dates, and for strings if most are ISO 8601; otherwise strings
  that are no numbers are ignored. In a numeric column most values must be finite and
  >= 0. A median of up to 11 digits means seconds, of up to 14 milliseconds, and so on.
  """
  if values.dtype.is_temporal():
    return "iso"
  if values.dtype.is_numeric():
    number = values.cast(pl.Float64)
  else:
    values = values.str.strip_chars()
    if 2 * values.str.contains(_ISO).sum() > len(values):
      return "iso"
    values = values.filter(values.str.contains(_NUMBER))
    number = values.cast(pl.Float64, strict=False)
  number = number.filter(number.is_finite() & (number >= 0))
  if 2 * len(number) <= len(values) or not len(number):
    return None
  median: Any = number.median()
  limits = zip(_PER_SECOND, (1e11, 1e14, 1e17))
  return next((unit for unit, most in limits if median < most), "ns")


def micros(values: pl.Series, unit: str) -> pl.Series:
  """Converts strings, numbers, dates or times to Int64 microseconds since 1970.

  Invalid values and years outside 1970 to 9999 become null. `unit`, a key of UNITS,
  applies to strings and numbers; dates and times have their own unit.
  """
  if values.dtype == pl.Date:
    found = _from_numbers(values.to_physical().cast(pl.Int64) * 86_400, per_second=1)
  elif isinstance(values.dtype, pl.Datetime):
    # The physical value counts from 1970 in UTC, in any time zone.
    found = _from_numbers(values.to_physical(), _PER_SECOND[values.dtype.time_unit])
  elif unit == "iso":
    found = _from_iso(values) if values.dtype == pl.String else nulls(values)
  else:
    found = _from_numbers(values, _PER_SECOND[unit])
  is_time = (found >= 0) & (found < _END * 10**6)
  return found.set(~is_time.fill_null(False), None)


def _from_numbers(values: pl.Series, per_second: int) -> pl.Series:
  if values.dtype == pl.String:
    values = values.str.strip_chars()
    whole = values.cast(pl.Int64, strict=False)
    rest = whole.is_null() & values.str.contains(_NUMBER)
    number = values.set(~rest.fill_null(False), None).cast(pl.Float64, strict=False)
  elif values.dtype.is_integer():
    whole, number = values.cast(pl.Int64, strict=False), nulls(values, pl.Float64)
  elif values.dtype.is_numeric():
    whole, number = nulls(values), values.cast(pl.Float64)
  else:
    return nulls(values)
  frame = pl.DataFrame({"whole": whole, "number": number})
  most = _END * per_second
  whole, number = pl.col("whole"), pl.col("number")
  scale = 10**6 / per_second
  in_micros = whole * int(scale) if scale >= 1 else whole // round(1 / scale)
  return frame.select(
    pl.when(whole.is_between(0, most))
    .then(in_micros)
    .when(number.is_between(0, most))
    .then((number * scale).round().cast(pl.Int64, strict=False))
  ).to_series()


def _from_iso(values: pl.Series) -> pl.Series:
  parts = values.str.strip_chars().str.extract_groups(_ISO).struct.unnest()
  day, hour, minute, second, fraction, zone = (pl.col(str(n)) for n in range(1, 7))
  hour, minute, second = (
    x.fill_null("0").cast(pl.Int64, strict=False) for x in (hour, minute, second)
  )
  is_zone = zone.str.contains(r"^[+-]")
  digits = zone.str.replace(":", "")
  away = (
    digits.str.slice(1, 2).cast(pl.Int64, strict=False) * 60
    + digits.str.slice(3, 2).cast(pl.Int64, strict=False).fill_null(0)
  ) * pl.when(zone.str.starts_with("-")).then(-60).otherwise(60)
  seconds = hour * 3_600 + minute * 60 + second
  seconds -= pl.when(is_zone).then(away).otherwise(0)
  six_digits = (fraction.fill_null("") + "000000").str.slice(0, 6)
  rest = six_digits.cast(pl.Int64, strict=False)
  days = day.str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64)
  is_right = (hour < 24) & (minute < 60) & (second <= 60)
  return parts.select(
    pl.when(is_right).then((days * 86_400 + seconds) * 10**6 + rest)
  ).to_series()


def nulls(values: pl.Series, dtype: Any = pl.Int64) -> pl.Series:
  return pl.Series(values.name, [None], dtype=dtype).new_from_index(0, len(values))
