"""Counts the rows that are kept, rejected or filtered, by reason."""

from collections import Counter
from collections.abc import Mapping
import dataclasses

from lightlm_jax.runtime.errors import UserError

# Reasons why a row is rejected as unreadable.
REJECTED = {
  "not_utf8": "bytes that are not UTF-8, or not of --encoding",
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
# Reasons why a readable row is filtered, as the flags demand.
FILTERED = {
  "event": "an event of another kind, by --keep",
  "low_rating": "a rating below --min_rating",
  "duplicate": "repeated, by --duplicates",
  "max_len": "older than the last --max_len of its user",
  "core": "a user or item with too few rows, by --k_core and --min_len",
}
SHOWN = 3  # examples that are kept of each reason


@dataclasses.dataclass
class Tally:
  """Counts of rows; the tallies of all parts add up to that of the log."""

  rows_in: int = 0
  rejected: Counter[str] = dataclasses.field(default_factory=Counter)
  filtered: Counter[str] = dataclasses.field(default_factory=Counter)
  # The first rejected rows of each reason, as (number of the file, line, text).
  examples: dict[str, list[tuple[int, int, str]]] = dataclasses.field(
    default_factory=dict
  )

  def __add__(self, other: "Tally") -> "Tally":
    """Returns the sum of two tallies, without reasons whose count is 0."""
    examples = {
      reason: sorted(self.examples.get(reason, []) + other.examples.get(reason, []))
      for reason in self.examples | other.examples
    }
    return Tally(
      self.rows_in + other.rows_in,
      self.rejected + Counter(other.rejected),  # it is a plain dict if from JSON
      self.filtered + Counter(other.filtered),
      {reason: rows[:SHOWN] for reason, rows in examples.items()},
    )

  def reject(self, reason: str, file: int, line: int, text: str) -> None:
    """Counts an unreadable row; call it in line order, as the first become examples."""
    self.rows_in += 1
    self.rejected[reason] += 1
    examples = self.examples.setdefault(reason, [])
    if len(examples) < SHOWN:
      examples.append((file, line, text[:80]))

  @property
  def left(self) -> int:
    """The number of rows neither rejected nor filtered."""
    return self.rows_in - self.rejected.total() - self.filtered.total()

  def check(self, rows: int, where: str) -> None:
    """Raises a RuntimeError naming the step `where` unless `rows` == `self.left`."""
    if rows != self.left:
      raise RuntimeError(
        f"{where}: {self.rows_in} rows came in, {self.rejected.total()} were rejected, "
        f"{self.filtered.total()} filtered, and {rows} are there: some were lost"
      )

  def check_any_left(self, paths: Mapping[int, str]) -> None:
    """Raises a UserError if no row is left; the error quotes the first rejected row."""
    if not self.left:
      shown = f" (the first: {self.first(paths)})" if self.examples else ""
      raise UserError(f"no row is left of {self.rows_in:,}: {self.reasons()}{shown}")

  def first(self, paths: Mapping[int, str]) -> str:
    """Returns the first rejected row, "FILE, line N: …"; `paths`: file index → path."""
    file, line, reason, text = min(
      (file, line, reason, text)
      for reason, examples in self.examples.items()
      for file, line, text in examples
    )
    return f"{paths[file]}, line {line}: {REJECTED[reason]}: {text!r}"

  def reasons(self) -> str:
    counts = {**self.rejected, **self.filtered}
    return ", ".join(f"{n:,} {reason}" for reason, n in counts.items()) or "empty"
