"""Groups the rows of a log by user: functions of tables, for either engine.

A log is divided into parts by a hash of the user, so that all rows of a user are in one
part. Within a part users are in the order of the keyed hash of their ids, as numbered
by `data/interactions.py`; shards are ranges of that hash.
"""

from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow

from lightlm_jax.data.interactions import concatenate_rows, hash_keys, offsets_of_kept
from lightlm_jax.preprocess.tally import Tally

DUPLICATES = ("keep", "exact", "first", "last")


class Policy(NamedTuple):
  """The filters of valid rows.

  Attributes:
    duplicates: "keep" all; "exact" = one per user, item and time; the "first" or
      "last" per user and item.
    max_len: number of a user's last rows to keep; 0 = all.
    timed: whether rows have times.
  """

  duplicates: str
  max_len: int
  timed: bool


class Users(NamedTuple):
  """Users in hash order, with their rows in time order.

  Attributes:
    key_U2: uint64, the hash.
    user_U: raw ids.
    offset_U1: int64, where each user's rows start.
    item_E: int32, numbers of items.
    time_E: int64 microseconds since 1970; None = unknown.
  """

  key_U2: np.ndarray
  user_U: pyarrow.Array
  offset_U1: np.ndarray
  item_E: np.ndarray
  time_E: np.ndarray | None

  def table(self) -> pyarrow.Table:
    """Returns a table with columns high, low, user, items and times."""
    offset = pyarrow.array(self.offset_U1)
    columns = {
      "high": pyarrow.array(self.key_U2[:, 0]),
      "low": pyarrow.array(self.key_U2[:, 1]),
      "user": self.user_U,
      "items": pyarrow.LargeListArray.from_arrays(offset, pyarrow.array(self.item_E)),
    }
    if self.time_E is not None:
      times = pyarrow.array(self.time_E)
      columns["times"] = pyarrow.LargeListArray.from_arrays(offset, times)
    return pyarrow.table(columns)


def users_of(table: pyarrow.Table) -> Users:
  """Returns the users of a table from `Users.table`, or of several concatenated."""
  table = table.combine_chunks()
  flat = {
    name: table[name].combine_chunks()
    for name in ("items", "times")
    if name in table.column_names
  }
  length_U = np.diff(np.asarray(flat["items"].offsets))
  return Users(
    np.stack([np.asarray(table[name]) for name in ("high", "low")], axis=1),
    table["user"].combine_chunks(),
    np.concatenate([[0], np.cumsum(length_U)]),
    np.asarray(flat["items"].flatten()),
    np.asarray(flat["times"].flatten()) if "times" in flat else None,
  )


def settle(rows: pyarrow.Table, policy: Policy) -> tuple[Users, pyarrow.Table, Tally]:
  """Returns the users of one part of the log.

  Rows of equal times are ordered by (file, line, place in the line).

  Args:
    rows: all rows of the part, from `rows.valid`, in any order.
    policy: the filters.

  Returns:
    The users, with items numbered within the part; the items as a table of `item` and
    `rows`; the tally of filtered rows and ties.
  """
  user_N, users = _encoded(rows["user"])
  item_N, items = _encoded(rows["item"])
  key_U2 = hash_keys(users.to_pylist())
  order_U = np.lexsort((key_U2[:, 1], key_U2[:, 0]))
  rank_U = np.empty_like(order_U)
  rank_U[order_U] = np.arange(len(order_U))
  rank_N = rank_U[user_N]
  time_N = np.asarray(rows["time"]) if policy.timed else np.zeros(len(rows), np.int64)

  order_N = _order(rows, time_N, rank_N)
  rank_N, item_N, time_N = rank_N[order_N], item_N[order_N], time_N[order_N]
  tally = Tally()
  keep_N = _distinct(rank_N, item_N, time_N, len(items), policy.duplicates)
  tally.filtered["duplicate"] = int((~keep_N).sum())
  rank_N, item_N, time_N = rank_N[keep_N], item_N[keep_N], time_N[keep_N]
  if policy.max_len:
    length_U = np.bincount(rank_N, minlength=len(users))
    from_end_N = np.cumsum(length_U)[rank_N] - np.arange(len(rank_N))
    keep_N = from_end_N <= policy.max_len
    tally.filtered["max_len"] = int((~keep_N).sum())
    rank_N, item_N, time_N = rank_N[keep_N], item_N[keep_N], time_N[keep_N]
  tally.filtered = +tally.filtered

  if policy.timed and len(rank_N):
    equal_N = (np.diff(rank_N) == 0) & (np.diff(time_N) == 0)
    tied_N = np.append(equal_N, False) | np.append(False, equal_N)
    tally.tied_rows = int(tied_N.sum())
    tally.tied_users = len(np.unique(rank_N[tied_N]))
  rows_I = np.bincount(item_N, minlength=len(items))
  number_I = np.cumsum(rows_I > 0) - 1
  catalogue = pyarrow.table({"item": items, "rows": rows_I}).filter(rows_I > 0)
  length_U = np.bincount(rank_N, minlength=len(users))
  found = Users(
    key_U2[order_U],
    users.take(pyarrow.array(order_U)),
    np.concatenate([[0], np.cumsum(length_U)]),
    number_I[item_N].astype(np.int32),
    time_N if policy.timed else None,
  )
  return found, catalogue, tally


