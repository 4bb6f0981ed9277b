"""Parsers for the lines of MovieLens 100k and 1M; the texts are Latin-1."""

from lightlm_jax.data.published import raw_rows as lines
from lightlm_jax.data.published.raw_rows import Item, Malformed, Rating

GENRES = (
  "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
  "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
).split("|")


def rating_100k(line: bytes) -> Rating:
  """Parses a line of `u.data`: four fields, separated by tabs."""
  return _rating(line, "\t")


def rating_1m(line: bytes) -> Rating:
  """Parses a line of `ratings.dat`: four fields, separated by `::`."""
  return _rating(line, "::")


def item_100k(line: bytes) -> Item:
  """Parses a line of `u.item`: number, title, two dates, URL, 19 genre flags."""
  fields = lines.text_of(line, "latin-1").split("|")
  movie, title, flags = fields[0], fields[1:2], fields[5:]
  if len(flags) != len(GENRES) or set(flags) - {"0", "1"}:
    raise Malformed(f"not {len(GENRES)} genres")
  genres = [name for name, flag in zip(GENRES, flags) if flag == "1"]
  return Item(
    lines.identifier(movie, "movie"),
    lines.words(title[0], "title"),
    categories=tuple(genres),
  )


def item_1m(line: bytes) -> Item:
  """Parses a line of `movies.dat`: number `::` title `::` genres, these by `|`."""
  fields = lines.text_of(line, "latin-1").split("::")
  if len(fields) != 3:
    raise Malformed("not three fields")
  movie, title, genres = fields
  names = lines.texts(genres.split("|"), "genres")
  return Item(
    lines.identifier(movie, "movie"),
    lines.words(title, "title"),
    categories=lines.each_once(names),
  )


def _rating(line: bytes, between: str) -> Rating:
  fields = lines.text_of(line).split(between)
  if len(fields) != 4:
    raise Malformed("not four fields")
  user, item, rating, time = fields
  return Rating(
    lines.identifier(user, "user"),
    lines.identifier(item, "item"),
    lines.number(rating, "rating"),
    lines.ticks(time, "timestamp"),
  )
