"""Groups the rows of a log by user; both engines use these functions.

A hash of the user divides a log into parts, so that all rows of a user are in one part.
Users in a part are sorted by another hash of their ids, `hash_keys`, as in
data/interactions.py; each shard of the output is a range of this second hash.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow

from lightlm_jax.data.interactions import hash_keys, offsets_of_kept
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.tally import Tally

# For each value of --duplicates the rows that are kept, as a polars expression.
DUPLICATES = {
  "keep": pl.lit(True),
  "exact": pl.struct("user", "item", "time").is_first_distinct(),
  "first": pl.struct("user", "item").is_first_distinct(),
  "last": pl.struct("user", "item").is_last_distinct(),
  # Directly repeated: what a person views, puts into the cart and buys is one intent.
  "adjacent": (
    pl.struct("user", "item") != pl.struct("user", "item").shift(1)
  ).fill_null(True),
}
# For each value of --ties the order of a user's rows of equal times.
TIES = {
  "hash": "the order of a hash of user and item",
  "file": "the order of the files",
}
# Key of the hash that orders ties; differs from the key that numbers users and items.
TIES_SEED = 2


class Users(NamedTuple):
  """U users sorted by the hash of their ids, with their E rows in time order."""

  key_U2: np.ndarray  # uint64, hash of the id, the high half first
  user_U: pyarrow.Array  # raw ids
  offset_U1: np.ndarray  # int64, where each user's rows start
  item_E: np.ndarray  # int32, numbers of items
  time_E: np.ndarray | None  # int64 microseconds since 1970; None = unknown

  def table(self) -> pyarrow.Table:
    """Returns a table: high and low half of the hash, user, items, times if known."""
    columns = {"high": self.key_U2[:, 0], "low": self.key_U2[:, 1], "user": self.user_U}
    for name, value_E in (("items", self.item_E), ("times", self.time_E)):
      if value_E is not None:
        columns[name] = pyarrow.LargeListArray.from_arrays(self.offset_U1, value_E)
    return pyarrow.table(columns)


def users_of(table: pyarrow.Table) -> Users:
  """Returns the users in a table: the inverse of `Users.table`."""
  columns = {name: table[name].combine_chunks() for name in table.column_names}
  items, times = columns["items"], columns.get("times")
  length_U = np.diff(np.asarray(items.offsets))
  return Users(
    np.stack([np.asarray(columns[name]) for name in ("high", "low")], axis=1),
    columns["user"],
    np.concatenate([[0], np.cumsum(length_U)]),
    np.asarray(items.flatten()),
    None if times is None else np.asarray(times.flatten()),
  )


def settle(rows: pyarrow.Table, options: Options) -> tuple[Users, pyarrow.Table, Tally]:
  """Groups the rows of one part of the log by user, and sorts them by time.

  Rows may come in any order; at equal times they are sorted by a hash of the raw user
  and item, if `options.ties` says so and the user has no row of a list, then by (file,
  line, place). As `options` say, duplicates are dropped, then rows before a user's last
  `max_len`.

  Returns:
    The users, with items numbered within the part; a table of the items with columns
    `item` (raw id) and `rows` (count); the tally of filtered rows.
  """
  user_N, users = _encoded(rows["user"])
  item_N, items = _encoded(rows["item"])
  key_U2 = hash_keys(users.to_pylist())
  order_U = np.lexsort((key_U2[:, 1], key_U2[:, 0]))
  frame = pl.DataFrame(rows.drop_columns(["user", "item"])).with_columns(
    user=pl.Series(np.argsort(order_U)[user_N]), item=pl.Series(item_N)
  )
  frame = frame.sort("user", "time", "file", "line", "place")
  if options.time_unit and options.ties == "hash":
    frame = frame[_ties_by_hash(frame, key_U2[order_U, 1], items)]

  distinct = kept = frame.filter(DUPLICATES[options.duplicates])
  if options.max_len:
    kept = distinct.group_by("user", maintain_order=True).tail(options.max_len)
  duplicates, older = len(frame) - len(distinct), len(distinct) - len(kept)
  tally = Tally(filtered=Counter(duplicate=duplicates, max_len=older))
  rows_I = np.bincount(kept["item"].to_numpy(), minlength=len(items))
  length_U = np.bincount(kept["user"].to_numpy(), minlength=len(users))
  found = Users(
    key_U2[order_U],
    users.take(pyarrow.array(order_U)),
    np.concatenate([[0], np.cumsum(length_U)]),
    kept["item"].to_numpy(),
    kept["time"].to_numpy() if options.time_unit else None,
  )
  return found, pyarrow.table({"item": items, "rows": rows_I}), tally


def _ties_by_hash(
  frame: pl.DataFrame, key_U: np.ndarray, items: pyarrow.Array
) -> np.ndarray:
  """Returns the order of sorted rows in which a hash breaks ties, int64 indices.

  The hash is of user and item. The items of a list have an order of their own: users
  with a row of one keep theirs. `key_U` are the users' hashes, uint64.
  """
  same = (pl.col("user") == pl.col("user").shift(1)) & (
    pl.col("time") == pl.col("time").shift(1)
  )
  same_E = frame.select(same.fill_null(False)).to_series().to_numpy()
  tied_E = same_E | np.append(same_E[1:], False)
  order_E = np.arange(len(frame))
  user_E = frame["user"].to_numpy()
  listed_U = np.zeros(len(key_U), bool)
  listed_U[user_E[frame["place"].to_numpy() > 0]] = True
  tied_T = np.flatnonzero(tied_E & ~listed_U[user_E])
  # Only items of tied rows are hashed: most logs have few.
  item_N, item_T = np.unique(frame["item"].to_numpy()[tied_T], return_inverse=True)
  raw = items.take(pyarrow.array(item_N)).to_pylist()
  key_N = hash_keys(raw, TIES_SEED)[:, 0] if raw else np.zeros(0, np.uint64)
  # Multiplication by an odd number permutes the items' keys, for each user anew.
  tie_T = (key_U | np.uint64(1))[user_E[tied_T]] * key_N[item_T]
  group_T = np.cumsum(~same_E)[tied_T]
  order_E[tied_T] = tied_T[np.lexsort((tie_T, group_T))]
  return order_E


def shard_bounds(users: Users, shards: int) -> np.ndarray:
  """Returns each shard's first user index, then the user count: [shards + 1] int64."""
  shard_U = ((users.key_U2[:, 0] >> np.uint64(32)) * np.uint64(shards)) >> np.uint64(32)
  return np.searchsorted(shard_U, np.arange(shards + 1, dtype=np.uint64))


