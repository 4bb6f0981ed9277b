"""Tells the encodings of text files, and recodes texts to UTF-8 while they are read."""

import codecs
from collections.abc import Callable
import re

from lightlm_jax.runtime.errors import UserError

_MARKS = {
  codecs.BOM_UTF8: "utf-8",
  codecs.BOM_UTF16_LE: "utf-16",
  codecs.BOM_UTF16_BE: "utf-16",
}
_SEQUENCE = re.compile(  # a character of several bytes in UTF-8
  rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f\x81\x8d\x8f\x90\x9d]")
# Windows-1252's letters, without ÿ and ƒ: those are rare in texts and common in others'
# bytes. Its quotes, dashes, dots and signs of trade.
_LETTER = rb"[\x8a\x8c\x8e\x9a\x9c\x9e\x9f\xc0-\xd6\xd8-\xf6\xf8-\xfe]"
_PUNCTUATION = rb"[\x85\x91-\x94\x96\x97\x99\xa9\xae]"
_FAULTS = "lightlm_jax.as_255"  # Python's name for `_as_255`


def known(name: str) -> str:
  """Returns `name`, or raises a UserError if Python has no such encoding of text."""
  try:
    "a".encode(name)
    codecs.getincrementaldecoder(name)
  except (LookupError, ValueError):
    raise UserError(
      f"--encoding={name} is no encoding that Python knows; give one such as cp1251, "
      "gb18030, shift_jis or utf-16-le"
    )
  return name


def marked(head: bytes) -> str | None:
  """Returns the encoding that a byte order mark tells; None without a mark."""
  return next((name for mark, name in _MARKS.items() if head.startswith(mark)), None)


def is_windows_1252(head: bytes) -> bool:
  """Guesses whether a text's first bytes are Windows-1252 (or Latin-1), not UTF-8.

  It has no character of several bytes in UTF-8, and no control character in a line with
  bytes above 127. Such bytes are letters or punctuation of words with ASCII letters: at
  least half of the letters stand next to one. In Cyrillic, Greek or Chinese encodings
  nearly none do.
  """
  try:
    codecs.getincrementaldecoder("utf-8")().decode(head)  # may end within a character
    return False
  except UnicodeDecodeError:
    pass
  text = b"\n".join(line for line in head.split(b"\n") if not line.isascii())
  if _SEQUENCE.search(text) or _NO_TEXT.search(text):
    return False
  letters = _beside_ascii(_LETTER, text)
  if not letters and not _beside_ascii(_PUNCTUATION, text):
    return False
  return 2 * letters >= len(re.findall(_LETTER, text))


def recoder(encoding: str) -> Callable[[bytes, bool], bytes]:
  """Returns a function that recodes a text to UTF-8, piece by piece.

  Its arguments are the next bytes, and whether they are the last ones. Bytes that the
  encoding does not have become the byte 255, which UTF-8 does not have either: their
  lines are rejected.
  """
  if codecs.lookup(encoding).name == "utf-8":
    return lambda raw, last: raw
  decoder = codecs.getincrementaldecoder(encoding)(_FAULTS)
  return lambda raw, last: decoder.decode(raw, last).encode("utf-8", _FAULTS)


def _as_255(error: UnicodeError) -> tuple[str | bytes, int]:
  """Lets the decoder write a lone surrogate, and the encoder the byte 255 for it."""
  if isinstance(error, UnicodeEncodeError):
    return b"\xff", error.end
  assert isinstance(error, UnicodeDecodeError)
  return "\udcff", error.end


codecs.register_error(_FAULTS, _as_255)


def _beside_ascii(kind: bytes, text: bytes) -> int:
  """Counts the bytes of a kind that stand next to an ASCII letter."""
  return len(re.findall(b"(?<=[A-Za-z])%b|%b(?=[A-Za-z])" % (kind, kind), text))
