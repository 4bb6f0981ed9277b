"""The in-memory form of an interaction log: a row per user, items in time order."""

from collections.abc import Iterable, Sequence
import dataclasses
import hashlib
from typing import Any, NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True)
class Interactions:
  """A log of U users, I items and E interactions in compressed rows.

  The items of user u are `item_E[offset_U1[u]:offset_U1[u + 1]]`, with repetitions.
  """

  offset_U1: np.ndarray  # [U + 1] int64, where each user's row starts
  item_E: np.ndarray  # [E] int32 catalogue indices, oldest first in each row
  user_ids: np.ndarray  # [U] raw user ids, as strings
  item_ids: np.ndarray  # [I] raw item ids, as strings: the catalogue
  # [E] int64 seconds since 1970, ascending in each row; None = only the order is known
  time_E: np.ndarray | None = None
  # [E] int32 microseconds beyond time_E, for `moment_E`; None = 0, or not known
  fraction_E: np.ndarray | None = None

  @property
  def num_users(self) -> int:
    return len(self.user_ids)

  @property
  def num_items(self) -> int:
    return len(self.item_ids)

  @property
  def length_U(self) -> np.ndarray:
    """[U] int64: interactions per user."""
    return np.diff(self.offset_U1)

  @property
  def user_E(self) -> np.ndarray:
    """[E] int32: the user of each interaction."""
    return np.repeat(np.arange(self.num_users, dtype=np.int32), self.length_U)

  @property
  def moment_E(self) -> np.ndarray | None:
    """[E] int64: microseconds since 1970, ascending in each row; None as for time_E."""
    if self.time_E is None:
      return None
    return self.time_E * 10**6 + (0 if self.fraction_E is None else self.fraction_E)

  def row(self, user: int) -> np.ndarray:
    """Returns the items of one user, oldest first."""
    return self.item_E[self.offset_U1[user] : self.offset_U1[user + 1]]


class Dataset(NamedTuple):
  """A log, its items' metadata and the synthetic shop's tastes; None = not known."""

  log: Interactions
  titles: list[str] | None
  tastes: Any  # synthetic.Tastes if the log is the synthetic shop's
  attributes: list[np.ndarray] | None  # per item, int64 numbers of attributes, from 0
  texts: list[str] | None  # per item, its title and other texts joined


def from_sequences(
  rows: Iterable[tuple[str, Sequence[str]]],
  *,
  times: Iterable[Sequence[int]] | None = None,
  seed: int = 0,
) -> Interactions:
  """Builds a log from pairs (raw user id, raw item ids in time order).

  Users and items are numbered in the order of a seeded hash of the raw id. Numbers in
  order of first appearance would leak the next item into ids made from the numbers, and
  into ties between equal scores. Runs are comparable only under the same seed.

  Args:
    rows: one pair per user.
    times: for each row, item times in seconds since 1970, ascending; None = unknown.
    seed: seeds the hash.
  """
  users, sequences = zip(*rows)
  flat = np.array([item for items in sequences for item in items], dtype=np.str_)
  raw_items, raw_item_E = np.unique(flat, return_inverse=True)
  order_I = hash_order(raw_items, seed)
  rank_I = np.argsort(order_I).astype(np.int32)
  raw_users = np.array(users, dtype=np.str_)
  length_U = np.array([len(items) for items in sequences], dtype=np.int64)
  time_E = None
  if times is not None:
    time_E = np.array([time for row in times for time in row], dtype=np.int64)
  log = Interactions(
    offset_U1=np.concatenate([[0], np.cumsum(length_U)]),
    item_E=rank_I[raw_item_E],
    user_ids=raw_users,
    item_ids=raw_items[order_I],
    time_E=time_E,
  )
  return keep_rows(log, hash_order(raw_users, seed))


def concatenate_rows(
  values: np.ndarray, start_R: np.ndarray, length_R: np.ndarray
) -> np.ndarray:
  """Concatenates `values[start_R[r] : start_R[r] + length_R[r]]` over all rows r."""
  shift_R = start_R - (np.cumsum(length_R) - length_R)
  return values[np.arange(length_R.sum()) + np.repeat(shift_R, length_R)]


def keep_rows(log: Interactions, keep_U: np.ndarray) -> Interactions:
  """Returns the log of the users that `keep_U` selects; the catalogue stays whole.

  `keep_U` is a bool mask, or the indices of the users in their new order.
  """
  kept = _rows(log, log.offset_U1[:-1][keep_U], log.length_U[keep_U])
  return dataclasses.replace(kept, user_ids=log.user_ids[keep_U])


def first_of_rows(log: Interactions, length_U: np.ndarray) -> Interactions:
  """Returns the log with the first `length_U[u]` interactions of every user u."""
  return _rows(log, log.offset_U1[:-1], length_U)


def without_items(log: Interactions, out_I: np.ndarray) -> Interactions:
  """Returns the log without interactions with items that are True in `out_I`.

  Users and catalogue stay the same.
  """
  keep_E = ~out_I[log.item_E]
  return dataclasses.replace(
    log,
    offset_U1=offsets_of_kept(log.offset_U1, keep_E),
    item_E=log.item_E[keep_E],
    **{name: time_E[keep_E] for name, time_E in _times(log).items()},
  )


def offsets_of_kept(offset_R1: np.ndarray, keep_E: np.ndarray) -> np.ndarray:
  """Returns R rows' offsets, [R + 1] int64, without the entries False in `keep_E`."""
  return np.concatenate([[0], np.cumsum(keep_E)])[offset_R1]


def tied(offset_R1: np.ndarray, time_E: np.ndarray) -> np.ndarray:
  """Marks entries with the time of another one of their row: [E] bool.

  `offset_R1` has R rows' offsets; times are ascending in each row.
  """
  is_new_E1 = np.ones(len(time_E) + 1, bool)
  is_new_E1[1:-1] = time_E[1:] != time_E[:-1]
  is_new_E1[offset_R1] = True
  return ~(is_new_E1[:-1] & is_new_E1[1:])


def _rows(log: Interactions, start_R, length_R) -> Interactions:
  """Returns the log with the rows that `concatenate_rows` selects; the ids stay."""
  times = {
    name: concatenate_rows(time_E, start_R, length_R)
    for name, time_E in _times(log).items()
  }
  return dataclasses.replace(
    log,
    offset_U1=np.concatenate([[0], np.cumsum(length_R)]),
    item_E=concatenate_rows(log.item_E, start_R, length_R),
    **times,
  )


def _times(log: Interactions) -> dict[str, Any]:
  """Returns the fields of `log` that hold its times, as far as they are known."""
  fields = {"time_E": log.time_E, "fraction_E": log.fraction_E}
  return {name: value_E for name, value_E in fields.items() if value_E is not None}


def hash_keys(raw_ids: Iterable[str], seed: int = 0) -> np.ndarray:
  """Hashes N raw ids with key `seed`; returns [N, 2] uint64, the high half first."""
  key = seed.to_bytes(8, "little", signed=True)
  digests = bytearray()  # takes a fifth of the memory of a list of digests
  for raw in raw_ids:
    digests += hashlib.blake2b(raw.encode(), digest_size=16, key=key).digest()
  return np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)


def hash_order(raw_ids: Iterable[str], seed: int = 0) -> np.ndarray:
  """Returns the indices that sort raw ids by their hash, see `hash_keys`."""
  key_N2 = hash_keys(raw_ids, seed)
  return np.lexsort((key_N2[:, 1], key_N2[:, 0]))
