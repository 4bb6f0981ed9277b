"""Reads raw files into a log: parsing, filtering, sorting, and counts of all lines."""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator
import dataclasses
from typing import Any, NamedTuple, TypeVar
import warnings

from etils import epath
import numpy as np

from lightlm_jax.data.published.raw_files import RawFile, read_lines
from lightlm_jax.data.published.raw_rows import Item, Malformed
from lightlm_jax.data.published.sources import Counts, Source
from lightlm_jax.runtime.errors import UserError

SHOWN = 5  # rejected lines of a file that are reported by number

Record = TypeVar("Record")


@dataclasses.dataclass
class Tally:
  """Counts of a file's lines: lines = kept + filtered + rejected.

  Unreadable lines are rejected; readable ones that do not count are filtered.
  """

  lines: int = 0
  kept: int = 0
  filtered: Counter = dataclasses.field(default_factory=Counter)
  rejected: Counter = dataclasses.field(default_factory=Counter)
  first: list[str] = dataclasses.field(default_factory=list)  # of the rejected

  def to_json(self) -> dict[str, Any]:
    # dataclasses.asdict breaks a Counter.
    return {n: dict(v) if isinstance(v, Counter) else v for n, v in vars(self).items()}

  @classmethod
  def of_json(cls, value: dict[str, Any]) -> "Tally":
    counters: dict[str, Any] = {n: Counter(value[n]) for n in ("filtered", "rejected")}
    return cls(**value | counters)

  def __str__(self) -> str:
    """Returns the number of rejected lines, their reasons, and the first of them."""
    reasons = ", ".join(f"{n:,} {why}" for why, n in self.rejected.most_common())
    return (
      f"{self.rejected.total():,} of {self.lines:,} lines cannot be read ({reasons}; "
      f"{', '.join(self.first)})"
    )


class Log(NamedTuple):
  """U users, I items and E interactions; ids in the order of first appearance.

  Attributes:
    user_ids: [U] raw ids.
    item_ids: [I] raw ids.
    offset_U1: [U + 1] int64, where each user's row starts.
    item_E: [E] int32, oldest first in each row; ties in file order.
    rating_E: [E] float32.
    time_E: [E] int64, seconds since 1970.
  """

  user_ids: list[str]
  item_ids: list[str]
  offset_U1: np.ndarray
  item_E: np.ndarray
  rating_E: np.ndarray
  time_E: np.ndarray

  @property
  def counts(self) -> Counts:
    return Counts(len(self.user_ids), len(self.item_ids), len(self.item_E))


def read_log(source: Source, path: epath.Path) -> tuple[Log, Tally, int]:
  """Reads and filters the ratings of a source.

  Returns:
    The log; the tally of the lines; the number of interactions that have the same time
    as another one of their user, so that the order of the file decides.

  Raises:
    UserError: the file is damaged, or is not the published one.
  """
  tally, user_of, item_of = Tally(), {}, {}
  user, item, time = array("i"), array("i"), array("q")
  rating = array("f")
  for line in _records(source.ratings, path, source.rating, tally):
    user.append(user_of.setdefault(line.user, len(user_of)))
    item.append(item_of.setdefault(line.item, len(item_of)))
    time.append(line.time)
    rating.append(line.rating)
  if not user:
    why = tally if tally.rejected else "it is empty"
    raise UserError(f"{path} is not {source.about}: {why}; fetch it again")
  rows = [np.array(column) for column in (user, item, rating, time)]
  rows = _filtered(source, rows, tally)
  log, tied = _in_order(source, rows, list(user_of), list(item_of))
  tally.kept = len(log.item_E)
  if not tally.kept:
    raise UserError(f"{path}: no interaction is left of {source.about}: {_left(tally)}")
  return log, tally, tied


def check(source: Source, log: Log, tally: Tally, path: epath.Path) -> None:
  """Checks the size of a log against the published one, if known.

  Raises:
    UserError: they differ; the message has both.
  """
  if source.published in (None, log.counts):
    return
  rejected = f"; {tally}" if tally.rejected else ""
  raise UserError(
    f"{path} is not the {source.name} that was published: after filtering it has "
    f"{log.counts} interactions, the published one {source.published}{rejected}; "
    "fetch it again, or use it as a log of your own, under another name"
  )