def shard_bounds(users: Users, shards: int) -> np.ndarray:
  """Returns where the users of each shard begin, [shards + 1] int64."""
  shard_U = ((users.key_U2[:, 0] >> np.uint64(32)) * np.uint64(shards)) >> np.uint64(32)
  return np.searchsorted(shard_U, np.arange(shards + 1, dtype=np.uint64))


def remaining(users: Users, allowed_I: np.ndarray, min_len: int) -> np.ndarray:
  """Returns [E] bool: rows with allowed items, of users with enough such rows.

  Args:
    users: U users, E rows.
    allowed_I: bool, by item number.
    min_len: fewest rows of a user, at least 1.
  """
  keep_E = allowed_I[users.item_E]
  length_U = np.diff(offsets_of_kept(users.offset_U1, keep_E))
  return keep_E & np.repeat(length_U >= min_len, np.diff(users.offset_U1))


def cut(users: Users, keep_E: np.ndarray) -> Users:
  """Returns the users with only the rows of `keep_E`; users without any are dropped."""
  offset_U1 = offsets_of_kept(users.offset_U1, keep_E)
  keep_U = np.diff(offset_U1) > 0
  return Users(
    users.key_U2[keep_U],
    users.user_U.filter(pyarrow.array(keep_U)),
    np.append(offset_U1[:-1][keep_U], offset_U1[-1]),
    users.item_E[keep_E],
    None if users.time_E is None else users.time_E[keep_E],
  )


def in_order(users: Users) -> Users:
  """Returns users of several parts in hash order."""
  order_U = np.lexsort((users.key_U2[:, 1], users.key_U2[:, 0]))
  start_U, length_U = users.offset_U1[:-1][order_U], np.diff(users.offset_U1)[order_U]
  time_E = users.time_E
  return Users(
    users.key_U2[order_U],
    users.user_U.take(pyarrow.array(order_U)),
    np.concatenate([[0], np.cumsum(length_U)]),
    concatenate_rows(users.item_E, start_U, length_U),
    None if time_E is None else concatenate_rows(time_E, start_U, length_U),
  )


def _encoded(column: pyarrow.ChunkedArray) -> tuple[np.ndarray, pyarrow.Array]:
  """Returns the values as numbers, and the distinct values by number."""
  encoded = column.combine_chunks().dictionary_encode()
  if isinstance(encoded, pyarrow.ChunkedArray):
    encoded = encoded.combine_chunks()
  return np.asarray(encoded.indices), encoded.dictionary


def _order(rows: pyarrow.Table, time_N, rank_N) -> np.ndarray:
  """Returns the order by user, time, file, line and place, [N]."""
  file_N, line_N, place_N = (np.asarray(rows[n]) for n in ("file", "line", "place"))
  if _ascends(file_N, line_N, place_N):
    # The sort is stable: rows in reading order need no further keys.
    return np.lexsort((time_N, rank_N))
  return np.lexsort((place_N, line_N, file_N, time_N, rank_N))


def _ascends(*columns: np.ndarray) -> bool:
  """Returns whether rows are in lexicographic order of these columns."""
  decided_N = np.zeros(max(0, len(columns[0]) - 1), bool)
  for column_N in columns:
    step_N = np.diff(column_N)
    if (~decided_N & (step_N < 0)).any():
      return False
    decided_N |= step_N > 0
  return True


def _distinct(rank_N, item_N, time_N, items: int, duplicates: str) -> np.ndarray:
  """Returns [N] bool: the rows that the policy keeps."""
  if duplicates == "keep":
    return np.ones(len(rank_N), bool)
  pair = pl.Series("pair", rank_N.astype(np.int64) * items + item_N)
  if duplicates == "first":
    return pair.is_first_distinct().to_numpy()
  if duplicates == "last":
    return pair.is_last_distinct().to_numpy()
  frame = pl.DataFrame({"pair": pair, "time": time_N})
  return (
    frame.select(pl.struct("pair", "time").is_first_distinct()).to_series().to_numpy()
  )
