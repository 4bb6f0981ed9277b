"""Item metadata: texts and attributes from a file beside the log."""

from collections.abc import Iterator, Mapping, Sequence
import json
import logging
import re
from typing import Any, NamedTuple

from etils import epath

from lightlm_jax.data import formats
from lightlm_jax.preprocess import columns, files, readers
from lightlm_jax.preprocess import parquet_rows as parquet
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text

logger = logging.getLogger(__name__)

# Columns of items.parquet (those of formats.TEXTS), and their names in files.
TEXTS = {
  "title": "title name movietitle itemname productname producttitle textualid text",
  "brand": "brand brandname store manufacturer",
  "genres": "genres genre class",
  "category": "category maincategory maincat",
  "categories": "categories",
  "description": "description desc",
}
# Columns of a file without a header, such as MovieLens' movies.dat.
_HEADLESS = ("item", "title", "genres", "description")
ATTRIBUTES = ("brand", "genres", "category", "categories")


class Metadata(NamedTuple):
  """The metadata of a catalogue, in its order.

  Attributes:
    texts: by column of TEXTS, "" = none.
    attributes: of each item, sorted; None if no item has any.
    counts: rows of the file by outcome; None without a file.
  """

  texts: Mapping[str, Sequence[str]]
  attributes: Sequence[Sequence[str]] | None
  counts: Mapping[str, int] | None


def beside(found: Sequence[epath.Path]) -> tuple[epath.Path | None, epath.Path | None]:
  """Returns the files of items and attributes beside a log; None if missing."""
  folder = found[0].parent
  table = folder / "items.tsv"
  if found[0].name.endswith((".inter", ".inter.gz")):
    name = found[0].name.removesuffix(".gz").removesuffix(".inter").partition(".")[0]
    table = folder / f"{name}.item"
  attributes = folder / "item_attributes.json"
  return (
    table if table.exists() else None,
    attributes if attributes.exists() else None,
  )


def read(
  table: epath.Path | None,
  attributes: epath.Path | None,
  item_ids,
  item_column: str | None,
) -> Metadata:
  """Reads the metadata of the catalogue.

  Args:
    table: a file with one item per line, in any format of a log; of repeated items the
      first line counts.
    attributes: item_attributes.json.
    item_ids: [I] numpy strings.
    item_column: column of item ids; None = guess.

  Raises:
    UserError: a file cannot be read, or has none of these items.
  """
  names = None
  if attributes is not None:
    names = formats.read_attribute_names(attributes, item_ids)
    logger.info(f"attributes of items: {attributes}")
  if table is None:
    listed = None if names is None else [sorted(a) for a in names]
    return Metadata({}, listed, None)
  source, item, texts = _source(table, item_column)
  said = ", ".join(f"{to} = {of!r}" for to, of in texts.items())
  logger.info(f"items: {table}: item = {item!r}, {said}")
  place = {raw: number for number, raw in enumerate(item_ids.tolist())}
  found = {name: [""] * len(place) for name in texts}
  from_columns = [set() for _ in place]
  seen, counts = set(), {"rows": 0, "matched": 0, "repeated": 0, "rejected": 0}
  for row in _rows(source, [item, *texts.values()]):
    counts["rows"] += 1
    raw = None if row is None else _id(row.get(item))
    if row is None or raw is None:
      counts["rejected"] += 1
      continue
    number = place.get(raw)
    if number is None:
      continue
    if number in seen:
      counts["repeated"] += 1
      continue
    seen.add(number)
    counts["matched"] += 1
    for name, column in texts.items():
      values = _values(row.get(column), column)
      found[name][number] = _words(row.get(column))
      if name in ATTRIBUTES:
        from_columns[number] |= {f"{name}: {value}" for value in values}
  if not seen:
    raise UserError(
      f"{table} names none of the log's {len(place):,} items; its column {item!r} has "
      "to be the raw item ids of the log (another: --items_id)"
    )
  if names is None and any(from_columns):
    names = from_columns
  logger.info(
    f"{counts['matched']:,} of {len(place):,} items have a line; of its "
    f"{counts['rows']:,} lines {counts['rejected']:,} could not be read, "
    f"{counts['repeated']:,} are repeated"
  )
  return Metadata(found, None if names is None else [sorted(a) for a in names], counts)


def _source(path: epath.Path, item_column: str | None):
  """Returns how to read the file, its id column, and its text columns by name."""
  name = path.name.removesuffix(".gz")
  form = "recbole" if name.endswith(".item") else files.find(str(path))[0][1]
  source = columns.named(path, form)
  if not source.header and source.names:
    source = source._replace(names=_HEADLESS[: len(source.names)])
  places = dict(enumerate(source.names))
  if item_column is not None and item_column not in source.names:
    raise UserError(
      f"{path} has no column {item_column!r} (--items_id); it has "
      f"{', '.join(source.names[:30])}"
    )
  item = item_column or columns.guess(source.names, "item") or source.names[0]
  texts = {}
  for text, known in TEXTS.items():
    match = columns.first_known(source.names, known.split())
    if match is not None and match != item and match not in texts.values():
      texts[text] = match
  if not texts and len(places) > 1:
    texts["title"] = source.names[-1]
  return source, item, texts


def _rows(
  source: readers.Source, wanted: Sequence[str]
) -> Iterator[Mapping[str, Any] | None]:
  """Yields the rows by column; None for a row that cannot be read."""
  roles = {name: place for place, name in enumerate(source.names) if name in wanted}
  source = source._replace(roles=roles)
  if source.form == "parquet":
    path = epath.Path(source.path)
    for columns_, rows, _ in parquet.read(
      path, {name: name for name in roles}, lambda column: column.to_pylist()
    ):
      yield from ({name: c[n] for name, c in columns_.items()} for n in range(rows))
    return
  for piece in readers.pieces(source, files.BLOCK):
    if source.form == "jsonl":
      for raw in piece.content.split(b"\n"):
        if raw.strip():
          yield _object(raw)
    else:
      parsed = readers.parse(source, piece)
      yield from parsed.table.to_pylist()
      yield from [None] * parsed.rejected.total()


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
  """Returns a field's values: list elements, `token_seq` words, or parts between |."""
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
