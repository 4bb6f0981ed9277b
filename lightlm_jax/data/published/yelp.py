"""Parsers for the lines of Yelp's open data set."""

import calendar
import datetime

from lightlm_jax.data.published import raw_rows as lines
from lightlm_jax.data.published.raw_rows import Item, Malformed, Rating

_FORM = "%Y-%m-%d %H:%M:%S"


def seconds(date: str) -> int:
  """Returns seconds since 1970 of a date such as "2019-12-13 15:51:19", as UTC."""
  return calendar.timegm(datetime.datetime.strptime(date, _FORM).timetuple())


def rating(line: bytes) -> Rating:
  """Parses a line of `yelp_academic_dataset_review.json`."""
  found = lines.json_object(line)
  try:
    time = seconds(found["date"])
  except (KeyError, TypeError, ValueError):
    raise Malformed("no date")
  return Rating(
    lines.identifier(found.get("user_id"), "user_id"),
    lines.identifier(found.get("business_id"), "business_id"),
    lines.number(found.get("stars"), "stars"),
    lines.ticks(time, "date"),
  )


def item(line: bytes) -> Item:
  """Parses a line of `yelp_academic_dataset_business.json`."""
  found = lines.json_object(line)
  names = lines.words(found.get("categories"), "categories").split(",")
  return Item(
    lines.identifier(found.get("business_id"), "business_id"),
    lines.words(found.get("name"), "name"),
    categories=lines.each_once([name.strip() for name in names if name.strip()]),
  )
