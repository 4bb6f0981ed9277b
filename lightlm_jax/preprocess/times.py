"""Parses times of any common format to microseconds since 1970."""

from typing import Any

import polars as pl

# The values of --time_unit, and their meanings. In their place a format of strptime
# (with a %) describes texts that are not ISO 8601.
UNITS = {
  "s": "seconds since 1970",
  "ms": "milliseconds since 1970",
  "us": "microseconds since 1970",
  "ns": "nanoseconds since 1970",
  "iso": "ISO 8601 (without a zone: UTC)",
  "epoch": "seconds, milliseconds, … since 1970, each by its size",
}
_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# Seconds from the beginning of the year 1 to the end of the year 9999.
_BEGIN, _END = -62_135_596_800, 253_402_300_800
# A number is taken for a time if it lies between 1990 and 2100. In nanoseconds, …,
# seconds these ranges do not overlap, so that a number's size tells its unit.
_FIRST, _LAST = 631_152_000, 4_102_444_800
_ISO = (
  r"^(\d{4}-\d{2}-\d{2})"
  r"(?:[T ](\d{2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?"
  r" ?(Z|z|UTC|[+-]\d{2}(?::?\d{2})?)?)?$"
)
_NUMBER = r"^[+-]?\d+(?:\.\d*)?(?:[eE]\+?\d+)?$"
_CLOCK = r"^(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?$"
_DAYS = ("%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%Y", "%Y/%m/%d")
# Formats that are tried on texts: of ctime, RFC 2822, web servers, and in figures.
FORMATS = (
  "%a %b %d %H:%M:%S %z %Y",
  "%a %b %d %H:%M:%S %Y",
  "%a, %d %b %Y %H:%M:%S %z",
  "%d %b %Y %H:%M:%S %z",
  "%d %b %Y %H:%M:%S",
  "%d/%b/%Y:%H:%M:%S %z",
  *(day + clock for day in _DAYS for clock in (" %H:%M:%S", " %H:%M", "")),
  *(day + clock for day in _DAYS[:4] for clock in (" %I:%M:%S %p", " %I:%M %p")),
  "%Y%m%d",
  "%Y%m%d%H%M%S",
  "%d %B %Y",
  "%B %d, %Y",
  "%m %d, %Y",
  "Posted %B %d, %Y.",
)
# What a column beside a date tells: hours and minutes as 1830, with seconds as 183059,
# as 18:30 or 18:30:59, or milliseconds that have passed.
CLOCKS = ("hhmm", "hhmmss", "text", "ms")


def readings(values: pl.Series) -> list[str]:
  """Returns the units in which times can be read: keys of UNITS, or formats.

  There are several if the day may be the month, none if most of the values are no times
  between 1990 and 2100. Missing values are ignored.
  """
  values = values.drop_nulls()
  if values.dtype.is_temporal():
    return ["iso"]
  if values.dtype == pl.String:
    values = values.str.strip_chars()
    values = values.filter(values != "")
    if 2 * values.str.contains(_ISO).sum() > len(values):
      return ["iso"]
  elif not values.dtype.is_numeric():
    return []
  for units in (["epoch"], FORMATS):
    read = {unit: _plausible(values, unit) for unit in units}
    most = max(read.values())
    if 2 * most > len(values):
      found = [unit for unit in units if read[unit] == most]
      # A day that is also a month is the same time in both: one reading will do.
      first = micros(values, found[0])
      others = [u for u in found[1:] if not micros(values, u).equals(first)]
      return [found[0], *others]
  return []


def magnitudes(values: pl.Series) -> list[str]:
  """Returns the units that numbers have by their size, as in the unit "epoch"."""
  number = values.cast(pl.String).cast(pl.Float64, strict=False)
  sizes = ((unit, _FIRST * n, _LAST * n) for unit, n in _PER_SECOND.items())
  return [unit for unit, low, high in sizes if number.is_between(low, high).any()]


def has_clock(unit: str, values: pl.Series) -> bool:
  """Returns whether times of this unit, given some, are finer than days."""
  if "%" in unit:
    return "%H" in unit or "%I" in unit
  if unit != "iso" or isinstance(values.dtype, pl.Datetime):
    return True
  return values.dtype == pl.String and bool(values.str.contains(":").any())


