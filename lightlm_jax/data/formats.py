"""Reads the files of a log: sequences, ratings, titles and attributes of items.

Readers raise a UserError with the line number if a file is damaged or malformed.
"""

from collections.abc import Collection, Sequence
import io
import json
import math

from etils import epath
import numpy as np

from lightlm_jax.data import interactions
from lightlm_jax.runtime.errors import UserError, first_line

# Columns of items' metadata that are read as texts.
TEXTS = ("title", "brand", "genres", "category", "categories", "description")
MOST_DIGITS = 11  # of a time in seconds since 1970; longer ones are in another unit


def read_sequences(path: epath.Path) -> interactions.Interactions:
  """Reads lines `user item item …`, one per user, with items in time order."""
  if not path.exists():
    raise UserError(f"{path} does not exist; give a file of lines `user item item …`")
  rows = {}  # by user: the number of the line, and the items
  for number, line in enumerate(read_lines(path), start=1):
    if not line.strip():
      continue
    user, *items = line.split()
    if not items:
      raise UserError(
        f"{path}, line {number}: user {user!r} has no items; "
        "write `user item item …` or delete the line"
      )
    if "\0" in line:
      raise UserError(f"{path}, line {number}: a NUL byte; is this a text file?")
    if user in rows:
      raise UserError(
        f"{path}, line {number}: user {user!r} is already in line {rows[user][0]}; "
        "write each user once, all items in time order"
      )
    rows[user] = number, items
  if not rows:
    raise UserError(f"{path} is empty; give at least one line `user item item …`")
  return interactions.from_sequences((user, row[1]) for user, row in rows.items())


def read_ratings(path: epath.Path) -> interactions.Interactions:
  """Reads lines `user, item, rating, seconds` separated by tabs.

  MovieLens-100k's `u.data` has this format. A header line is skipped. Every rating
  counts as an interaction, even a low one. Rows are sorted by time; equal times, which
  are frequent, keep the order of the lines.
  """
  if not path.exists():
    raise UserError(
      f"{path} does not exist; give a file of lines `user item rating seconds`, by tabs"
    )
  rows = {}
  for number, line in enumerate(read_lines(path), start=1):
    if not line.strip():
      continue
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) != 4 or not all(fields) or "\0" in line:
      raise UserError(
        f"{path}, line {number}: {line[:60]!r} is not `user item rating seconds`, four "
        "fields with tabs between them"
      )
    user, item, rating, seconds = fields
    is_time = seconds.isascii() and seconds.isdecimal() and len(seconds) <= MOST_DIGITS
    if number == 1 and not is_time and not _is_number(rating):
      continue
    if not is_time or not _is_number(rating):
      raise UserError(
        f"{path}, line {number}: rating {rating!r} and time {seconds!r} must be a "
        "number and whole seconds since 1970"
      )
    rows.setdefault(user, []).append((int(seconds), item))
  if not rows:
    raise UserError(f"{path} is empty; give lines `user item rating seconds`, by tabs")
  for row in rows.values():
    row.sort(key=lambda rated: rated[0])  # stable: equal times keep the order of lines
  return interactions.from_sequences(
    ((user, [item for _, item in row]) for user, row in rows.items()),
    times=([seconds for seconds, _ in row] for row in rows.values()),
  )


def read_items(
  path: epath.Path, item_ids: np.ndarray
) -> tuple[list[str], list[str]] | tuple[None, None]:
  """Reads the titles and texts of `item_ids` from a tab-separated file with a header.

  A title is the column `title`; a text joins the columns of TEXTS in the file's order.
  If the file has no column for titles, or none for texts, its last column is used.
  Items that the file lacks get "". Returns (None, None) if there is no file.
  """
  if not path.exists():
    return None, None
  header, *lines = read_lines(path) or [""]
  heads = [head.strip().lower() for head in header.split("\t")]
  of_item = {line.partition("\t")[0]: line.split("\t") for line in lines}
  rows = [of_item.get(item, [""]) for item in item_ids.tolist()]

  def texts(names: Sequence[str]) -> list[str]:
    columns = [n for n, head in enumerate(heads) if n and head in names]
    if not columns:
      return [row[-1] for row in rows]
    return [" ".join(row[n] for n in columns if n < len(row)) for row in rows]

  return texts(["title"]), texts(TEXTS)


