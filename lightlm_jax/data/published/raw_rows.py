"""Parses lines of raw files: the ratings and the items of each publisher.

A parser raises Malformed for a line that it cannot read.
"""

import ast
import calendar
from collections.abc import Iterable, Mapping
import contextlib
import datetime
import json
import math
from typing import Any, NamedTuple

from lightlm_jax.data import formats

MOST_SECONDS = 10**11  # since 1970; larger numbers must be in another unit
TICKS_2023 = 1_000  # per second, in Amazon Reviews 2023
_FIELDS_2023 = "user_id parent_asin rating timestamp"
_FIELDS_MOVIELENS = "user item rating timestamp"
GENRES = (
  "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
  "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")


class Rating(NamedTuple):
  """One interaction, with raw ids."""

  user: str
  item: str
  rating: float
  time: int  # since 1970, in units of 1 / `Source.ticks` seconds


class Item(NamedTuple):
  """The metadata of the item with raw id `item`; unknown fields are "" or ()."""

  item: str
  title: str = ""
  brand: str = ""
  categories: tuple[str, ...] = ()  # distinct, without the root that all items share
  description: str = ""


class Malformed(Exception):
  """A line that cannot be read; the message is the reason, as in `Tally.rejected`."""


def amazon_2014_rating(line: bytes) -> Rating:
  """Parses a line of `reviews_CATEGORY_5.json.gz`: JSON."""
  return _rating(_json(line), "reviewerID asin overall unixReviewTime")


def amazon_2014_item(line: bytes) -> Item:
  """Parses a line of `meta_CATEGORY.json.gz`: a Python dict, not JSON.

  It uses `literal_eval`, which never executes code.
  """
  try:
    found = ast.literal_eval(_text(line).strip())
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    raise Malformed("not a Python literal")
  if not isinstance(found, dict):
    raise Malformed("not a dict")
  paths = found.get("categories")
  if paths is not None and not isinstance(paths, list):
    raise Malformed("categories is no list")
  return Item(
    _identifier(found, "asin"),
    _words(found.get("title"), "title"),
    _words(found.get("brand"), "brand"),
    _distinct(n for path in paths or () for n in _list(path, "categories")[1:]),
    _words(found.get("description"), "description"),
  )


def amazon_2023_rating(line: bytes) -> Rating | None:
  """Parses a line of the 5-core `CATEGORY.csv.gz`, or of the raw `CATEGORY.jsonl.gz`.

  Returns None for the header of the CSV.
  """
  if line.lstrip()[:1] == b"{":
    fields = _json(line)
  elif _text(line).lstrip("\ufeff").split(",") == _FIELDS_2023.split():
    return None
  else:
    fields = _split(line, ",", _FIELDS_2023)
  return _rating(fields, _FIELDS_2023, TICKS_2023)


def amazon_2023_item(line: bytes) -> Item:
  """Parses a line of `meta_CATEGORY.jsonl.gz`: JSON.

  The item's brand is the line's `details["Brand"]` or, if that is missing, `store`.
  """
  found = _json(line)
  details = found.get("details")
  brand = details.get("Brand") if isinstance(details, dict) else None
  return Item(
    _identifier(found, "parent_asin"),
    _words(found.get("title"), "title"),
    _words(brand or found.get("store"), "brand"),
    _distinct(_list(found.get("categories"), "categories")[1:]),
    " ".join(_list(found.get("description"), "description")),
  )


def yelp_seconds(date: str) -> int:
  """Converts a UTC date such as "2019-12-13 15:51:19" to seconds since 1970."""
  parsed = datetime.datetime.strptime(date, "%Y-%m-%d %H:%M:%S")
  return calendar.timegm(parsed.timetuple())


def yelp_rating(line: bytes) -> Rating:
  """Parses a line of `yelp_academic_dataset_review.json`."""
  found = _json(line)
  try:
    found["date"] = yelp_seconds(found["date"])
  except (KeyError, TypeError, ValueError):
    raise Malformed("no date")
  return _rating(found, "user_id business_id stars date")


def yelp_item(line: bytes) -> Item:
  """Parses a line of `yelp_academic_dataset_business.json`."""
  found = _json(line)
  names = _words(found.get("categories"), "categories")
  return Item(
    _identifier(found, "business_id"),
    _words(found.get("name"), "name"),
    categories=_distinct(formats.parts(names, ",")),
  )