def read_items(
  source: Source, path: epath.Path, wanted: list[str]
) -> tuple[dict[str, Item], Tally]:
  """Reads the metadata of the wanted items, by their raw ids.

  Raises:
    UserError: the file is damaged, or has none of them.
  """
  tally, found, of_log = Tally(), {}, set(wanted)
  for said in _records(source.items, path, source.item, tally):
    if said.item not in of_log:
      tally.filtered["not in the log"] += 1
    elif said.item in found:
      tally.filtered["named before"] += 1
    else:
      found[said.item] = said
      tally.kept += 1
  if not found:
    rejected = f"; {tally}" if tally.rejected else ""
    raise UserError(
      f"{path} names none of the {len(of_log):,} items of {source.name}{rejected}; "
      "remove it and fetch it again"
    )
  return found, tally


def k_core(user_E: np.ndarray, item_E: np.ndarray, k: int) -> np.ndarray:
  """Returns the k-core, [E] bool: every user and item left has k interactions."""
  keep_E = np.ones(len(user_E), bool)
  while True:
    few_E = np.bincount(user_E[keep_E], minlength=user_E.max() + 1)[user_E] < k
    few_E |= np.bincount(item_E[keep_E], minlength=item_E.max() + 1)[item_E] < k
    if not (keep_E & few_E).any():
      return keep_E
    keep_E &= ~few_E


def _records(
  raw: RawFile, path: epath.Path, parse: Callable[[bytes], Record | None], tally: Tally
) -> Iterator[Record]:
  """Yields the records of a file; other lines are counted in the tally."""
  with warnings.catch_warnings():
    # Python's parser warns of invalid escapes, which some sources have.
    warnings.simplefilter("ignore", SyntaxWarning)
    warnings.simplefilter("ignore", DeprecationWarning)
    for line in read_lines(raw, path):
      tally.lines += 1
      try:
        if line is None:
          raise Malformed("too long")
        said = parse(line) if line.strip() else None
      except Malformed as error:
        tally.rejected[str(error)] += 1
        if len(tally.first) < SHOWN:
          tally.first.append(f"line {tally.lines}: {error}")
        continue
      if said is None:
        tally.filtered["names or nothing"] += 1
      else:
        yield said


def _filtered(source: Source, rows, tally: Tally):
  """Returns the rows that pass the source's filters, in file order."""
  user_E, item_E, rating_E, time_E = rows

  def keep(keep_E, why):
    nonlocal user_E, item_E, rating_E, time_E
    if not keep_E.all():
      tally.filtered[why] += int((~keep_E).sum())
      user_E, item_E = user_E[keep_E], item_E[keep_E]
      rating_E, time_E = rating_E[keep_E], time_E[keep_E]

  if source.first_time is not None:
    keep(time_E >= source.first_time * source.ticks, "too early")
  if source.last_time is not None:
    keep(time_E <= source.last_time * source.ticks, "too late")
  if source.once:
    earliest_E = np.argsort(time_E, kind="stable")
    pair_E = user_E.astype(np.int64) << 32 | item_E
    _, place = np.unique(pair_E[earliest_E], return_index=True)
    keep_E = np.zeros(len(user_E), bool)
    keep_E[earliest_E[place]] = True
    keep(keep_E, "rated before")
  if source.core and len(user_E):
    keep(k_core(user_E, item_E, source.core), f"below {source.core}-core")
  return user_E, item_E, rating_E, time_E


def _in_order(source: Source, rows, users, items):
  """Returns the log of the rows, and the number of rows tied in time."""
  user_E, item_E, rating_E, time_E = rows
  users_U, user_E = np.unique(user_E, return_inverse=True)
  items_I, item_E = np.unique(item_E, return_inverse=True)
  order_E = np.lexsort((time_E, user_E))  # stable: ties keep the file order
  user_E, time_E = user_E[order_E], time_E[order_E]
  as_before = (np.diff(user_E) == 0) & (np.diff(time_E) == 0)
  tied_E = np.append(as_before, False) | np.insert(as_before, 0, False)
  length_U = np.bincount(user_E, minlength=len(users_U))
  log = Log(
    user_ids=[users[user] for user in users_U],
    item_ids=[items[item] for item in items_I],
    offset_U1=np.concatenate([[0], np.cumsum(length_U)]),
    item_E=item_E[order_E].astype(np.int32),
    rating_E=rating_E[order_E].astype(np.float32),
    time_E=time_E // source.ticks,
  )
  return log, int(tied_E.sum())


def _left(tally: Tally) -> str:
  return ", ".join(f"{n:,} {why}" for why, n in tally.filtered.items())
