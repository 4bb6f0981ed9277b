"""Converts queries by raw ids to requests by index, and warns of what is left out.

A user's history is everything that the log has of them, held-out items included,
because recommendations are about the future. A history in the query replaces it.
"""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import json
from typing import NamedTuple

from etils import epath
import numpy as np

from lightlm_jax.data import datasets, formats
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import System

SHOWN = 5  # most users that a warning names


class IdIndex(NamedTuple):
  """A log, and the indices of users and items by raw id."""

  log: Interactions
  users: dict[str, int]
  items: dict[str, int]


class Queries(NamedTuple):
  """N requests, and the users and items that had to be left out."""

  requests: Requests  # targets are -1; the user is -1 if not in the log
  names: np.ndarray  # [N] str, the users' names in the output
  unknown: tuple[str, ...] = ()  # users neither in the log nor with a history
  empty: tuple[str, ...] = ()  # users whose given history has no item of the catalogue
  dropped: int = 0  # number of history items that are not in the catalogue
  dropped_of: tuple[str, ...] = ()  # the users whose items they are


def id_index(log: Interactions) -> IdIndex:
  users, items = (
    {raw: index for index, raw in enumerate(ids.tolist())}
    for ids in (log.user_ids, log.item_ids)
  )
  return IdIndex(log, users, items)


def select(
  index: IdIndex,
  users: Iterable[str] | None,
  histories: Iterable[tuple[str, Sequence[str] | None]] | None,
) -> Queries:
  """Builds queries for `users` if given, else for `histories`, else for all users."""
  if users is not None:
    return of_users(index, users)
  if histories is not None:
    return of_histories(index, histories)
  return everyone(index.log)


def everyone(log: Interactions) -> Queries:
  """Builds queries for all users of the log, in the order of their raw ids."""
  return _of_log(log, np.argsort(log.user_ids, kind="stable"))


def of_users(index: IdIndex, names: Iterable[str]) -> Queries:
  """Builds a query per name in the log, in order; `unknown` lists the other names."""
  names = list(dict.fromkeys(names))
  unknown = tuple(name for name in names if name not in index.users)
  user_N = [index.users[name] for name in names if name in index.users]
  queries = _of_log(index.log, np.array(user_N, np.int64))
  return queries._replace(unknown=unknown)


def of_histories(
  index: IdIndex, rows: Iterable[tuple[str, Sequence[str] | None]]
) -> Queries:
  """Builds queries for users with given histories, which replace those in the log.

  A row is (name, raw item ids); the oldest item is first. Ids None = the log's history.
  """
  log = index.log
  names, users, histories, unknown, empty, dropped_of = [], [], [], [], [], []
  dropped = 0
  for name, items in rows:
    user = index.users.get(name, -1)
    if items is None and user >= 0:
      history = log.row(user)
    else:
      history = [index.items[item] for item in items or () if item in index.items]
      if lost := len(items or ()) - len(history):
        dropped += lost
        dropped_of.append(name)
    if not len(history):
      (empty if items else unknown).append(name)
      continue
    names.append(name)
    users.append(user)
    histories.append(np.asarray(history, np.int32))
  requests = Requests(
    user_N=np.array(users, np.int32),
    offset_N1=np.cumsum([0, *map(len, histories)], dtype=np.int64),
    item_E=np.concatenate([*histories, np.zeros(0, np.int32)], dtype=np.int32),
    target_N=np.full(len(names), -1, np.int32),
  )
  raw = np.array(names, np.str_)
  queries = Queries(requests, raw, tuple(unknown), tuple(empty))
  return queries._replace(dropped=dropped, dropped_of=tuple(dropped_of))


def take(queries: Queries, index_N: np.ndarray) -> Queries:
  requests = queries.requests.take(index_N)
  return queries._replace(requests=requests, names=queries.names[index_N])


def digest(queries: Queries) -> str:
  """Returns the SHA-256 of the users and their histories."""
  requests = queries.requests
  found = hashlib.sha256("\n".join(queries.names.tolist()).encode())
  for array in (requests.user_N, requests.offset_N1, requests.item_E):
    found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def check(queries: Queries) -> list[str]:
  """Returns warnings of what is left out; raises a UserError if no request is left."""
  lines = [
    *_named(queries.unknown, "not in the log, and without a history"),
    *_named(queries.empty, "without an item of the catalogue in the history given"),
  ]
  if not len(queries.requests):
    raise UserError(
      f"{'; '.join(lines) or 'no user is asked for'}; give users of the log, or "
      'histories: --history=ITEM,ITEM, or --histories=FILE with lines {"user": …, '
      '"history": […]}'
    )
  lines = [f"{line}: left out" for line in lines]
  if queries.dropped:
    lines.append(
      f"items of histories that are not in the catalogue: {queries.dropped:,} dropped, "
      f"of {_shown(queries.dropped_of)}"
    )
  return lines


def notes(queries: Queries, lost: Sequence[str], system: System) -> list[str]:
  """Returns warnings of `lost`, the ids that were ignored, and of new users.

  New users are mentioned only if `system` reads no histories: all get the same list.
  """
  lines = []
  if lost:
    lines.append(
      f"ids of the lists that are not in the catalogue: {len(lost):,} ignored "
      f"({_shown(lost)})"
    )
  new = int((queries.requests.user_N < 0).sum())
  if new and system.max_history == 0:
    lines.append(
      f"{system.name} reads no history here: {new:,} new users get the list of "
      "an unknown user"
    )
  return lines


