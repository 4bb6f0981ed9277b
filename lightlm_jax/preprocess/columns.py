"""Finds the columns of user, item, time and rating by flags or by common names."""

from collections.abc import Sequence
import csv
import json
import logging
import re

from etils import epath
import polars as pl

from lightlm_jax.preprocess import files, readers, times
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.runtime.errors import UserError

logger = logging.getLogger(__name__)

ROLES = ("user", "item", "time", "rating")
# Known column names, as lower-case letters and digits; earlier names take precedence.
KNOWN = {
  "user": "user userid uid reviewerid customerid visitorid memberid accountid clientid "
  "personid profileid customer member username session sessionid",
  "item": "item itemid iid parentasin asin productid movieid bookid businessid "
  "articleid trackid songid artistid videoid newsid gameid storeid contentid sku isbn "
  "product movie book",
  "time": "timestamp time ts unixreviewtime unixtime datetime eventtime createdat "
  "createdtime date timems when purchasedate ratedat viewedat",
  "rating": "rating ratings stars score overall userrating",
}


def decide(
  found: Sequence[tuple[epath.Path, str]], options: Options
) -> tuple[list[Source], str | None]:
  """Decides how to read each file of `found` (path, format); logs the decision.

  Returns the files, with their columns' roles, and the time unit (None = no times).

  Raises:
    UserError: a file's columns are unclear, or files have columns for different roles.
  """
  sources = [_source(path, form, options) for path, form in found]
  sources = [s for s in sources if s.names or s.form == "sequences"]  # no empty files
  sources = [source._replace(index=n) for n, source in enumerate(sources)]
  if not sources:
    raise UserError(f"{found[0][0]} is empty, as is every other file; give a log")
  first = sources[0]
  for source in sources[1:]:
    if source.roles.keys() != first.roles.keys():
      raise UserError(
        f"{source.path} has {', '.join(source.roles)}, and {first.path} "
        f"{', '.join(first.roles)}; give files of one kind"
      )
  if first.form == "sequences":
    logger.info(f"{first.path}: a line `user item item …` for each user")
    return sources, None
  if not first.header and first.delimiter:
    logger.info(
      f"{first.path} has no header; its columns are taken for "
      f"{', '.join(first.names)} (others: --columns)"
    )
  line = ", ".join(f"{role} = {name!r}" for role, name in first.columns.items())
  unit = _time_unit(sources, options)
  about = (
    f"times are {times.UNITS[unit]}"
    if unit
    else "no time: rows keep the order of the files"
  )
  logger.info(f"columns: {line}; {about}")
  return sources, unit


def named(path: epath.Path, form: str, options: Options) -> Source:
  """Returns a file with its column names (none if it is empty), still without roles.

  Raises:
    UserError: its first lines cannot be read.
  """
  names, header, delimiter = [], form in ("parquet", "jsonl"), ""
  encoding = "" if form == "parquet" else files.encoding_of(path, options.encoding)
  if form == "parquet":
    names = readers.parquet_schema(path).names
  elif form == "jsonl":
    names = _keys(path, encoding)
  elif form != "sequences":
    names, header, delimiter = _first_line(path, form, encoding, options)
  names = tuple(names)
  return Source(str(path), 0, form, names, {}, delimiter, header, encoding)


def first_known(names: Sequence[str], known: str) -> str | None:
  """Returns the column in `names` that `known` lists first; None if it lists none.

  `known` is a string of names, in lower-case letters and digits, separated by spaces.
  """
  plain = [re.sub("[^a-z0-9]", "", name.partition(":")[0].lower()) for name in names]
  return next((names[plain.index(n)] for n in known.split() if n in plain), None)


def _source(path: epath.Path, form: str, options: Options) -> Source:
  source = named(path, form, options)
  if form == "sequences":
    return source._replace(roles={"user": 0, "item": 1})
  roles = {}
  for role in ROLES if source.names else ():
    if role != "rating" or options.min_rating is not None:
      place = _place(path, source.names, role, options.names.get(role))
      roles |= {} if place is None else {role: place}
  return source._replace(roles=roles)


