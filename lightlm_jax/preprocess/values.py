"""What the values of a file's columns look like, from its first rows."""

from typing import Any, NamedTuple

import polars as pl

from lightlm_jax.preprocess import readers, times
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.tally import Tally

# Texts that stand for no value, beside the empty one.
NULLS = ("NA", "NULL", "null", "\\N", "None", "none", "nan", "NaN", "<NA>", "-1")
# A user with this share of the rows, and three times those of any other, is asked
# about if many users are between them.
_SHARE, _USERS, _ROWS = 0.1, 20, 100
_SAMPLE = 2**18  # bytes of a text file that are looked at
_SAMPLE_ROWS = 10_000  # rows of a Parquet file
_ENOUGH = 1_000  # rows; a piece may have fewer, such as those before the last line
_URL = r"^\s*(?:(?i:https?:)?//|www\.)\S+\s*$"
_AMAZON = {"user": r"^A[0-9A-Z]{9,20}$", "item": r"^(?:B0[0-9A-Z]{8}|\d{9}[\dX])$"}


class Column(NamedTuple):
  """What is known of a column; shares are of the rows of the sample."""

  name: str
  values: pl.Series  # of the sample, as the file has them
  missing: float  # share of values that are null, empty or of NULLS
  marker: str  # the most frequent of NULLS; "" = none
  distinct: int
  readings: tuple[str, ...]  # see times.readings

  @property
  def is_text(self) -> bool:
    return self.values.dtype == pl.String

  @property
  def is_time(self) -> bool:
    """Whether the values are dates or texts of dates: never ids."""
    return self.values.dtype.is_temporal() or self.readings[:1] not in ((), ("epoch",))

  def examples(self, number: int = 3) -> str:
    """Returns the first different values, separated by commas."""
    found = self.values.drop_nulls().unique(maintain_order=True).head(number)
    return ", ".join(f"{value!s:.40}" for value in found.to_list())


def look(source: Source) -> list[Column]:
  """Returns what the first rows of a file say of its columns.

  Raises:
    UserError: the file has rows, and none of them can be read.
  """
  every = {f"{place}": place for place in range(len(source.names))}
  source, tally = source._replace(roles=every, lists={}), Tally()
  frames, rows = [], 0
  for piece in readers.pieces(source, _SAMPLE, _SAMPLE_ROWS):
    table, found = readers.parse(source, piece)
    tally += found
    if len(table):
      frames.append(pl.DataFrame(table))
      rows += len(table)
    if rows >= _ENOUGH:
      break
  if frames:
    frame = pl.concat(frames, how="vertical_relaxed")
    return [look_at(name, frame[f"{n}"]) for n, name in enumerate(source.names)]
  if tally.rejected:
    tally.check_any_left({source.index: source.path})
  nothing = pl.Series([], dtype=pl.String)
  return [look_at(name, nothing) for name in source.names]


def look_at(name: str, values: pl.Series) -> Column:
  """Returns what is known of a column named `name` with some of its `values`."""
  texts = values
  if values.dtype == pl.String:
    texts = values.str.strip_chars()
  elif (
    values.dtype.is_temporal() or values.dtype == pl.Null or values.dtype.is_nested()
  ):
    texts = pl.Series(values.name, [], pl.String)
  texts = texts.cast(pl.String)
  markers = texts.filter(texts.is_in(NULLS)).value_counts(sort=True)
  lost: Any = values.null_count() + int((texts == "").sum())
  lost += markers["count"].sum()
  nested = values.dtype.is_nested()
  return Column(
    name,
    values,
    float(lost) / max(1, len(values)),
    markers.row(0)[0] if len(markers) else "",
    0 if nested else values.n_unique(),
    () if nested else tuple(times.readings(values)),
  )


def is_url(column: Column) -> bool:
  """Whether most values are addresses of web pages or files."""
  if not column.is_text:
    return False
  is_address = column.values.str.contains(_URL)
  return 2 * is_address.sum() > len(is_address)


def objection(column: Column) -> str | None:
  """Returns why a column's values are hardly the users; None if nothing is odd."""
  values = column.values
  if len(values) < _ROWS:
    return None
  if column.missing > _SHARE:
    marker = repr(column.marker) if column.marker else "empty"
    return f"is {marker} in {column.missing:.0%} of the first rows"
  if column.distinct < _USERS:
    return None
  counts = values.value_counts(sort=True)
  (value, most), (_, second) = counts.head(2).rows()
  # A log that is sorted by user begins with few users, each in one piece.
  runs = (values == value).rle().struct.unnest()["value"].sum()
  if most > max(_SHARE * len(values), 3 * second) and runs > most / 10:
    return f"is {value!r} in {most / len(values):.0%} of the first rows"
  return None


def may_be_ids(column: Column) -> bool:
  """Whether the values are texts or whole numbers, several, and no dates or pages."""
  texts = column.values.drop_nulls()
  is_constant = column.distinct < 2 and len(texts) > 10
  if column.is_time or texts.dtype.is_nested() or is_constant:
    return False
  texts = texts.cast(pl.String).str.strip_chars()
  number = texts.cast(pl.Float64, strict=False)
  is_whole = bool(texts.str.contains(r"^-?\d+$").all())
  return is_whole or (number.null_count() > 0 and not is_url(column))


def proposal(columns: list[Column]) -> tuple[list[str], bool] | None:
  """Returns names for the columns of a file without a header, and whether it is sure.

  Users are taken to stand before items, unless the ids have Amazon's forms. Returns
  None if no two columns can be ids.
  """
  names: list[str] = [f"column_{n + 1}" for n in range(len(columns))]
  ids, rated = [], None
  timed = [n for n, column in enumerate(columns) if column.readings]
  texts = [n for n in timed if columns[n].is_time]
  time = (texts or timed)[-1] if timed else None
  for n, column in enumerate(columns):
    if n == time or column.missing > _SHARE:
      continue
    number = column.values.cast(pl.String).cast(pl.Float64, strict=False)
    is_number = number.null_count() == column.values.null_count()
    is_small = is_number and -1 <= number.min() and number.max() <= 10  # pyright: ignore
    if is_small and column.distinct <= 20 and len(columns) > 2 and ids:
      rated = n if rated is None else rated
    elif may_be_ids(column):
      ids.append(n)
  if len(ids) < 2:
    return None
  # A column of which no value comes twice numbers the rows.
  often = [n for n in ids if columns[n].distinct < len(columns[n].values)]
  user, item = often[:2] if len(often) > 1 else ids[:2]
  forms: Any = {n: _form(columns[n]) for n in (user, item)}
  if forms[user] == "item" or forms[item] == "user":
    user, item = item, user
  names[user], names[item] = "user", "item"
  if time is not None:
    names[time] = "time"
  if rated is not None:
    names[rated] = "rating"
  return names, set(forms.values()) == {"user", "item"} and len(ids) == 2


def _form(column: Column) -> str | None:
  text = column.values.drop_nulls().cast(pl.String)
  return next(
    (role for role, form in _AMAZON.items() if text.str.contains(form).all()), None
  )
