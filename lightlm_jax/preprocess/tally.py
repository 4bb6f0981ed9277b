"""What became of every row: kept, rejected or filtered, each under a name."""

from collections import Counter
from collections.abc import Mapping
import dataclasses
from typing import Any

from lightlm_jax.runtime.errors import UserError

# A row that could not be read, by reason.
REJECTED = {
  "not_utf8": "bytes that are not UTF-8",
  "nul": "a user or item id that holds a NUL",
  "too_long": "a line or an id that is too long",
  "quotes": "quotes that do not match",
  "columns": "another number of columns than the first line",
  "not_json": "not a JSON object",
  "no_user": "no user id (text or whole number)",
  "no_item": "no item id (text or whole number)",
  "bad_time": "no time, or none of the unit that the log is in",
  "bad_rating": "no rating, or no number",
}
# A row that was read and then left out, as the flags say.
FILTERED = {
  "low_rating": "a rating below --min_rating",
  "duplicate": "repeated, by --duplicates",
  "max_len": "older than the last --max_len of its user",
  "core": "a user or item with too few rows, by --k_core and --min_len",
}
SHOWN = 3  # examples of each reason


@dataclasses.dataclass
class Rejected:
  """Rows of a file that could not be read: all counted, a few kept to be shown."""

  counts: Counter = dataclasses.field(default_factory=Counter)
  shown: dict[str, list[tuple[int, str]]] = dataclasses.field(default_factory=dict)

  def add(self, reason: str, line: int, text: str) -> None:
    self.counts[reason] += 1
    shown = self.shown.setdefault(reason, [])
    if len(shown) < SHOWN:
      shown.append((int(line), text[:80]))

  def total(self) -> int:
    return self.counts.total()


@dataclasses.dataclass
class Tally:
  """Counts of rows; tallies of parts of a log add up to the log's."""

  rows_in: int = 0
  rejected: Counter = dataclasses.field(default_factory=Counter)
  filtered: Counter = dataclasses.field(default_factory=Counter)
  # Of each reason the first ones as (file's number, line, text).
  examples: dict[str, list[tuple[int, int, str]]] = dataclasses.field(
    default_factory=dict
  )
  tied_rows: int = 0  # with the time of another row of the user
  tied_users: int = 0

  def __add__(self, other: "Tally") -> "Tally":
    examples = {
      reason: sorted(
        self.examples.get(reason, []) + other.examples.get(reason, []),
      )[:SHOWN]
      for reason in self.examples | other.examples
    }
    return Tally(
      self.rows_in + other.rows_in,
      self.rejected + other.rejected,
      self.filtered + other.filtered,
      examples,
      self.tied_rows + other.tied_rows,
      self.tied_users + other.tied_users,
    )

  @property
  def left(self) -> int:
    """Rows that have neither been rejected nor filtered."""
    return self.rows_in - self.rejected.total() - self.filtered.total()

  def check(self, rows: int, where: str) -> None:
    """Rows in = rows here + rows rejected + rows filtered, or this is our bug."""
    if rows != self.left:
      raise RuntimeError(
        f"{where}: {self.rows_in} rows came in, {self.rejected.total()} were rejected, "
        f"{self.filtered.total()} filtered, and {rows} are there: some were lost"
      )


def of_rejected(rows_in: int, file: int, rejected: Rejected) -> Tally:
  """The tally of a part of a file."""
  examples = {
    reason: [(file, line, text) for line, text in shown]
    for reason, shown in rejected.shown.items()
  }
  return Tally(rows_in, Counter(rejected.counts), examples=examples)


def first(tally: Tally, paths: Mapping[int, str]) -> str | None:
  """The first rejected row, as "FILE, line N: why: text"; None where there is none."""
  found = [
    (file, line, reason, text)
    for reason, examples in tally.examples.items()
    for file, line, text in examples
  ]
  if not found:
    return None
  file, line, reason, text = min(found)
  return f"{paths[file]}, line {line}: {REJECTED[reason]}: {text!r}"


def refuse(tally: Tally, paths: Mapping[int, str]) -> None:
  """Ends with the first rejected row.

  Raises:
    UserError: always.
  """
  raise UserError(
    f"{first(tally, paths)}; without --strict such rows are counted and left out"
  )


def to_json(tally: Tally) -> dict[str, Any]:
  # Not `asdict`, which makes its keys of a Counter's pairs.
  counters = {"rejected": dict(tally.rejected), "filtered": dict(tally.filtered)}
  return vars(tally) | counters


def from_json(value: dict[str, Any]) -> Tally:
  examples = {k: [tuple(e) for e in v] for k, v in value["examples"].items()}
  counters = {k: Counter(value[k]) for k in ("rejected", "filtered")}
  return Tally(**value | counters | {"examples": examples})
