"""Reads item metadata, texts and attributes, for the items of a log."""

from collections.abc import Iterator, Mapping, Sequence
import json
import logging
import re
from typing import Any

from etils import epath
import numpy as np
import pyarrow

from lightlm_jax.data import formats
from lightlm_jax.preprocess import compression, files, headers, readers, values
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text

logger = logging.getLogger(__name__)

# Columns of items.parquet (those of formats.TEXTS), and how input files name them.
TEXTS = {
  "title": "title name movietitle booktitle songtitle tracktitle videotitle gametitle "
  "newstitle articletitle itemtitle producttitle moviename bookname songname trackname "
  "videoname gamename appname itemname productname businessname artistname headline "
  "caption textualid text",
  "brand": "brand brandname store manufacturer author bookauthor artist artistname",
  "genres": "genres genre class",
  "category": "category maincategory maincat",
  "categories": "categories",
  "description": "description desc",
}
# Names for the columns of a file without a header, such as MovieLens' movies.dat.
_HEADLESS = ("item", "title", "genres", "description")
ATTRIBUTES = ("brand", "genres", "category", "categories")


def read(
  log: epath.Path, item_ids: np.ndarray, options: Options
) -> tuple[dict[str, pyarrow.Array], dict[str, int] | None]:
  """Reads the metadata of the catalogue from --items, or from files beside the log.

  Args:
    log: first file of the log. item_attributes.json in its folder is always read;
      items.tsv there (NAME.item beside NAME.inter) only if `options.items` is None.
    item_ids: [I] strings.
    options: `options.items` is a file with one item per line, in any format of a log.

  Returns:
    The columns of items.parquet: the keys of TEXTS that were found ("" = no text) and,
    if there are attributes, `attributes`, a sorted list per item. Second, the row
    counts of the file of items, {rows, matched, repeated, rejected}; None = no file.

  Raises:
    UserError: a file cannot be read, or has none of the items `item_ids`.
  """
  attributes = _beside(log) / "item_attributes.json"
  names = formats.read_attribute_names(attributes, item_ids)
  if names is not None:
    logger.info(f"attributes of items: {attributes}")
  table = _table(log, options.items)
  found_texts, of_table, counts = {}, None, None
  if table.exists():
    source = source_of(table, options.encoding)
    found_texts, of_table, counts = texts(source, item_ids.tolist(), options.items_id)
  names = of_table if names is None else names
  found = {name: pyarrow.array(texts) for name, texts in found_texts.items()}
  if names is not None:
    lists = pyarrow.list_(pyarrow.string())
    found["attributes"] = pyarrow.array([sorted(a) for a in names], lists)
  return found, counts


def _table(log: epath.Path, given: str | None) -> epath.Path:
  if given is not None:
    if not epath.Path(given).exists():
      raise UserError(f"--items={given} does not exist; give a file of items")
    return epath.Path(given)
  name = compression.plain_name(log.name)
  if name.endswith(".inter"):
    return _beside(log) / f"{name.removesuffix('.inter').partition('.')[0]}.item"
  return _beside(log) / "items.tsv"


def _beside(log: epath.Path) -> epath.Path:
  """Returns the folder of a log; files in Hive partitions, NAME=VALUE, lie deeper."""
  folder = log.parent
  while "=" in folder.name:
    folder = folder.parent
  return folder


def texts(source: Source, item_ids: Sequence[str], item_column: str | None):
  """Reads a file of items; returns {column: texts}, attributes and counts of its rows.

  Texts and attributes are in the order of `item_ids`; attributes are None if no item
  has any.
  """
  table, (item, columns_of) = source.path, _roles(source, item_column)
  shown = {"item": item, **columns_of}
  shown = ", ".join(f"{to} = {of!r}" for to, of in shown.items())
  logger.info(f"items: {table}: {shown}")
  place = {raw: number for number, raw in enumerate(item_ids)}
  found = {name: [""] * len(place) for name in columns_of}
  attributes = [set() for _ in place]
  seen, counts = set(), {"rows": 0, "matched": 0, "repeated": 0, "rejected": 0}
  for row in _rows(source, [item, *columns_of.values()]):
    counts["rows"] += 1
    raw = _id(row.get(item))
    if not raw:
      counts["rejected"] += 1
    elif raw in seen:
      counts["repeated"] += 1
    elif raw in place:
      seen.add(raw)
      counts["matched"] += 1
      for name, column in columns_of.items():
        value = row.get(column)
        found[name][place[raw]] = _words(value)
        if name in ATTRIBUTES:
          attributes[place[raw]] |= {f"{name}: {v}" for v in _values(value, column)}
  if not seen:
    raise UserError(
      f"{table} names none of the log's {len(place):,} items; its column {item!r} has "
      "to be the raw item ids of the log (another: --items_id)"
    )
  logger.info(
    f"{counts['matched']:,} of {len(place):,} items have a line; of its "
    f"{counts['rows']:,} lines {counts['rejected']:,} could not be read, "
    f"{counts['repeated']:,} are repeated"
  )
  return found, attributes if any(attributes) else None, counts


