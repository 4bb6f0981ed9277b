"""Parsers for the lines of Amazon Reviews, 2014 and 2023."""

import ast

from lightlm_jax.data.published import raw_rows as lines
from lightlm_jax.data.published.raw_rows import Item, Malformed, Rating

HEADER_2023 = "user_id,parent_asin,rating,timestamp"
TICKS_2023 = 1_000  # per second


def rating_2014(line: bytes) -> Rating:
  """Parses a line of `reviews_CATEGORY_5.json.gz`: JSON."""
  found = lines.json_object(line)
  return Rating(
    lines.identifier(found.get("reviewerID"), "reviewerID"),
    lines.identifier(found.get("asin"), "asin"),
    lines.number(found.get("overall"), "overall"),
    lines.ticks(found.get("unixReviewTime"), "unixReviewTime"),
  )


def item_2014(line: bytes) -> Item:
  """Parses a line of `meta_CATEGORY.json.gz`: a Python dict, not JSON.

  `literal_eval` executes no code, whatever the line says.
  """
  try:
    found = ast.literal_eval(lines.text_of(line).strip())
  except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
    raise Malformed("not a Python literal")
  if not isinstance(found, dict):
    raise Malformed("not a dict")
  paths = found.get("categories")
  if paths is not None and not isinstance(paths, list):
    raise Malformed("categories is no list")
  below = [name for path in paths or () for name in lines.texts(path, "categories")[1:]]
  return Item(
    lines.identifier(found.get("asin"), "asin"),
    lines.words(found.get("title"), "title"),
    lines.words(found.get("brand"), "brand"),
    lines.each_once(below),
    lines.words(found.get("description"), "description"),
  )


def rating_2023(line: bytes) -> Rating | None:
  """Parses a line of the 5-core `CATEGORY.csv.gz`, or of the raw `CATEGORY.jsonl.gz`.

  Returns None for the header of the CSV.
  """
  if line.lstrip()[:1] == b"{":
    found = lines.json_object(line)
    fields = [found.get(name) for name in HEADER_2023.split(",")]
  else:
    text = lines.text_of(line)
    if text.lstrip("\ufeff") == HEADER_2023:
      return None
    fields = text.split(",")
    if len(fields) != 4:
      raise Malformed("not four fields")
  user, item, rating, time = fields
  return Rating(
    lines.identifier(user, "user_id"),
    lines.identifier(item, "parent_asin"),
    lines.number(rating, "rating"),
    lines.ticks(time, "timestamp", TICKS_2023),
  )


def item_2023(line: bytes) -> Item:
  """Parses a line of `meta_CATEGORY.jsonl.gz`: JSON.

  The brand comes from the details, or is the store if they have none.
  """
  found = lines.json_object(line)
  details = found.get("details") or {}
  brand = details.get("Brand") if isinstance(details, dict) else None
  return Item(
    lines.identifier(found.get("parent_asin"), "parent_asin"),
    lines.words(found.get("title"), "title"),
    lines.words(brand or found.get("store"), "brand"),
    lines.each_once(lines.texts(found.get("categories"), "categories")[1:]),
    " ".join(lines.texts(found.get("description"), "description")),
  )
