"""Who wants recommendations, from raw ids to requests; what cannot be served is named.

A known user's history is everything that the log has of the user, what was held out
for validation and test too: recommendations are about the future. A history that is
given stands in its place.
"""

from collections.abc import Iterable, Iterator, Sequence
import hashlib
import json
from typing import NamedTuple

from etils import epath
import numpy as np

from lightlm_jax.data import formats
from lightlm_jax.data.interactions import Interactions, concatenate_rows
from lightlm_jax.data.splits import Requests
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import System

SHOWN = 5  # of what is left out, so many are named


class Known(NamedTuple):
  """A log, and where each of its raw ids stands in it."""

  log: Interactions
  users: dict[str, int]
  items: dict[str, int]


class Questions(NamedTuple):
  """N requests, and what was asked beside them.

  Attributes:
    requests: without targets (-1); the user -1 is one that the log does not know.
    names: [N] str, what each user is called in the answer.
    unknown: users that the log does not know, and that came without a history.
    empty: users of whose histories the catalogue knows no item.
    dropped: items of histories that the catalogue does not know.
  """

  requests: Requests
  names: np.ndarray
  unknown: tuple[str, ...] = ()
  empty: tuple[str, ...] = ()
  dropped: int = 0


def known(log: Interactions) -> Known:
  """What raw ids are looked up in."""
  users, items = (
    {raw: index for index, raw in enumerate(ids.tolist())}
    for ids in (log.user_ids, log.item_ids)
  )
  return Known(log, users, items)


def everyone(log: Interactions) -> Questions:
  """All users of the log, in the order of their raw ids."""
  return _of_log(log, np.argsort(log.user_ids, kind="stable"))


def of_users(known: Known, names: Iterable[str]) -> Questions:
  """Users of the log, in the order given; who is named twice is asked once."""
  names = list(dict.fromkeys(names))
  unknown = tuple(name for name in names if name not in known.users)
  index = [known.users[name] for name in names if name in known.users]
  questions = _of_log(known.log, np.array(index, np.int64))
  return questions._replace(unknown=unknown)


def of_histories(
  known: Known, rows: Iterable[tuple[str, Sequence[str] | None]]
) -> Questions:
  """Users by what they had; each once.

  Args:
    known: from `known`.
    rows: a user and raw item ids, oldest first; None = a user of the log, by its own.
  """
  log = known.log
  names, users, histories, unknown, empty = [], [], [], [], []
  dropped = 0
  for name, items in rows:
    user = known.users.get(name, -1)
    if items is None and user >= 0:
      history = log.row(user)
    else:
      history = [known.items[item] for item in items or () if item in known.items]
      dropped += len(items or ()) - len(history)
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
  return Questions(requests, raw, tuple(unknown), tuple(empty), dropped)


def take(questions: Questions, index: np.ndarray) -> Questions:
  """The requests at `index` alone."""
  requests = questions.requests.take(index)
  return questions._replace(requests=requests, names=questions.names[index])


def digest(questions: Questions) -> str:
  """SHA-256 of who asks, and after which histories."""
  requests = questions.requests
  found = hashlib.sha256("\n".join(questions.names.tolist()).encode())
  for array in (requests.user_N, requests.offset_N1, requests.item_E):
    found.update(np.ascontiguousarray(array).data)
  return found.hexdigest()


def check(questions: Questions) -> list[str]:
  """Lines that say what is left out.

  Raises:
    UserError: nothing is left.
  """
  lines = [
    *_named(questions.unknown, "not in the log, and without a history"),
    *_named(questions.empty, "without an item of the catalogue in the history given"),
  ]
  if not len(questions.requests):
    raise UserError(
      f"{'; '.join(lines) or 'no user is asked for'}; give users of the log, or "
      'histories: --history=ITEM,ITEM, or --histories=FILE with lines {"user": …, '
      '"history": […]}'
    )
  lines = [f"{line}: left out" for line in lines]
  if questions.dropped:
    lines.append(
      f"items of histories that are not in the catalogue: {questions.dropped:,} dropped"
    )
  return lines