def source_of(path: epath.Path, encoding: str | None = None) -> Source:
  """Returns a file of items with the names of its columns."""
  is_recbole = compression.plain_name(path.name).endswith(".item")
  form = "recbole" if is_recbole else files.find(str(path))[0][1]
  source = headers.named(path, form, Options("", "", encoding=encoding))
  source = source._replace(lists={}, explode="")
  if not source.header:
    source = source._replace(names=_HEADLESS[: len(source.names)])
  return source


def _roles(source: Source, item_column: str | None) -> tuple[str, dict[str, str]]:
  """Returns the name of the column of ids, and {key of TEXTS: its column}."""
  if item_column is not None and item_column not in source.names:
    raise UserError(
      f"{source.path} has no column {item_column!r} (--items_id); it has "
      f"{', '.join(source.names[:30])}"
    )
  known = headers.known_in(source.names, headers.KNOWN["item"])
  item = item_column or next(iter(known), source.names[0])
  looks = [column for column in values.look(source) if column.name != item]
  names = [column.name for column in looks if not values.is_url(column)]
  last, found = names[-1:], {}
  for text, known in TEXTS.items():
    for match in headers.known_in(names, known)[:1]:
      names.remove(match)
      found[text] = match
  return item, found or dict(zip(["title"], last))


def _rows(source: Source, wanted: Sequence[str]) -> Iterator[Mapping[str, Any]]:
  """Yields the `wanted` columns of each row as {column: value}; {} = unreadable."""
  roles = {name: place for place, name in enumerate(source.names) if name in wanted}
  source = source._replace(roles=roles)
  if source.form == "parquet":
    for lists, rows, _ in readers.parquet_rows(source, pyarrow.Array.to_pylist):
      yield from ({name: lists[name][n] for name in roles} for n in range(rows))
    return
  for piece in readers.pieces(source, files.BLOCK):
    if source.form == "jsonl":
      raws = filter(bytes.strip, piece.content.split(b"\n"))
      yield from (_object(raw) or {} for raw in raws)
    else:
      table, tally = readers.parse(source, piece)
      yield from table.to_pylist()
      yield from [{}] * tally.rejected.total()


def _object(raw: bytes) -> dict[str, Any] | None:
  try:
    value = json_text.loads(raw)
    json.dumps(value, ensure_ascii=False).encode()  # fails on a lone surrogate
  except ValueError:
    return None
  return value if isinstance(value, dict) else None


def _id(value: Any) -> str | None:
  if isinstance(value, float) and value.is_integer():
    value = int(value)
  if isinstance(value, bytes):
    value = value.decode(errors="replace")
  if isinstance(value, bool) or not isinstance(value, str | int):
    return None
  return str(value).strip() or None


def _values(value: Any, column: str) -> list[str]:
  """Splits a field: a list by element, RecBole's token_seq by word, others at |.

  The column `categories` is split at commas if it has no |, as Yelp writes it.
  """
  if isinstance(value, list | tuple):
    return [part for element in value for part in _values(element, "")]
  text = _words(value)
  if column.endswith(":token_seq"):
    return text.split()
  is_yelp = column.lower() == "categories" and "|" not in text
  return formats.parts(text, "," if is_yelp else "|")


def _words(value: Any) -> str:
  if isinstance(value, list | tuple):
    return " ".join(filter(None, map(_words, value)))
  if value is None or isinstance(value, dict | bytes):
    return ""
  return re.sub(r"\s+", " ", str(value)).strip()