def read_film_titles(path: epath.Path, item_ids: np.ndarray) -> list[str] | None:
  """Returns titles of `item_ids` from MovieLens-100k's `u.item`; None if it is missing.

  Its lines are `id | title | …`, in Latin-1 in the original file.
  """
  if not path.exists():
    return None
  titles = {}
  for line in read_lines(path, or_latin_1=True):
    item, title, *_ = [*line.split("|"), ""]
    titles[item.strip()] = title.strip()
  return [titles.get(item, "") for item in item_ids.tolist()]


def read_item_attributes(
  path: epath.Path, item_ids: np.ndarray
) -> list[np.ndarray] | None:
  """Reads attributes as `read_attribute_names` does, and numbers them from 0.

  Returns each item's numbers, ascending int64 arrays; None if there is no file.
  """
  names = read_attribute_names(path, item_ids)
  return None if names is None else number_attributes(names)


def read_attribute_names(
  path: epath.Path, item_ids: np.ndarray
) -> list[set[str]] | None:
  """Returns each item's attributes, such as brand, from JSON; None if there is no file.

  The JSON object maps raw item ids to lists of attributes, which are integers or
  strings (3 and "3" are the same). Items without a key have no attributes; keys that
  are not in `item_ids` are ignored. Raises a UserError if no key is in `item_ids`.
  """
  if not path.exists():
    return None
  form = 'an object {"item": [attribute, …], …}'
  try:
    listed = json.loads(_text(path))
  except (ValueError, RecursionError) as error:
    raise UserError(f"{path} is not JSON ({error}); write {form}, or remove it")
  if not isinstance(listed, dict):
    raise UserError(f"{path} holds no JSON object; write {form}, or remove it")
  for item, raw in listed.items():
    if not isinstance(raw, list) or any(type(a) not in (int, str) for a in raw):
      raise UserError(
        f"{path}, item {item!r}: {json.dumps(raw)[:60]} is no list of whole numbers or "
        f"texts; write {form}, or remove it"
      )
  if listed.keys().isdisjoint(item_ids.tolist()):
    raise UserError(
      f"{path} names none of the log's {len(item_ids):,} items; its keys have to be "
      "the raw item ids of the log"
    )
  return [set(map(str, listed.get(item, ()))) for item in item_ids.tolist()]


def number_attributes(names_I: Sequence[Collection[str]]) -> list[np.ndarray]:
  """Numbers attributes from 0; returns each item's numbers, ascending int64 arrays."""
  number = {name: place for place, name in enumerate(sorted(set().union(*names_I)))}
  return [
    np.array(sorted(number[a] for a in set(names)), np.int64) for names in names_I
  ]


def parts(text: str, separator: str) -> list[str]:
  """Splits a text at a separator; returns the parts without blanks around them."""
  return [part.strip() for part in text.split(separator) if part.strip()]


def _is_number(field: str) -> bool:
  try:
    return math.isfinite(float(field))
  except ValueError:
    return False


def read_lines(path: epath.Path, *, or_latin_1: bool = False) -> list[str]:
  """Returns a file's lines without line ends, read as UTF-8.

  With `or_latin_1`, a file that is not UTF-8 is read as Latin-1. Only line feeds and
  carriage returns end a line. `str.splitlines` would also end one at a form feed.
  """
  text = _text(path, or_latin_1=or_latin_1)
  return [line.rstrip("\n") for line in io.StringIO(text, newline=None)]


def _text(path: epath.Path, *, or_latin_1: bool = False) -> str:
  """Returns a file's text, without a byte order mark; see `read_lines`."""
  try:
    content = path.read_bytes()
    return content.decode("utf-8-sig")
  except UnicodeDecodeError as error:
    if not or_latin_1:
      raise UserError(
        f"{path}: byte {error.start} is not UTF-8; write the file as UTF-8"
      )
    return content.decode("latin-1")
  except OSError as error:
    raise UserError(f"cannot read {path}: {first_line(error)}")
