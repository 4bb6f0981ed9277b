"""The records in raw files, ratings and items, and checks of their fields."""

import json
import math
from typing import Any, NamedTuple

MOST_SECONDS = 10**11  # since 1970: larger numbers are in another unit


class Rating(NamedTuple):
  """One interaction, by raw ids."""

  user: str
  item: str
  rating: float
  time: int  # ticks of the file's clock since 1970


class Item(NamedTuple):
  """The metadata of an item, by its raw id; "" and () = none."""

  item: str
  title: str = ""
  brand: str = ""
  categories: tuple[str, ...] = ()  # distinct, without the one that all items share
  description: str = ""


class Malformed(Exception):
  """A line that cannot be read; the message is the reason it is counted under."""


def text_of(line: bytes, encoding: str = "utf-8") -> str:
  """Returns the text of a line, without its end."""
  try:
    return line.decode(encoding).rstrip("\r\n")
  except UnicodeDecodeError:
    raise Malformed("not UTF-8")


def json_object(line: bytes) -> dict[str, Any]:
  """Returns the object on a line of JSON Lines."""
  try:
    found = json.loads(text_of(line))
  except (ValueError, RecursionError):
    raise Malformed("not JSON")
  if not isinstance(found, dict):
    raise Malformed("not a JSON object")
  return found


def identifier(value: Any, name: str) -> str:
  """Returns a raw id: printable text without blanks."""
  if not isinstance(value, str) or value.split() != [value] or not value.isprintable():
    raise Malformed(f"no {name}")
  return value


def number(value: Any, name: str) -> float:
  """Returns a finite number, given as a number or a text."""
  if isinstance(value, (str, int, float)) and not isinstance(value, bool):
    try:
      found = float(value)
    except (ValueError, OverflowError):
      found = math.nan
    if math.isfinite(found):
      return found
  raise Malformed(f"no {name}")


def ticks(value: Any, name: str, per_second: int = 1) -> int:
  """Returns a time since 1970 in whole ticks, given as a number or digits.

  Args:
    value: from the file.
    name: of the field.
    per_second: ticks per second.
  """
  if isinstance(value, str) and value.isascii() and value.isdecimal():
    value = int(value) if len(value) < 20 else -1
  if type(value) is not int or not 0 <= value < MOST_SECONDS * per_second:
    raise Malformed(f"no {name}")
  return value


def words(value: Any, name: str) -> str:
  """Returns a text on one line; "" for None."""
  if value is None:
    return ""
  if not isinstance(value, str):
    raise Malformed(f"{name} is no text")
  # A lone surrogate is legal in JSON, but cannot be encoded.
  return " ".join(value.encode("utf-8", "replace").decode().split())


def texts(value: Any, name: str) -> list[str]:
  """Returns the non-empty texts of a list; [] for None."""
  if value is None:
    return []
  if not isinstance(value, list):
    raise Malformed(f"{name} is no list")
  return [found for found in (words(text, name) for text in value) if found]


def each_once(values: list[str]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(values))
