"""Readers of log files. Each gives the one in-memory form or one line of complaint."""

import io

from etils import epath
import numpy as np

from lightlm_jax.data import interactions
from lightlm_jax.errors import UserError


def read_sequences(path: epath.PathLike) -> interactions.Interactions:
  """Reads `user item item …`, one user a line, items in time order.

  Raises:
    UserError: the file is missing, empty, or a line is not of that form; the line
      is named by its number.
  """
  path = epath.Path(path)
  if not path.exists():
    raise UserError(f"{path} does not exist; give a file of lines `user item item …`")
  rows, seen = [], {}
  for number, line in enumerate(_lines(path), start=1):
    fields = line.split()
    if not fields:
      continue
    user, items = fields[0], fields[1:]
    if not items:
      raise UserError(
        f"{path}, line {number}: user {user!r} has no items; "
        "write `user item item …` or delete the line"
      )
    if "\0" in line:
      raise UserError(f"{path}, line {number}: a NUL byte; is this a text file?")
    if user in seen:
      raise UserError(
        f"{path}, line {number}: user {user!r} already stands in line {seen[user]}; "
        "write each user once, all items in time order"
      )
    seen[user] = number
    rows.append((user, items))
  if not rows:
    raise UserError(f"{path} is empty; give at least one line `user item item …`")
  return interactions.from_sequences(rows)


def read_item_titles(path: epath.PathLike, item_ids: np.ndarray) -> list[str] | None:
  """Texts of `item_ids` from a tab-separated `item_id … text` file, None without it."""
  path = epath.Path(path)
  if not path.exists():
    return None
  text = dict.fromkeys(item_ids.tolist(), "")
  for line in _lines(path)[1:]:
    fields = line.split("\t")
    if fields[0] in text:
      text[fields[0]] = fields[-1]
  return [text[item] for item in item_ids.tolist()]


def _lines(path: epath.Path) -> list[str]:
  """The lines of a UTF-8 file, with or without a byte order mark.

  Only what an editor counts as an end of line is one: `str.splitlines` would cut a
  row at a form feed, and the rest of it would pass for another user.
  """
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"{path}: byte {error.start} is not UTF-8; write the file as UTF-8")
  except OSError as error:
    raise UserError(f"cannot read {path}: {error.strerror or error}")
  return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
