"""Unpacks compressed files while they are read: gzip, bzip2, zstd and zip."""

import bz2
import gzip
import os
import re
from typing import IO, Any
import zipfile
import zlib

import pyarrow

from lightlm_jax.runtime.errors import UserError

ENDINGS = (".gz", ".bz2", ".zst", ".zip")
_UNREADABLE = (".xz", ".7z", ".rar", ".lz4")
# What a damaged file raises.
FAULTS = (OSError, EOFError, zlib.error, zipfile.BadZipFile)
# The first bytes of each form; a file is recognised by them, whatever its name.
_BEGINS = {
  "gzip": rb"\x1f\x8b",
  "bzip2": rb"BZh[1-9](1AY&SY|\x17rE8P\x90)",
  "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",  # a frame, or one to skip
  "zip": rb"PK(\x03\x04|\x05\x06)",
  "xz": rb"\xfd7zXZ\x00",
  "7z": rb"7z\xbc\xaf\x27\x1c",
  "rar": rb"Rar!\x1a\x07",
  "lz4": rb"\x04\x22\x4d\x18",
}


def plain_name(name: str) -> str:
  """Returns a file's name without the ending of a packed form: LOG.CSV for LOG.CSV.GZ.

  Forms that are not read count too, so that opening the file can name the form.
  """
  base, ending = os.path.splitext(name)
  return base if ending.lower() in (*ENDINGS, *_UNREADABLE) else name


def unpacked(path: os.PathLike[str], raw: IO[bytes]) -> Any:
  """Returns a stream of the content of the open file `raw`; `raw` itself if not packed.

  Raises:
    UserError: it is packed in a form that is not read.
    One of FAULTS: it is damaged; reading the stream may raise one too.
  """
  head = raw.read(10)
  raw.seek(0)
  form = next((f for f, begin in _BEGINS.items() if re.match(begin, head)), None)
  if form is None:
    return raw
  if form == "gzip":
    return gzip.GzipFile(fileobj=raw)
  if form == "bzip2":
    return bz2.BZ2File(raw)
  if form == "zstd":
    return pyarrow.CompressedInputStream(raw, "zstd")
  if form == "zip":
    return _only_file(path, raw)
  raise UserError(
    f"{path} is packed as {form}, which is not read; unpack it, or pack it as gzip, "
    "bzip2, zstd or zip"
  )


def _only_file(path: os.PathLike[str], raw: IO[bytes]) -> IO[bytes]:
  archive = zipfile.ZipFile(raw)
  entries = [entry for entry in archive.infolist() if not entry.is_dir()]
  # macOS adds a file about each file.
  entries = [entry for entry in entries if not entry.filename.startswith("__MACOSX/")]
  if len(entries) != 1:
    raise UserError(
      f"{path} is a zip of {len(entries)} files, and only one can be read; unpack it "
      "and give what is the log"
    )
  try:
    return archive.open(entries[0])
  except RuntimeError as error:  # it has a password, or a rare method
    raise UserError(f"cannot unpack {path} ({error}); unpack it by hand")
