"""Counts of rows that are kept, rejected or filtered, by reason."""

from collections import Counter
from collections.abc import Mapping
import dataclasses
from typing import Any

from lightlm_jax.runtime.errors import UserError

# Reasons why a row is rejected as unreadable.
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
# Reasons why flags filter a readable row.
FILTERED = {
  "low_rating": "a rating below --min_rating",
  "duplicate": "repeated, by --duplicates",
  "max_len": "older than the last --max_len of its user",
  "core": "a user or item with too few rows, by --k_core and --min_len",
}
SHOWN = 3  # examples of each reason


@dataclasses.dataclass
class Rejected:
  """Unreadable rows of a file: counts by reason, and a few examples."""

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
  """Counts of rows; the tallies of all parts add up to that of the log."""

  rows_in: int = 0
  rejected: Counter = dataclasses.field(default_factory=Counter)
  filtered: Counter = dataclasses.field(default_factory=Counter)
  # The first ones of each reason, as (number of the file, line, text).
  examples: dict[str, list[tuple[int, int, str]]] = dataclasses.field(
    default_factory=dict
  )
  tied_rows: int = 0  # with the same time as another row of the user
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
    """The number of rows neither rejected nor filtered."""
    return self.rows_in - self.rejected.total() - self.filtered.total()

  def check(self, rows: int, where: str) -> None:
    """Raises RuntimeError unless `rows` is the number of rows left."""
    if rows != self.left:
      raise RuntimeError(
        f"{where}: {self.rows_in} rows came in, {self.rejected.total()} were rejected, "
        f"{self.filtered.total()} filtered, and {rows} are there: some were lost"
      )


def of_rejected(rows_in: int, file: int, rejected: Rejected) -> Tally:
  """Returns the tally of a part of a file."""
  examples = {
    reason: [(file, line, text) for line, text in shown]
    for reason, shown in rejected.shown.items()
  }
  return Tally(rows_in, Counter(rejected.counts), examples=examples)


def first(tally: Tally, paths: Mapping[int, str]) -> str | None:
  """Returns the first rejected row as "FILE, line N: why: text", or None."""
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
  """Raises an error with the first rejected row.

  Raises:
    UserError: always.
  """
  raise UserError(
    f"{first(tally, paths)}; without --strict such rows are counted and left out"
  )


def to_json(tally: Tally) -> dict[str, Any]:
  # Not `asdict`, which breaks a Counter.
  counters = {"rejected": dict(tally.rejected), "filtered": dict(tally.filtered)}
  return vars(tally) | counters


def from_json(value: dict[str, Any]) -> Tally:
  examples: dict[str, Any] = {
    k: [tuple(e) for e in v] for k, v in value["examples"].items()
  }
  counters: dict[str, Any] = {k: Counter(value[k]) for k in ("rejected", "filtered")}
  fields: dict[str, Any] = value | counters | {"examples": examples}
  return Tally(**fields)
