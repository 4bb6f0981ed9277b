"""Finds the names of a file's columns: from its first line, or its publisher's form."""

from collections.abc import Sequence
import csv
import re

from etils import epath
import polars as pl

from lightlm_jax.preprocess import compression, delimited, files, readers, values
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.runtime.errors import UserError

# Known column names, as lower-case letters and digits; earlier names take precedence.
KNOWN = {
  "user": "user userid uid reviewerid customerid visitorid memberid accountid clientid "
  "personid profileid customer member username userkey session sessionid sessionkey",
  "item": "item itemid iid parentasin asin productid movieid bookid businessid "
  "articleid trackid songid artistid videoid newsid gameid storeid contentid aid "
  "venueid poiid locationid recipeid adid sku isbn product movie film book article "
  "track song artist video news game app course venue recipe items itemids",
  "time": "timestamp time ts unixreviewtime unixtime datetime eventtime createdat "
  "createdtime timems timestampms utctime interactiontime clicktime reviewtime "
  "checkintime date eventdate tdat dateadded day purchasedate when ratedat viewedat "
  "readat times timestamps",
  "clock": "hourmin hourminute hhmm hhmmss hms clock timeofday time timeframe",
  "rating": "rating ratings stars score overall userrating bookrating",
  "event": "event eventtype eventname eventkind behavior behaviortype behaviour action "
  "actiontype interactiontype feedbacktype type",
}
# Names of columns of delimited text whose fields are lists of items.
HISTORY = "itemidlist itemhistory history historyitems historyitemids"
LISTS = f"{HISTORY} items itemids"
# Publishers' files without a header: the names of their columns.
_LAYOUTS = {
  "u.data": "user item rating time",
  "ratings.dat": "user item rating time",
  "yoochoose-clicks.dat": "user time item category",
  "yoochoose-buys.dat": "user time item price quantity",
  "loc-gowalla_totalcheckins.txt": "user time latitude longitude item",
  "loc-brightkite_totalcheckins.txt": "user time latitude longitude item",
  "userbehavior.csv": "user item category event time",
  "dataset_tsmc2014_nyc.txt": "user item kind kind_name latitude longitude zone time",
  "dataset_tsmc2014_tky.txt": "user item kind kind_name latitude longitude zone time",
  "behaviors.tsv": "impression user time history items",
}


def named(
  path: epath.Path, form: str, options: Options, like: Source | None = None
) -> Source:
  """Returns a file with its column names (none if it is empty), still without roles.

  `like` is the log's first file, whose names a file without a header takes.

  Raises:
    UserError: its first lines cannot be read, or its names are unclear.
  """
  source = Source(str(path), 0, form, header=form in ("parquet", "jsonl"))
  if form == "parquet":
    return source._replace(names=tuple(readers.parquet_schema(path).names))
  source = source._replace(encoding=files.encoding_of(path, options.encoding))
  if form == "sequences":
    return source
  if form == "jsonl":
    names, explode = _keys(source)
    return source._replace(names=tuple(names), explode=explode)
  source = _first_line(path, source, options, like)
  if compression.plain_name(path.name) == "behaviors.tsv":
    return source._replace(lists={3: "words", 4: "clicks"})
  lists = known_in(source.names, LISTS)
  return source._replace(lists={source.names.index(name): "words" for name in lists})


def known_in(names: Sequence[str], known: str) -> list[str]:
  """Returns the columns in `names` that `known` lists, in its order.

  `known` is a string of names, in lower-case letters and digits, separated by spaces.
  A RecBole column's type, and what a nested field is part of, is not compared.
  """
  parts = [name.partition(":")[0].rpartition(".")[2].lower() for name in names]
  plain = [re.sub("[^a-z0-9]", "", name) for name in parts]
  return [names[plain.index(name)] for name in known.split() if name in plain]


