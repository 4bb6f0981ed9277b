r"""Screens delimited text: only well-formed rows reach the CSV parser.

A CSV parser that meets an unclosed quote swallows the following lines. So quotes are
checked first: a field is `"…"` with inner quotes doubled, or text that does not begin
with a quote. A quoted field may contain line ends if it closes within MOST_JOINED lines
and the row then has the right number of columns; otherwise only the row's first line
is rejected, and screening continues with the next one. A line that is no row as it
stands, but is one if `\"` is read as a doubled quote, is read so: MySQL writes that.
"""

import functools
import re
from typing import NamedTuple

import numpy as np
import polars as pl

from lightlm_jax.preprocess import files
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.tally import Tally

# Limits of one row.
MOST_JOINED = 200  # lines
_MOST_CHARACTERS = 2**20


def screen(
  source: Source, content: bytes, first: int, last: bool, tally: Tally
) -> tuple[bytes, np.ndarray, bytes, int]:
  """Screens the block `content` of whole lines; its first line has number `first`.

  Rejected lines are counted in the tally, blank lines are not. `last` is True for the
  last block of the file.

  Returns:
    The rows, separated by line feeds; the number of each row's first line, int64; an
    incomplete row to prepend to the next block; the number of that block's first line.
  """
  has_quotes = source.quotes and b'"' in content
  has_blank = content.startswith(b"\n") or b"\n\n" in content
  if not (has_quotes or has_blank) and files.decoded(content) is not None:
    end = first + files.count_lines(content)
    return content, np.arange(first, end), b"", end

  raw_L = content.removesuffix(b"\n").split(b"\n")
  text_L = [files.decoded(raw) for raw in raw_L]
  rows, line_R, refused, end = text_L, range(len(text_L)), [], len(text_L)
  if has_quotes:
    p = _patterns(source.between, len(source.names))
    rows, line_R, refused, end = _joined(text_L, p, last)
  for n in range(end):
    if text_L[n] is None:
      tally.reject("not_utf8", source.index, first + n, shown(raw_L[n]))
  for n in refused:
    tally.reject("quotes", source.index, first + n, text_L[n])
  kept = [n for n, row in enumerate(rows) if row is not None and row.strip(" ")]
  return (
    "\n".join(rows[n] or "" for n in kept).encode(),
    first + np.array([line_R[n] for n in kept], np.int64),
    b"".join(raw + b"\n" for raw in raw_L[end:]),
    first + end,
  )


def is_quoted(head: bytes, delimiter: str) -> bool:
  """Whether all of the first lines of a file are rows with well-formed quotes."""
  whole = _patterns(delimiter, 1).whole
  texts = pl.Series([text for text in map(files.decoded, head.split(b"\n")) if text])
  begins = texts.str.contains(rf'(?:^|{re.escape(delimiter)})"').any()
  return bool(begins and texts.str.contains(whole).all())


def shown(raw: bytes) -> str:
  """Returns the first bytes of an undecodable line in printable form."""
  return repr(raw[:60])[2:-1]


class _Patterns(NamedTuple):
  whole: str  # a line that is a row, with any number of columns
  exact: re.Pattern  # a row with the right number of columns
  opening: re.Pattern  # a line whose last field begins a quote and does not close it
  inside: re.Pattern  # a line within a quoted field
  closing: re.Pattern  # a line that closes a quoted field
  reopening: re.Pattern  # a line that closes one quoted field and opens another


@functools.cache
def _patterns(delimiter: str, columns: int) -> _Patterns:
  d = re.escape(delimiter)
  inner = '(?:[^"]|"")*'
  field = f'(?:"{inner}"|[^"{d}\\n][^{d}\\n]*|)'
  return _Patterns(
    rf"^{field}(?:{d}{field})*$",
    re.compile(rf"{field}(?:{d}{field}){{{columns - 1}}}\Z"),
    re.compile(rf'(?:{field}{d})*"{inner}\Z'),
    re.compile(rf"{inner}\Z"),
    re.compile(rf'{inner}"(?:{d}{field})*\Z'),
    re.compile(rf'{inner}"(?:{d}{field})*{d}"{inner}\Z'),
  )


def _joined(text_L: list[str | None], p: _Patterns, last: bool):
  """Joins the lines of each row; undecodable lines are None in `text_L`.

  Returns the rows (None = rejected), the index of each row's first line, the indices of
  lines rejected for their quotes, and the index where the next block has to begin.
  """
  quoted = [number for number, text in enumerate(text_L) if text and '"' in text]
  texts = pl.Series([text_L[number] for number in quoted], dtype=pl.String)
  is_whole = texts.str.contains(p.whole)
  doubtful = {n for n, whole in zip(quoted, is_whole.to_list()) if not whole}
  rows, line_R, refused, number = [], [], [], 0
  while number < len(text_L):
    row, after = text_L[number], number + 1
    doubled = row and number in doubtful and row.replace('\\"', '""')
    if doubled and p.exact.match(doubled):
      row = doubled
    elif doubled:
      closes = _closing(text_L, number, p)
      if closes is None and not last:
        break
      row = "\n".join(text or "" for text in text_L[number : closes or number])
      if closes and p.exact.match(row):
        after = closes
      else:
        row = None
        refused.append(number)
    rows.append(row)
    line_R.append(number)
    number = after
  return rows, line_R, refused, number


def _closing(text_L: list[str | None], number: int, p: _Patterns) -> int | None:
  """Finds the end of a row whose first line, at index `number`, leaves a quote open.

  Returns one past the index of the row's last line; 0 if its quotes are malformed;
  None if the row may end in the next block.
  """
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
