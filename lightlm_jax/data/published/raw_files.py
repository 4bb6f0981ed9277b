"""The raw files of published logs: names, URLs, checksums, and reading their lines."""

from collections.abc import Iterator
import gzip
import http.client
import io
from typing import Any, NamedTuple
import urllib.error
import urllib.request
import zipfile
import zlib

from etils import epath

from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import folder as folder_lib

LONGEST = 2**20  # maximum bytes of a line; ten times the longest of any source
_PATIENCE_SECONDS = 20


class RawFile(NamedTuple):
  """A raw file of a published log."""

  name: str  # in the data folder
  url: str | None = None  # None = it has to be downloaded by hand
  member: str | None = None  # path in the archive at the URL; None = no archive
  sha256: str | None = None  # of the download; None = unknown
  also: tuple[str, ...] = ()  # further names under which it is accepted

  @property
  def download(self) -> str:
    """The name of the downloaded file: the URL's last part, or `name` without a URL."""
    return self.url.rpartition("/")[2] if self.url else self.name

  @property
  def others(self) -> tuple[str, ...]:
    """Accepted names besides `download`: `name` with or without `.gz`, and `also`."""
    plain = self.name.removesuffix(".gz")
    return tuple(n for n in (plain, f"{plain}.gz", *self.also) if n != self.download)

  def by_hand(self, folder: epath.Path) -> epath.Path | None:
    """Returns the file's path in `folder`, under any accepted name; None if missing."""
    paths = (folder / name for name in (self.download, *self.others))
    return next((path for path in paths if path.exists()), None)

  def describe(self) -> str:
    return f"{self.download} ({self.url})" if self.url else self.name


def check(raw: RawFile, path: epath.Path) -> None:
  """Raises a UserError if the download at `path` does not match `raw.sha256`.

  Files under `raw.others`, and downloads without a known SHA-256, are not checked.
  """
  if raw.sha256 is None or path.name in raw.others:
    return
  found = folder_lib.sha256(path)
  if found != raw.sha256:
    raise UserError(
      f"{path} is not the published {raw.download}: its SHA-256 is {found[:12]}…, not "
      f"{raw.sha256[:12]}…; remove it and fetch {raw.url} again"
    )


def unreachable(url: str) -> str | None:
  """Returns the reason why a URL cannot be fetched; None if it can."""
  request = urllib.request.Request(url, method="HEAD")
  try:
    urllib.request.urlopen(request, timeout=_PATIENCE_SECONDS).close()
  except urllib.error.HTTPError as error:
    # Some servers do not support HEAD.
    return None if error.code in (405, 501) else f"it answers {error.code}"
  except (OSError, http.client.HTTPException, ValueError) as error:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    return first_line(reason) if isinstance(reason, Exception) else str(reason)
  return None


def read_lines(raw: RawFile, path: epath.Path) -> Iterator[bytes | None]:
  """Yields the lines of a plain, gzip or zip file; None = a line over LONGEST bytes."""
  number = 0
  try:
    with path.open("rb") as file, _unpacked(raw, file) as text:
      while line := text.readline(LONGEST):
        number += 1
        first = line
        while len(line) == LONGEST and not line.endswith(b"\n"):
          line = text.readline(LONGEST)
        yield first if line is first else None
  except (OSError, EOFError, zlib.error, zipfile.BadZipFile, KeyError) as error:
    raise UserError(
      f"{path} is damaged or cut off after {number:,} lines ({first_line(error)}); "
      "remove it and fetch it again"
    )


def _unpacked(raw: RawFile, file: Any) -> Any:
  """Returns the file as a stream, unpacked if its first bytes mark a gzip or zip."""
  magic = file.read(4)
  file.seek(0)
  if magic[:2] == b"\x1f\x8b":
    return io.BufferedReader(gzip.GzipFile(fileobj=file))
  if magic == b"PK\x03\x04" and raw.member:
    member: Any = zipfile.ZipFile(file).open(raw.member)
    return io.BufferedReader(member)
  return file