def notes(questions: Questions, lost: int, system: System) -> list[str]:
  """Lines that say what else a person may not expect.

  Args:
    questions: that are asked.
    lost: from `open_items`.
    system: that is asked.
  """
  lines = []
  if lost:
    lines.append(f"ids of the lists that are not in the catalogue: {lost:,} ignored")
  new = int((questions.requests.user_N < 0).sum())
  if new and system.max_history == 0:
    lines.append(
      f"{system.name} reads no history here: {new:,} new users get the list of "
      "somebody unknown"
    )
  return lines


def left_without(names: np.ndarray, items_NK: np.ndarray) -> list[str]:
  """Lines that say who got no item at all.

  Args:
    names: [N] str, the users that were asked.
    items_NK: what they got, -1 behind the last.
  """
  alone = names[(items_NK < 0).all(axis=1)].tolist()
  return _named(alone, "left without any item that may be recommended")


def open_items(
  known: Known, allow: Iterable[str] | None, deny: Iterable[str] | None
) -> tuple[np.ndarray | None, int]:
  """Which items may be recommended at all, and how many ids were not understood.

  Args:
    known: from `known`.
    allow: raw ids, the only ones; None = all.
    deny: raw ids that are taken from these; None = none.

  Returns:
    open_I bool, None where all are; and the number of ids that the catalogue lacks.

  Raises:
    UserError: nothing is left.
  """
  if allow is None and deny is None:
    return None, 0
  open_I = np.full(len(known.items), allow is None)
  lost = 0
  for ids, is_open in ((allow, True), (deny, False)):
    for item in dict.fromkeys(ids or ()):
      index = known.items.get(item)
      lost += index is None
      if index is not None:
        open_I[index] = is_open
  if not open_I.any():
    raise UserError(
      f"the lists leave none of the {len(open_I):,} items to recommend ({lost:,} of "
      "their ids are not in the catalogue); allow other items, or deny fewer"
    )
  return open_I, lost


def read_ids(flag: str, given: str) -> list[str]:
  """Raw ids from the command line: `A,B`, or a file with one in each line.

  Raises:
    UserError: there is none.
  """
  path = epath.Path(given)
  if _is_file(path):
    found = [line.strip() for line in formats.read_lines(path)]
  elif "/" in given and "," not in given:
    raise UserError(f"--{flag}={given}: no such file; give one, or ids: A,B")
  else:
    found = [word.strip() for word in given.split(",")]
  found = [word for word in found if word]
  if not found:
    raise UserError(f"--{flag}={given} names nobody; give ids (A,B) or a file of them")
  return found


def read_histories(
  path: epath.PathLike,
) -> Iterator[tuple[str, list[str] | None]]:
  """Users and histories from JSON Lines: {"user": …, "history": […]}.

  Raises:
    UserError: a line is of another form, or a user comes twice; it is named by its
      number.
  """
  path = epath.Path(path)
  if not _is_file(path):
    raise UserError(f'{path} does not exist; give lines {{"user": …, "history": […]}}')
  seen = {}
  for number, line in enumerate(formats.read_lines(path), start=1):
    if not line.strip():
      continue
    where = f"{path}, line {number}"
    try:
      told = json.loads(line)
      user, items = _raw(told["user"]), told.get("history")
      if items is not None:
        items = [_raw(item) for item in items] if type(items) is list else _raw(None)
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
  """A line that says what these users are; none of nobody."""
  if not names:
    return []
  shown = ", ".join(map(repr, names[:SHOWN]))
  more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
  users = "user is" if len(names) == 1 else "users are"
  return [f"{len(names):,} {users} {what} ({shown}{more})"]


def _raw(value: object) -> str:
  if type(value) not in (str, int):
    raise TypeError(f"{value!r} is no id")
  str(value).encode()  # half a surrogate is no text
  return str(value)


def _of_log(log: Interactions, user_N: np.ndarray) -> Questions:
  """The users at `user_N` with all that the log has of them."""
  length_N = log.length_U[user_N]
  requests = Requests(
    user_N=user_N.astype(np.int32),
    offset_N1=np.concatenate([[0], np.cumsum(length_N)]),
    item_E=concatenate_rows(log.item_E, log.offset_U1[:-1][user_N], length_N),
    target_N=np.full(len(user_N), -1, np.int32),
  )
  return Questions(requests, log.user_ids[user_N])


def _is_file(path: epath.Path) -> bool:
  try:
    return path.exists() and not path.is_dir()
  except OSError:  # a list of ids can be longer than any name
    return False
