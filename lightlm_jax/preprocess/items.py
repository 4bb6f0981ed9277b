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
from lightlm_jax.preprocess import columns, compression, files, readers
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text

logger = logging.getLogger(__name__)

# Columns of items.parquet (those of formats.TEXTS), and how input files name them.
TEXTS = {
  "title": "title name movietitle booktitle itemname productname producttitle "
  "textualid text",
  "brand": "brand brandname store manufacturer",
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
  texts, of_table, counts = {}, None, None
  if table.exists():
    texts, of_table, counts = _texts(table, item_ids.tolist(), options)
  names = of_table if names is None else names
  found = {name: pyarrow.array(values) for name, values in texts.items()}
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


def _texts(table: epath.Path, item_ids: Sequence[str], options: Options):
  """Reads the file `table`; returns {column: texts}, attributes and counts of its rows.

  Texts and attributes are in the order of `item_ids`; attributes are None if no item
  has any.
  """
  source, item, columns_of = _source(table, options)
  shown = ", ".join(f"{to} = {of!r}" for to, of in columns_of.items())
  logger.info(f"items: {table}: item = {item!r}, {shown}")
  place = {raw: number for number, raw in enumerate(item_ids)}
  texts = {name: [""] * len(place) for name in columns_of}
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
        texts[name][place[raw]] = _words(value)
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
  return texts, attributes if any(attributes) else None, counts


def _source(path: epath.Path, options: Options):
  """Returns the file's `Source`, its id column, and {key of TEXTS: its column}."""
  is_recbole = compression.plain_name(path.name).endswith(".item")
  form = "recbole" if is_recbole else files.find(str(path))[0][1]
  source = columns.named(path, form, Options("", "", encoding=options.encoding))
  item_column = options.items_id
  if not source.header:
    source = source._replace(names=_HEADLESS[: len(source.names)])
  if item_column is not None and item_column not in source.names:
    raise UserError(
      f"{path} has no column {item_column!r} (--items_id); it has "
      f"{', '.join(source.names[:30])}"
    )
  known = columns.first_known(source.names, columns.KNOWN["item"])
  item = item_column or known or source.names[0]
  texts = {}
  for text, names in TEXTS.items():
    match = columns.first_known(source.names, names)
    if match is not None and match != item and match not in texts.values():
      texts[text] = match
  if not texts and len(source.names) > 1:
    texts["title"] = source.names[-1]
  return source, item, texts


def _rows(source: Source, wanted: Sequence[str]) -> Iterator[Mapping[str, Any]]:
  """Yields the `wanted` columns of each row as {column: value}; {} = unreadable."""
  roles = {name: place for place, name in enumerate(source.names) if name in wanted}
  source = source._replace(roles=roles)
  if source.form == "parquet":
    path = epath.Path(source.path)
    for values, rows, _ in readers.parquet_rows(
      path, source.columns, pyarrow.Array.to_pylist
    ):
      yield from ({name: values[name][n] for name in roles} for n in range(rows))
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
  """Splits a field: a list by element, RecBole's token_seq by word, others at |."""
  if isinstance(value, list | tuple):
    return [part for element in value for part in _values(element, column)]
  text = _words(value)
  if column.endswith(":token_seq"):
    return text.split()
  return [part.strip() for part in text.split("|") if part.strip()]


def _words(value: Any) -> str:
  if isinstance(value, list | tuple):
    return " ".join(filter(None, map(_words, value)))
  if value is None or isinstance(value, dict | bytes):
    return ""
  return re.sub(r"\s+", " ", str(value)).strip()