def clock(values: pl.Series) -> str | None:
  """Returns which of CLOCKS a column is that stands beside a date; None if unclear."""
  texts = values.drop_nulls().cast(pl.String).str.strip_chars()
  if not len(texts):
    return None
  if texts.str.contains(_CLOCK).all():
    return "text"
  for kind in ("hhmm", "hhmmss"):
    if micros_of_day(texts, kind).is_not_null().all():
      return kind
  return "ms" if texts.str.contains(r"^\d+$").all() else None


def micros_of_day(values: pl.Series, kind: str) -> pl.Series:
  """Converts a column, of the CLOCKS `kind`, to Int64 microseconds; else null."""
  texts = values.cast(pl.String).str.strip_chars()
  if kind == "text":
    parts = texts.str.extract_groups(_CLOCK).struct.unnest()
    hour, minute, second = (pl.col(str(n)).cast(pl.Int64) for n in range(1, 4))
    second = second.fill_null(0)
  else:
    number = texts.cast(pl.Int64, strict=False)
    if kind == "ms":
      return number.set((number < 0).fill_null(False), None) * 1_000
    if kind == "hhmm":
      number *= 100
    parts, pair = pl.DataFrame({"n": number}), pl.col("n")
    hour, minute, second = pair // 10_000, pair // 100 % 100, pair % 100
  is_right = hour.is_between(0, 23) & (minute < 60) & (second < 60)
  seconds = hour * 3_600 + minute * 60 + second
  return parts.select(pl.when(is_right).then(seconds * 10**6)).to_series()


def micros(values: pl.Series, unit: str) -> pl.Series:
  """Converts strings, numbers, dates or times to Int64 microseconds since 1970.

  Invalid values and years outside 1 to 9999 become null. `unit`, a key of UNITS or a
  format, applies to strings and numbers; dates and times have their own unit.
  """
  if values.dtype == pl.Date:
    found = _from_numbers(values.to_physical().cast(pl.Int64) * 86_400, per_second=1)
  elif isinstance(values.dtype, pl.Datetime):
    # The physical value counts from 1970 in UTC, in any time zone.
    found = _from_numbers(values.to_physical(), _PER_SECOND[values.dtype.time_unit])
  elif "%" in unit:
    found = _from_format(values, unit)
  elif unit == "iso":
    found = _from_iso(values) if values.dtype == pl.String else nulls(values)
  elif unit == "epoch":
    found = nulls(values)
    for per_second in _PER_SECOND.values():
      part = _from_numbers(values, per_second)
      within = part.is_between(_FIRST * 10**6, _LAST * 10**6, closed="left")
      found = found.fill_null(part.set(~within.fill_null(False), None))
      if not found.null_count():
        break  # nearly always after the first: a log has one unit
  else:
    found = _from_numbers(values, _PER_SECOND[unit])
  is_time = (found >= _BEGIN * 10**6) & (found < _END * 10**6)
  return found.set(~is_time.fill_null(False), None)


def _plausible(values: pl.Series, unit: str) -> int:
  """Returns how many values are times of this unit, between 1990 and 2100."""
  found = micros(values, unit)
  return int(found.is_between(_FIRST * 10**6, _LAST * 10**6).sum())


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
  least, most = _BEGIN * per_second, _END * per_second
  whole, number = pl.col("whole"), pl.col("number")
  scale = 10**6 / per_second
  in_micros = whole * int(scale) if scale >= 1 else whole // round(1 / scale)
  return frame.select(
    # In nanoseconds the year 1 is no int64.
    pl.when(whole.is_between(max(least, -(2**63)), most))
    .then(in_micros)
    .when(number.is_between(least, most))
    .then((number * scale).round().cast(pl.Int64, strict=False))
  ).to_series()


def _from_format(values: pl.Series, form: str) -> pl.Series:
  if values.dtype.is_float():
    values = values.cast(pl.Int64, strict=False)
  if not (values.dtype == pl.String or values.dtype.is_integer()):
    return nulls(values)
  texts = values.cast(pl.String).str.strip_chars().str.replace_all(r"\s+", " ")
  if "%z" in form:
    texts = texts.str.replace(r"\b(?:GMT|UTC|Z)\b", "+0000")
  if "%H" in form or "%I" in form:
    return texts.str.to_datetime(form, time_unit="us", strict=False).to_physical()
  days = texts.str.to_date(form, strict=False).to_physical().cast(pl.Int64)
  return days * (86_400 * 10**6)


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