def movielens_100k_rating(line: bytes) -> Rating:
  """Parses a line of `u.data`: four fields, separated by tabs."""
  return _rating(_split(line, "\t", _FIELDS_MOVIELENS), _FIELDS_MOVIELENS)


def movielens_1m_rating(line: bytes) -> Rating:
  """Parses a line of `ratings.dat`: four fields, separated by `::`."""
  return _rating(_split(line, "::", _FIELDS_MOVIELENS), _FIELDS_MOVIELENS)


def movielens_100k_item(line: bytes) -> Item:
  """Parses a line of `u.item`: number, title, two dates, URL, 19 genre flags."""
  movie, *rest = _text(line, "latin-1").split("|")
  flags = rest[4:]
  if len(flags) != len(GENRES) or set(flags) - {"0", "1"}:
    raise Malformed(f"not {len(GENRES)} genres")
  return Item(
    _identifier({"movie": movie}, "movie"),
    _words(rest[0], "title"),
    categories=tuple(name for name, flag in zip(GENRES, flags) if flag == "1"),
  )


def movielens_1m_item(line: bytes) -> Item:
  """Parses a line of `movies.dat`: number::title::genres, with | between genres."""
  found = _split(line, "::", "movie title genres", "latin-1")
  return Item(
    _identifier(found, "movie"),
    _words(found["title"], "title"),
    categories=_distinct(_list(found["genres"].split("|"), "genres")),
  )


def _text(line: bytes, encoding: str = "utf-8") -> str:
  try:
    return line.decode(encoding).rstrip("\r\n")
  except UnicodeDecodeError:
    raise Malformed("not UTF-8")


def _json(line: bytes) -> dict[str, Any]:
  try:
    found = json.loads(_text(line))
  except (ValueError, RecursionError):
    raise Malformed("not JSON")
  if not isinstance(found, dict):
    raise Malformed("not a JSON object")
  return found


def _split(
  line: bytes, separator: str, names: str, encoding: str = "utf-8"
) -> dict[str, str]:
  """Returns {name: field} of a line; `names` are separated by blanks."""
  fields, wanted = _text(line, encoding).split(separator), names.split()
  if len(fields) != len(wanted):
    raise Malformed(f"not {'three' if len(wanted) == 3 else 'four'} fields")
  return dict(zip(wanted, fields))


def _rating(found: Mapping[str, Any], names: str, per_second: int = 1) -> Rating:
  """Builds a rating from `found`, whose times are in units of 1 / `per_second` seconds.

  `names` are the keys of user, item, rating and time, separated by blanks.
  """
  user, item, rating, time = names.split()
  return Rating(
    _identifier(found, user),
    _identifier(found, item),
    _number(found.get(rating), rating),
    _ticks(found.get(time), time, per_second),
  )


def _identifier(found: Mapping[str, Any], name: str) -> str:
  """Returns the raw id in field `name`; raises Malformed if missing or invalid."""
  value = found.get(name)
  if not isinstance(value, str) or value.split() != [value] or not value.isprintable():
    raise Malformed(f"no {name}")
  return value


def _number(value: Any, name: str) -> float:
  """Converts a number or string to a finite float; raises Malformed if that fails."""
  with contextlib.suppress(TypeError, ValueError, OverflowError):
    if not isinstance(value, bool) and math.isfinite(found := float(value)):
      return found
  raise Malformed(f"no {name}")


def _ticks(value: Any, name: str, per_second: int) -> int:
  """Converts a time since 1970, in units of 1 / `per_second` seconds, to an int."""
  if isinstance(value, str) and value.isascii() and value.isdecimal():
    value = int(value) if len(value) < 20 else -1
  if type(value) is not int or not 0 <= value < MOST_SECONDS * per_second:
    raise Malformed(f"no {name}")
  return value


def _words(value: Any, name: str) -> str:
  """Joins a string's words with single blanks; "" for None. Else raises Malformed."""
  if value is None:
    return ""
  if not isinstance(value, str):
    raise Malformed(f"{name} is no text")
  # A lone surrogate is legal in JSON, but cannot be encoded as UTF-8.
  return " ".join(value.encode("utf-8", "replace").decode().split())


def _list(value: Any, name: str) -> list[str]:
  """Returns the non-empty strings of a list; [] for None."""
  if value is None:
    return []
  if not isinstance(value, list):
    raise Malformed(f"{name} is no list")
  return [found for found in (_words(text, name) for text in value) if found]


def _distinct(values: Iterable[str]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(values))
