"""Reads raw files into a log: parses, filters, sorts and counts their lines."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
import dataclasses
from typing import Any
import warnings

from etils import epath
import numpy as np
import polars

from lightlm_jax.data.published.raw_files import RawFile, read_lines
from lightlm_jax.data.published.raw_rows import Item, Malformed
from lightlm_jax.data.published.sources import Counts, Source
from lightlm_jax.runtime.errors import UserError

SHOWN = 5  # rejected lines of a file that are reported with their line numbers


@dataclasses.dataclass
class Tally:
  """Counts of a file's lines: lines = kept + filtered + rejected.

  A rejected line cannot be read; a filtered line is read but left out of the log.
  """

  lines: int = 0
  kept: int = 0
  filtered: Counter = dataclasses.field(default_factory=Counter)
  rejected: Counter = dataclasses.field(default_factory=Counter)
  first: list[str] = dataclasses.field(default_factory=list)  # first rejected lines

  def __str__(self) -> str:
    """Returns the number of rejected lines, the reasons, and the first such lines."""
    rejected = Counter(self.rejected)  # a plain dict if it comes from JSON
    reasons = ", ".join(f"{n:,} {why}" for why, n in rejected.most_common())
    return (
      f"{rejected.total():,} of {self.lines:,} lines cannot be read ({reasons}; "
      f"{', '.join(self.first)})"
    )


def read_log(source: Source, path: epath.Path) -> tuple[polars.DataFrame, Tally, int]:
  """Reads and filters the ratings of a source.

  Returns:
    The log: raw ids `user` and `item`, `rating` (float32) and `seconds` (int64, since
    1970), sorted by user and time, with equal times in file order; the tally of the
    lines; and how many interactions share user and time with another interaction.

  Raises:
    UserError: the file is damaged or not the published one, or no rating is left.
  """
  tally, user_of, item_of = Tally(), {}, {}
  user, item, rating, time = array("i"), array("i"), array("f"), array("q")
  for record in _records(source.ratings, path, source.rating, tally):
    user.append(user_of.setdefault(record.user, len(user_of)))
    item.append(item_of.setdefault(record.item, len(item_of)))
    rating.append(record.rating)
    time.append(record.time)
  if not user:
    why = tally if tally.rejected else "it is empty"
    raise UserError(f"{path} is not {source.about}: {why}; fetch it again")
  columns = {"user": user, "item": item, "rating": rating, "time": time}
  rows = polars.DataFrame({name: np.array(of) for name, of in columns.items()})
  rows = _filtered(source, rows.sort("user", "time", maintain_order=True), tally)
  tally.kept = len(rows)
  if not tally.kept:
    left = ", ".join(f"{n:,} {why}" for why, n in tally.filtered.items())
    raise UserError(f"{path}: no interaction is left of {source.about}: {left}")
  log = polars.DataFrame(
    {
      "user": polars.Series(list(user_of)).gather(rows["user"]),
      "item": polars.Series(list(item_of)).gather(rows["item"]),
      "rating": rows["rating"],
      "seconds": rows["time"] // source.ticks,
    }
  )
  if source.published not in (None, counts(log)):
    rejected = f"; {tally}" if tally.rejected else ""
    raise UserError(
      f"{path} is not the {source.name} that was published: after filtering it has "
      f"{counts(log)} interactions, the published one {source.published}"
      f"{rejected}; fetch it again, or use it as a log of your own, under another name"
    )
  return log, tally, int(rows.select("user", "time").is_duplicated().sum())


def counts(log: polars.DataFrame) -> Counts:
  return Counts(log["user"].n_unique(), log["item"].n_unique(), len(log))


def read_items(
  source: Source, path: epath.Path, wanted: list[str]
) -> tuple[dict[str, Item], Tally]:
  """Returns {raw id: item} of `wanted` ids and a tally; UserError if no id is found."""
  tally, found, of_log = Tally(), {}, set(wanted)
  for item in _records(source.items, path, source.item, tally):
    if item.item not in of_log:
      tally.filtered["not in the log"] += 1
    elif item.item in found:
      tally.filtered["named before"] += 1
    else:
      found[item.item] = item
      tally.kept += 1
  if not found:
    rejected = f"; {tally}" if tally.rejected else ""
    raise UserError(
      f"{path} names none of the {len(of_log):,} items of {source.name}{rejected}; "
      "remove it and fetch it again"
    )
  return found, tally


def _records(
  raw: RawFile, path: epath.Path, parse: Callable[[bytes], Any], tally: Tally
) -> Iterator[Any]:
  """Yields each line's record, `parse(line)`; `tally` counts lines that have none."""
  with warnings.catch_warnings():
    # Python's parser warns of invalid escapes, which occur in some sources.
    warnings.simplefilter("ignore", SyntaxWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    for line in read_lines(raw, path):
      tally.lines += 1
      try:
        if line is None:
          raise Malformed("too long")
        record = parse(line) if line.strip() else None
      except Malformed as error:
        tally.rejected[str(error)] += 1
        if len(tally.first) < SHOWN:
          tally.first.append(f"line {tally.lines}: {error}")
        continue
      if record is None:
        tally.filtered["names or nothing"] += 1
      else:
        yield record


def _filtered(source: Source, rows: polars.DataFrame, tally: Tally) -> polars.DataFrame:
  """Returns the rows that pass the source's filters; counts the others in `tally`."""

  def keep(left: polars.DataFrame, why: str) -> None:
    nonlocal rows
    tally.filtered[why] += len(rows) - len(left)
    rows = left

  time = polars.col("time")
  if source.first_time is not None:
    keep(rows.filter(time >= source.first_time * source.ticks), "too early")
  if source.last_time is not None:
    keep(rows.filter(time <= source.last_time * source.ticks), "too late")
  if source.once:
    earliest = rows.unique(["user", "item"], keep="first", maintain_order=True)
    keep(earliest, "rated before")
  # The k-core: every user and item that is left has at least k interactions.
  enough = polars.all_horizontal(
    polars.len().over(column) >= source.core for column in ("user", "item")
  )
  before = None
  while source.core and len(rows) != before:
    before = len(rows)
    keep(rows.filter(enough), f"below {source.core}-core")
  tally.filtered = +tally.filtered  # drops reasons with a count of 0
  return rows