def remaining(users: Users, allowed_I: np.ndarray, min_len: int) -> np.ndarray:
  """Marks the rows of allowed items whose user has at least `min_len` such rows.

  Returns [E] bool for the E rows of `users`; `allowed_I` is [I] bool, by item.
  """
  keep_E = allowed_I[users.item_E]
  length_U = np.diff(offsets_of_kept(users.offset_U1, keep_E))
  return keep_E & np.repeat(length_U >= min_len, np.diff(users.offset_U1))


def cut(users: Users, keep_E: np.ndarray) -> Users:
  """Keeps only the rows that `keep_E` marks, and only users that still have a row."""
  offset_U1 = offsets_of_kept(users.offset_U1, keep_E)
  keep_U = np.diff(offset_U1) > 0
  return Users(
    users.key_U2[keep_U],
    users.user_U.filter(pyarrow.array(keep_U)),
    np.append(offset_U1[:-1][keep_U], offset_U1[-1]),
    users.item_E[keep_E],
    None if users.time_E is None else users.time_E[keep_E],
  )


def _encoded(column: pyarrow.ChunkedArray) -> tuple[np.ndarray, pyarrow.Array]:
  """Returns each value's index in an array of distinct values, and that array."""
  encoded = column.combine_chunks().dictionary_encode()
  return np.asarray(encoded.indices), encoded.dictionary