def left_without(names: np.ndarray, items_NK: np.ndarray) -> list[str]:
  """Returns warnings about users without items: their rows of `items_NK` are all -1."""
  alone = names[(items_NK < 0).all(axis=1)].tolist()
  return _named(alone, "left without any item that may be recommended")


def allowed_items(
  index: IdIndex, allow: Iterable[str] | None, deny: Iterable[str] | None
) -> tuple[np.ndarray | None, list[str]]:
  """Returns which items may be recommended, and the ids that are not in the catalogue.

  `allow`: raw ids of the only items to recommend, None = all; `deny`: raw ids to leave
  out, None = none. The first result is bool [I], None = all items. Raises a UserError
  if no item is left.
  """
  if allow is None and deny is None:
    return None, []
  allowed_I = np.full(len(index.items), allow is None)
  lost = []
  for ids, is_allowed in ((allow, True), (deny, False)):
    given = list(dict.fromkeys(ids or ()))
    known = [index.items[raw] for raw in given if raw in index.items]
    allowed_I[known] = is_allowed
    lost += [raw for raw in given if raw not in index.items]
  if not allowed_I.any():
    named = f": {_shown(lost)}" if lost else ""
    raise UserError(
      f"the lists leave none of the {len(allowed_I):,} items to recommend "
      f"({len(lost):,} of their ids are not in the catalogue{named}); allow other "
      "items, or deny fewer"
    )
  return allowed_I, lost


def read_ids(flag: str, given: str) -> list[str]:
  """Returns raw ids from a flag's value `given`: "A,B", or a file with an id per line.

  An id may look like a path: only a file that exists is read as one. Raises a
  UserError, which names `flag`, if there is no id.
  """
  path = _existing(given)
  if path is not None and not path.is_dir():
    found = [line.strip() for line in formats.read_lines(path)]
  else:
    found = [word.strip() for word in given.split(",")]
  found = [word for word in found if word]
  if not found:
    raise UserError(f"--{flag}={given} has no ids; give ids (A,B) or a file of them")
  return found


def read_optional_ids(flag: str, given: str | None) -> list[str] | None:
  """Returns the ids that `read_ids` reads; None if the flag is not given."""
  return None if given is None else read_ids(flag, given)


def read_histories(file: epath.PathLike) -> Iterator[tuple[str, list[str] | None]]:
  """Yields (user, history or None) from JSON Lines: {"user": …, "history": […]}.

  A folder is a log, such as `prepare` wrote: every user has all their items. Raises a
  UserError with the line's number for another form or a repeated user.
  """
  path = _existing(file)
  if path is None:
    raise UserError(
      f'{file} does not exist; give lines {{"user": …, "history": […]}}, or the folder '
      "of a prepared log"
    )
  if path.is_dir():
    yield from datasets.read_rows(path)
    return
  seen = {}
  for number, line in enumerate(formats.read_lines(path), start=1):
    if not line.strip():
      continue
    where = f"{path}, line {number}"
    try:
      row = json.loads(line)
      user, given = _raw(row["user"]), row.get("history")
      if given is not None and type(given) is not list:
        raise TypeError("a history is a list")
      items = None if given is None else [_raw(item) for item in given]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
      raise UserError(
        f'{where}: {line[:60]!r} is not {{"user": …, "history": […]}} with ids that '
        "are texts or whole numbers"
      )
    if user in seen:
      raise UserError(
        f"{where}: user {user!r} already stands in line {seen[user]}; write each once, "
        "with the whole history, oldest first"
      )
    seen[user] = number
    yield user, items


def _named(names: Sequence[str], what: str) -> list[str]:
  """Returns a line that counts and names users and says `what` they are; [] if none."""
  if not names:
    return []
  users = "user is" if len(names) == 1 else "users are"
  return [f"{len(names):,} {users} {what} ({_shown(names)})"]


def _shown(names: Sequence[str]) -> str:
  shown = ", ".join(map(repr, names[:SHOWN]))
  return f"{shown} and {len(names) - SHOWN:,} more" if len(names) > SHOWN else shown


def _raw(value: object) -> str:
  if type(value) not in (str, int):
    raise TypeError(f"{value!r} is no id")
  str(value).encode()  # raises for a lone surrogate
  return str(value)


def _of_log(log: Interactions, user_N: np.ndarray) -> Queries:
  """Builds queries for the users at these indices, with their histories in the log."""
  user_U = np.arange(log.num_users, dtype=np.int32)
  requests = Requests(user_U, log.offset_U1, log.item_E, np.full_like(user_U, -1))
  return take(Queries(requests, log.user_ids), user_N)


def _existing(given: epath.PathLike) -> epath.Path | None:
  """Returns the path of a file or folder; None if there is none of that name."""
  try:
    path = epath.Path(given)
    return path if path.exists() else None
  # Ids may be too long for a file name, or URLs that nothing here can open.
  except (OSError, ValueError, LookupError, ImportError, NotImplementedError):
    return None