def _place(path, names: Sequence[str], role: str, wanted: str | None) -> int | None:
  name = first_known(names, KNOWN[role]) if wanted is None else wanted
  if name in names:
    if names.count(name) > 1:
      raise UserError(f"{path} has {names.count(name)} columns {name!r}; rename them")
    return names.index(name)
  listed = ", ".join(names[:30])
  if wanted is not None:
    raise UserError(f"{path} has no column {wanted!r} (--{role}); it has {listed}")
  if role in ("user", "item"):
    raise UserError(
      f"cannot tell which column of {path} is the {role}; it has {listed}: give "
      f"--{role}=NAME, or --columns=NAME,NAME,… for a file without a header"
    )
  if role == "rating":
    raise UserError(
      f"{path} has no column of ratings, give --rating=NAME; has {listed}"
    )
  return None


def _first_line(path: epath.Path, form: str, encoding: str, options: Options):
  """Returns the column names, whether the first line has them, and the delimiter."""
  raw = next((x for x in files.head(path, encoding).split(b"\n") if x.strip(b" ")), b"")
  line = files.decoded(raw)
  if b"\0" in raw or line is None:
    fault = "has NUL bytes" if b"\0" in raw else f"is not {encoding.upper()}"
    raise UserError(
      f"the first line of {path} {fault}; give --encoding, or write the file as UTF-8"
    )
  if not line:
    return [], False, ""
  delimiter = options.delimiter or "\t"
  if form == "csv" and not options.delimiter:
    delimiter = max(",", ";", "\t", "|", files.COLONS, key=line.count)
  fields = line.split(delimiter)
  if form == "csv" and delimiter != files.COLONS:
    fields = next(csv.reader([line], delimiter=delimiter), fields)
  fields = [field.strip() for field in fields]
  if options.columns is not None:
    if len(options.columns) != len(fields):
      raise UserError(
        f"--columns names {len(options.columns)} columns, and the first line of {path} "
        f"has {len(fields)}: {line[:80]!r}"
      )
    return options.columns, fields == list(options.columns), delimiter
  is_known = any(first_known(fields, KNOWN[role]) for role in ("user", "item"))
  guess = None
  if not (is_known or options.names or form == "recbole"):
    guess = _headless(fields)
  return guess or fields, not guess, delimiter


def _headless(fields: Sequence[str]) -> list[str] | None:
  """Guesses column names from the values of a first row; None if it may be a header."""
  if not 2 <= len(fields) <= 4 or not any(x.isdecimal() for x in fields):
    return None
  names = ["user", "item"]
  for field in fields[2:]:
    series = pl.Series([field], dtype=pl.String)
    is_time = times.guess(series) is not None and not re.fullmatch(r"[\d.]{1,8}", field)
    names.append("time" if is_time else "rating")
  return names if len(set(names)) == len(names) else None


def _keys(path: epath.Path, encoding: str) -> list[str]:
  """Returns JSON keys of the first lines; raises UserError for text without objects."""
  keys, head = {}, files.head(path, encoding)
  for line in head.split(b"\n")[:100]:
    try:
      value = json.loads(line)
    except (ValueError, RecursionError):
      continue
    if isinstance(value, dict):
      keys |= dict.fromkeys(value)
  if head.strip() and not keys:
    raise UserError(f"{path} begins with no JSON object; write one in each line")
  return list(keys)


def _time_unit(sources: Sequence[Source], options: Options) -> str | None:
  """Returns --time_unit or a guess from the first times; None if there are no times."""
  if "time" not in sources[0].roles:
    return None
  if options.time_unit:
    return options.time_unit
  tally = Tally()
  pieces = ((s, piece) for s in sources for piece in readers.pieces(s, 2**18))
  for source, piece in pieces:
    table, found = readers.parse(source, piece)
    tally += found
    column = pl.Series(table["time"]).drop_nulls()
    if unit := times.guess(column.head(1_000)):
      return unit
    if len(column):
      raise UserError(
        f"cannot tell the unit of {source.columns['time']!r} in "
        f"{source.path}; give --time_unit, one of {', '.join(times.UNITS)}, or "
        "--time=NAME of another column"
      )
  if tally.rejected:
    tally.check_any_left({source.index: source.path for source in sources})
  raise UserError(
    f"{sources[0].path} begins with no row that has a time, as does every other file; "
    "give a log with rows, or --time_unit"
  )
