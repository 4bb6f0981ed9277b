"""Writes and verifies the manifests of a checkpoint: SHA-256 of each of its files.

Each process writes the manifest of the files that it wrote. All of them verify a
checkpoint together, each a share of the files.
"""

from collections.abc import Iterator
import hashlib
import json
import re

from etils import epath

from lightlm_jax.runtime.errors import first_line
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import folder as folder_lib

# Manifest of the first process; that of process N is sha256.process_N.json. In older
# versions it covers all processes.
_MANIFEST = "sha256.json"
PROGRESS = "progress.json"  # progress that replaces the one saved with the state


def write(folder: epath.Path, process: int) -> None:
  """Writes the manifest: SHA-256, by path, of the files that this process wrote."""
  digests = {
    str(path.relative_to(folder)): folder_lib.sha256(path)
    for path in _files(folder)
    if _writer_of(path.relative_to(folder)) == process
  }
  name = f"sha256.process_{process}.json" if process else _MANIFEST
  atomic.write_own(folder / name, json.dumps(digests, indent=2) + "\n")


def changed(folder: epath.Path, process: int, count: int) -> str | None:
  """Checks one of `count` shares of the files; returns the first damage or None."""
  wanted = {}
  for manifest in _manifests(folder):
    try:
      wanted |= json_text.loads(manifest.read_text())
    except (ValueError, TypeError) as error:
      return f"{manifest.name} is no JSON object ({first_line(error)})"
  for name in sorted(wanted)[process::count]:
    path = folder / name
    if not path.exists():
      return f"{name} is gone"
    if folder_lib.sha256(path) != wanted[name]:
      return f"{name} is not what was written"
  return None


def sha256(folder: epath.Path) -> str | None:
  """Returns the SHA-256 of a checkpoint's manifests; None if it has none."""
  content = b"".join(path.read_bytes() for path in _manifests(folder))
  return hashlib.sha256(content).hexdigest() if content else None


def _manifests(folder: epath.Path) -> list[epath.Path]:
  return sorted(folder.glob("sha256.*json"))


def _writer_of(path: epath.Path) -> int:
  """Returns the process that a file's path names as its writer; 0 if it names none."""
  named = re.search(r"(?:^|[/.])process_(\d+)(?:/|$)", str(path))
  return int(named[1]) if named else 0


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields all files in `folder` and below, except those that this module writes."""
  # On a bucket epath does not support recursive patterns.
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _files(path)
    elif not path.name.startswith(("sha256.", PROGRESS)):
      yield path
