"""Screening of delimited text: only well-formed rows reach the CSV parser.

A CSV parser that meets an unclosed quote swallows the following lines. So quotes are
checked first: a field is `"…"` with inner quotes doubled, or anything that does not
begin with a quote. A quoted field may contain line ends, if it closes within
MOST_JOINED lines and the row then has the right number of columns; otherwise only its
first line is rejected, and screening goes on with the next one.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
import polars as pl

from lightlm_jax.preprocess.tally import Rejected

# Limits of one row.
MOST_JOINED = 200  # lines
_MOST_CHARACTERS = 2**20


class Screened(NamedTuple):
  """The screened rows of a block.

  Attributes:
    content: rows, separated by line feeds.
    line_R: int64, the first line number of each row.
    rejected: rejected lines; blank lines do not count.
    rest: bytes of an incomplete row, to be prepended to the next block.
    lines: number of lines consumed.
  """

  content: bytes
  line_R: np.ndarray
  rejected: Rejected
  rest: bytes
  lines: int


def screen(
  content: bytes,
  first: int,
  delimiter: str,
  *,
  quotes: bool,
  columns: int,
  last: bool,
) -> Screened:
  """Screens the lines of a block.

  Args:
    content: whole lines.
    first: the number of the first line.
    delimiter: between columns.
    quotes: whether the format has quoted fields.
    columns: number of columns.
    last: whether this is the last block.
  """
  is_plain = not (quotes and b'"' in content)
  is_plain &= not (content.startswith(b"\n") or b"\n\n" in content)
  if is_plain and _is_utf8(content):
    lines = content.count(b"\n") + (not content.endswith(b"\n") and bool(content))
    return Screened(content, np.arange(first, first + lines), Rejected(), b"", lines)

  raw_L = content.split(b"\n")
  if not raw_L[-1]:
    raw_L.pop()
  text_L = [_decoded(raw) for raw in raw_L]
  rows, line_R, end = text_L, range(len(text_L)), len(text_L)
  refused = []
  if quotes and b'"' in content:
    rows, line_R, refused, end = _joined(text_L, delimiter, columns, last)
  rejected = Rejected()
  for n in range(end):
    if text_L[n] is None:
      rejected.add("not_utf8", first + n, shown(raw_L[n]))
  for n in refused:
    rejected.add("quotes", first + n, text_L[n])
  kept = [n for n, row in enumerate(rows) if row is not None and row.strip(" ")]
  rest = b"\n".join(raw_L[end:]) + b"\n" if end < len(raw_L) else b""
  return Screened(
    "\n".join(rows[n] or "" for n in kept).encode(),
    first + np.array([line_R[n] for n in kept], np.int64),
    rejected,
    rest,
    end,
  )


def shown(raw: bytes) -> str:
  """Returns undecodable bytes in printable form."""
  return repr(raw[:60])[2:-1]


def _joined(text_L: list[str | None], delimiter: str, columns: int, last: bool):
  """Returns rows, their first lines, rejected lines, and the end of the last row."""
  p = _patterns(delimiter, columns)
  quoted = [number for number, text in enumerate(text_L) if text and '"' in text]
  texts = pl.Series([text_L[number] for number in quoted], dtype=pl.String)
  is_whole = texts.str.contains(p.whole)
  doubtful = {n for n, whole in zip(quoted, is_whole.to_list()) if not whole}
  rows, line_R, refused, number = [], [], [], 0
  while number < len(text_L):
    after = number + 1
    if number not in doubtful:
      rows.append(text_L[number])
      line_R.append(number)
    else:
      closes = _closing(text_L, number, p)
      if closes is None and not last:
        return rows, line_R, refused, number
      row = "\n".join(text or "" for text in text_L[number : closes or number])
      if closes and p.exact.match(row):
        rows.append(row)
        line_R.append(number)
        after = closes
      else:
        refused.append(number)
    number = after
  return rows, line_R, refused, number


def _closing(text_L: list[str | None], number: int, p) -> int | None:
  """Returns the end of the row that begins in a line; 0 = none, None = not here yet."""
  if not p.opening.match(text_L[number]):
    return 0
  end, size = number + MOST_JOINED, 0
  for after in range(number + 1, min(end, len(text_L))):
    text = text_L[after]
    size += 0 if text is None else len(text)
    if text is None or size > _MOST_CHARACTERS:
      return 0
    if '"' not in text or p.inside.match(text):
      continue
    if p.closing.match(text):
      return after + 1
    if not p.reopening.match(text):
      return 0
  return 0 if end <= len(text_L) else None


class _Patterns(NamedTuple):
  whole: str  # a line that is a row, with any number of columns
  exact: re.Pattern  # a row with the right number of columns
  opening: re.Pattern  # a line whose last field is open
  inside: re.Pattern  # a line within a field
  closing: re.Pattern  # a line that closes it
  reopening: re.Pattern  # a line that closes it and opens another


@functools.cache
def _patterns(delimiter: str, columns: int) -> _Patterns:
  d = re.escape(delimiter)
  inner = '(?:[^"]|"")*'
  field = f'(?:"{inner}"|[^"{d}\\n][^{d}\\n]*|)'
  whole = f"{field}(?:{d}{field})*"
  return _Patterns(
    rf"^{whole}$",
    re.compile(rf"{field}(?:{d}{field}){{{columns - 1}}}\Z"),
    re.compile(rf'(?:{field}{d})*"{inner}\Z'),
    re.compile(rf"{inner}\Z"),
    re.compile(rf'{inner}"(?:{d}{field})*\Z'),
    re.compile(rf'{inner}"(?:{d}{field})*{d}"{inner}\Z'),
  )


def _decoded(raw: bytes) -> str | None:
  try:
    return raw.decode()
  except UnicodeDecodeError:
    return None


def _is_utf8(content: bytes) -> bool:
  try:
    content.decode()
  except UnicodeDecodeError:
    return False
  return True