def without_header(source: Source, options: Options) -> Source:
  """Returns a log's first file, which has no header, with the names of its columns.

  Raises:
    UserError: neither the file's name nor its values tell them for sure.
  """
  path = epath.Path(source.path)
  layout = tuple(_LAYOUTS.get(compression.plain_name(path.name).lower(), "").split())
  if len(layout) == len(source.names):
    return source._replace(names=layout)
  looks = values.look(source)
  found = values.proposal(looks)
  if found is None:
    raise UserError(
      f"{path} has no header, and its values do not tell its columns; give "
      f"--columns=NAME,NAME,… for its {len(source.names)} columns"
    )
  names, is_sure = found
  if not (is_sure or options.yes):
    shown = "; ".join(
      f"{name} {column.examples()}"
      for name, column in zip(names, looks)
      if not name.startswith("column_")
    )
    raise UserError(
      f"{path} has no header; if these are its columns ({shown}), give "
      f"--columns={','.join(names)} or --yes, otherwise --columns with other names"
    )
  return source._replace(names=tuple(names))


def _first_line(
  path: epath.Path, source: Source, options: Options, like: Source | None
) -> Source:
  """Returns a delimited file with its names, whether it has a header, and delimiter."""
  head = files.head(path, source.encoding)
  raw = next((x for x in head.split(b"\n") if x.strip(b" ")), b"")
  line = files.decoded(raw)
  if b"\0" in raw or line is None:
    fault = f"is not {source.encoding.upper()}"
    fault = "has NUL bytes" if b"\0" in raw else fault
    raise UserError(
      f"the first line of {path} {fault}; give --encoding, or write the file as UTF-8"
    )
  if not line:
    return source
  form, delimiter = source.form, options.delimiter or "\t"
  if form == "csv" and not options.delimiter:
    delimiter = max(",", ";", "\t", "|", files.COLONS, key=line.count)
  source = source._replace(delimiter=delimiter)
  source = source._replace(quotes=form == "csv" and delimiter != files.COLONS)
  if form != "csv" and b'"' in head:
    source = source._replace(quotes=delimited.is_quoted(head, delimiter))
  fields = line.split(delimiter)
  if source.quotes:
    fields = next(csv.reader([line], delimiter=delimiter), fields)
  fields = tuple(field.strip() for field in fields)
  if options.columns is not None:
    _check_number(path, fields, options.columns, "--columns names", line)
    is_header = fields == tuple(options.columns)
    return source._replace(names=tuple(options.columns), header=is_header)
  is_known = any(known_in(fields, KNOWN[role]) for role in ("user", "item"))
  if like is not None and fields != like.names and not is_known:
    _check_number(path, fields, like.names, f"{like.path} has", line)
    return source._replace(names=like.names, header=False)
  if is_known or options.names or form == "recbole" or not _is_data(fields):
    return source._replace(names=fields, header=True)
  return source._replace(names=tuple(f"column_{n + 1}" for n in range(len(fields))))


def _is_data(fields: Sequence[str]) -> bool:
  """Whether a first line has values and not names: numbers, or dates."""
  number = pl.Series(fields).cast(pl.Float64, strict=False)
  looks = (values.look_at("", pl.Series([field])) for field in fields)
  return bool(number.is_not_null().any()) or any(look.is_time for look in looks)


def _check_number(path, fields, names, whose: str, line: str) -> None:
  if len(names) != len(fields):
    raise UserError(
      f"{whose} {len(names)} columns, and the first line of {path} has {len(fields)}: "
      f"{line[:80]!r}"
    )


def _keys(source: Source) -> tuple[list[str], str]:
  """Returns the keys of the first objects, and the key whose list is exploded or "".

  Fields of a list of objects are named by both keys, as in "events.aid". Raises a
  UserError for text without objects.
  """
  path = epath.Path(source.path)
  keys, lists, head = {}, {}, files.head(path, source.encoding)
  for line in head.split(b"\n")[:100]:
    value = readers.json_object(line)
    if isinstance(value, dict):
      keys |= dict.fromkeys(value)
      for key, inner in value.items():
        if isinstance(inner, list):
          fields = [f for x in inner if isinstance(x, dict) for f in x]
          lists.setdefault(key, {}).update(dict.fromkeys(fields))
  if head.strip() and not keys:
    raise UserError(f"{path} begins with no JSON object; write one in each line")
  nested = [key for key, fields in lists.items() if known_in([*fields], KNOWN["item"])]
  if len(nested) == 1 and not known_in([*keys], KNOWN["item"]):
    inner = [f"{nested[0]}.{field}" for field in lists[nested[0]]]
    return [*(key for key in keys if key != nested[0]), *inner], nested[0]
  return list(keys), ""
