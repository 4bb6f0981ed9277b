"""What a line of a raw file says: a rating, an item, or nothing that can be read."""

import json
import math
from typing import Any, NamedTuple

MOST_SECONDS = 10**11  # since 1970: a time with more digits is of another unit


class Rating(NamedTuple):
  """One interaction, by raw ids."""

  user: str
  item: str
  rating: float
  time: int  # since 1970, in the units of the file's clock


class Item(NamedTuple):
  """What is said of an item, by its raw id; "" and () where nothing is."""

  item: str
  title: str = ""
  brand: str = ""
  categories: tuple[str, ...] = ()  # each once, without the one that all share
  description: str = ""


class Malformed(Exception):
  """A line that cannot be read; the text is the reason that it is counted under."""


def text_of(line: bytes, encoding: str = "utf-8") -> str:
  """The text of a line, without its end."""
  try:
    return line.decode(encoding).rstrip("\r\n")
  except UnicodeDecodeError:
    raise Malformed("not UTF-8")


def json_object(line: bytes) -> dict[str, Any]:
  """The object of a line of JSON Lines."""
  try:
    found = json.loads(text_of(line))
  except (ValueError, RecursionError):
    raise Malformed("not JSON")
  if not isinstance(found, dict):
    raise Malformed("not a JSON object")
  return found


def identifier(value: Any, name: str) -> str:
  """A raw id: a text without blanks and without what no editor shows."""
  if not isinstance(value, str) or value.split() != [value] or not value.isprintable():
    raise Malformed(f"no {name}")
  return value


def number(value: Any, name: str) -> float:
  """A finite number, of a text too."""
  if isinstance(value, (str, int, float)) and not isinstance(value, bool):
    try:
      found = float(value)
    except (ValueError, OverflowError):
      found = math.nan
    if math.isfinite(found):
      return found
  raise Malformed(f"no {name}")


def ticks(value: Any, name: str, a_second: int = 1) -> int:
  """A time since 1970 in whole ticks of a clock, of digits in a text too.

  Args:
    value: what the file has.
    name: of the field.
    a_second: ticks.
  """
  if isinstance(value, str) and value.isascii() and value.isdecimal():
    value = int(value) if len(value) < 20 else -1
  if type(value) is not int or not 0 <= value < MOST_SECONDS * a_second:
    raise Malformed(f"no {name}")
  return value


def words(value: Any, name: str) -> str:
  """A text on one line; "" for None."""
  if value is None:
    return ""
  if not isinstance(value, str):
    raise Malformed(f"{name} is no text")
  # Half a character is legal in JSON and cannot be written.
  return " ".join(value.encode("utf-8", "replace").decode().split())


def texts(value: Any, name: str) -> list[str]:
  """The texts of a list, without empty ones; [] for None."""
  if value is None:
    return []
  if not isinstance(value, list):
    raise Malformed(f"{name} is no list")
  return [found for found in (words(text, name) for text in value) if found]


def each_once(values: list[str]) -> tuple[str, ...]:
  return tuple(dict.fromkeys(values))
