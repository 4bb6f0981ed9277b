"""Rows that hold several interactions become one row each, in the list's order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow

from lightlm_jax.preprocess.files import Source

PLACE = "place"  # column: a row's place in the list that it comes from
_WORDS = {"words": r"\S+", "clicks": r"\S+-1(?:\s|$)"}


def objects(value: dict[str, Any], source: Source) -> list[dict[str, Any]]:
  """Returns the rows of a JSON object.

  They are the objects of the list `source.explode`, each with the fields of `value`.
  Otherwise, if the item is a list, they are its elements; other lists go along.
  """
  if source.explode:
    inner = value.get(source.explode)
    inner = inner if isinstance(inner, list) else []
    key = source.explode
    return [
      {**value, **{f"{key}.{name}": x for name, x in element.items()}}
      for element in inner
      if isinstance(element, dict)
    ]
  item = source.columns.get("item")
  listed = value.get(item or "")
  if not listed or not isinstance(listed, list):
    return [value]
  along = {
    name: x
    for name, x in value.items()
    if isinstance(x, list) and len(x) == len(listed)
  }
  return [
    {**value, **{name: x[n] for name, x in along.items()}} for n in range(len(listed))
  ]


def exploded(
  columns: Mapping[str, Any], line_R: np.ndarray, convert: Any
) -> tuple[dict[str, Any], np.ndarray]:
  """Explodes the lists of a Parquet file; `convert` makes an exploded column usable."""
  listed = [n for n, x in columns.items() if pyarrow.types.is_nested(x.type)]
  if not listed:
    return dict(columns), line_R
  frame = _rows(pl.DataFrame({**columns, "line": line_R}), listed)
  arrays = {name: convert(frame[name].to_arrow()) for name in columns}
  return arrays | {PLACE: frame[PLACE].to_arrow()}, frame["line"].to_numpy()


def split(
  source: Source, columns: Mapping[str, Any], line_R: np.ndarray | Sequence[int]
) -> tuple[dict[str, Any], np.ndarray | Sequence[int]]:
  """Splits the fields of delimited text that are lists, see `Source.lists`.

  The items of a history stand before the row's own item.
  """
  kinds = {role: source.lists.get(place) for role, place in source.roles.items()}
  found = {role: kind for role, kind in kinds.items() if kind}
  if not found:
    return dict(columns), line_R
  frame = pl.DataFrame({**columns, "line": np.asarray(line_R, np.int64)})
  for role in ("history", "item"):
    if role in found:
      words = pl.col(role).str.extract_all(_WORDS[found[role]])
      if found[role] == "clicks":
        clean = pl.element().str.strip_chars().str.strip_suffix("-1")
        words = words.list.eval(clean)
      frame = frame.with_columns(words)
    elif role in frame.columns:
      frame = frame.with_columns(pl.concat_list(role))
  if "history" in frame.columns:
    frame = frame.with_columns(item=pl.concat_list("history", "item")).drop("history")
  frame = _rows(frame, ["item"])
  arrays = {name: frame[name].to_arrow() for name in frame.columns if name != "line"}
  return arrays, frame["line"].to_numpy()


def _rows(frame: pl.DataFrame, listed: list[str]) -> pl.DataFrame:
  """Returns a row for each element of the lists; an empty list has a row of nulls."""
  length = pl.col(listed[0]).list.len().fill_null(0)
  number_N = frame.select(length.clip(1))[listed[0]].to_numpy().astype(np.int64)
  row_R = np.repeat(np.arange(len(frame)), number_N)
  start_N = np.cumsum(number_N) - number_N
  place_R = np.arange(len(row_R)) - start_N[row_R]
  columns = [pl.Series(PLACE, place_R, dtype=pl.Int32)]
  for name in listed:
    # Polars' versions differ in what they make of an empty list.
    none = pl.lit([None], frame.schema[name])
    filled = pl.when(length > 0).then(pl.col(name)).otherwise(none).alias(name)
    column: Any = frame.select(filled)[name].to_arrow()
    columns.append(pl.Series(name, column.flatten()))
  return frame.drop(listed)[row_R].with_columns(columns)
