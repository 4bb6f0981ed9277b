"""Describes the machine and the installation, and verifies the files of a run."""

from collections.abc import Callable, Iterator
import importlib.metadata
import logging
import os
import platform
import shutil
import tempfile
import time
from typing import Any, NamedTuple

from etils import epath
import jax

from lightlm_jax import config as config_lib
from lightlm_jax._version import __version__
from lightlm_jax.config import LearnedConfig, ReadsTexts, WritesIds
from lightlm_jax.data import parquet_logs
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.runs import restore, train
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import cache, devices
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.training import checkpoint

_GIB = 2**30
_STEPS = 10  # of the training that shows that all works
# Backend → package, its versions with a known fault, and the fault.
_FAULTS = {
  "gpu": (
    "jaxlib",
    ("0.10.2", "0.11.0"),
    "the gradient of an embedding (float32 scatter-add) is hundreds of times slower; "
    "pip install -c constraints.txt -e '.[cuda]' brings another version",
  )
}


class Part(NamedTuple):
  """A part of a run's folder."""

  name: str
  problem: str | None  # None = it is whole


def describe() -> Iterator[str]:
  """Yields versions, devices, memory, folders and a short training as lines of text."""
  yield (
    f"lightlm_jax {__version__}, Python {platform.python_version()}, "
    f"{platform.platform()}"
  )
  names = [*results_lib.PACKAGES, "jraph", "ml_collections", "polars", "pyarrow"]
  yield ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
  yield devices.describe()
  memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  cores = len(os.sched_getaffinity(0))
  yield f"{cores} CPU cores of {platform.machine()}, {memory / _GIB:.1f} GiB of memory"
  for stats in filter(None, (device.memory_stats() for device in jax.local_devices())):
    yield f"device memory {stats.get('bytes_limit', 0) / _GIB:.1f} GiB"
  yield _folder("cache", cache.cache_root(), "LIGHTLM_CACHE_DIR")
  data = epath.Path(os.environ.get("LIGHTLM_DATA_DIR") or cache.cache_root() / "data")
  logs = sorted(path.parent.name for path in data.glob("*/sequences.txt"))
  yield f"{_folder('data', data, 'LIGHTLM_DATA_DIR')}; {', '.join(logs) or 'no log'}"
  fault = _FAULTS.get(jax.default_backend())
  if fault and importlib.metadata.version(fault[0]) in fault[1]:
    yield f"KNOWN FAULT of {fault[0]} {' and '.join(fault[1])}: {fault[2]}"
  else:
    yield "no known fault of these versions"
  yield _short_training()


def verify(workdir: epath.PathLike) -> list[Part]:
  """Reads all files of a run; returns its parts, and what is wrong with each.

  Raises:
    UserError: there is no run, or its configuration cannot be read.
  """
  folder, config = workdir_lib.read(workdir)
  parts = [Part("config.json", None)]

  def add(name: str, read: Callable[[], Any], missing: str | None = None) -> None:
    try:
      parts.append(Part(name, missing if read() is None else None))
    except UserError as error:
      parts.append(Part(name, str(error)))

  if (folder / restore.LOG).exists():
    add(restore.LOG, lambda: parquet_logs.read_snapshot(folder / restore.LOG))
  if isinstance(config, WritesIds):
    add("codes", lambda: codes_lib.load(folder / "codes"), "no whole ids")
  if isinstance(config, ReadsTexts):
    add("texts", lambda: texts_lib.load(folder / "texts"), "no whole tokenizer")
  if isinstance(config, LearnedConfig):
    parts += _checkpoints(folder)
  for path in sorted(folder.glob("*.json")):
    if path.name.startswith("results"):
      add(path.name, lambda path=path: results_lib.read(path))
    elif path.name != workdir_lib.CONFIG:
      add(path.name, lambda path=path: json_text.read(path, "remove it"))
  for path in sorted(folder.glob("users-*.parquet")):
    add(path.name, lambda path=path: users_lib.read(path))
  if not any(part.problem for part in parts):
    add("all parts are of one run", lambda: restore.load(folder, strict=True))
  return parts


def _checkpoints(folder: epath.Path) -> list[Part]:
  if not (folder / "checkpoints").exists():
    return [Part("checkpoints", "none yet; let `train` come to one")]
  try:
    saved = checkpoint.Checkpoints(folder, read_only=True)
  except UserError as error:
    return [Part("checkpoints", str(error))]
  found = [Part(f"checkpoints/{n}", why) for n, why in saved.verify().items()]
  saved.close()
  return found


def _folder(name: str, path: epath.Path, variable: str) -> str:
  """Returns a folder with the space that is free there, as a line of text."""
  line = f"{name} {path} ({variable})"
  if "://" in str(path):
    return line
  there = path
  while not there.exists():
    there = there.parent
  free = shutil.disk_usage(there).free / _GIB
  if not path.exists():
    line += " does not exist yet"
  elif not os.access(path, os.W_OK):
    line += " cannot be written"
  return f"{line}, {free:.1f} GiB free"


def _short_training() -> str:
  """Trains the demo for a moment; returns how it went as a line of text."""
  fields = {"split.kind": "none", "baselines": (), "train.steps": _STEPS}
  config = config_lib.load("demo", "tiny", fields | {"train.eval_every": _STEPS})
  logger = logging.getLogger("lightlm_jax")
  before, began = logger.level, time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    logger.setLevel(logging.ERROR)
    try:
      found = train.train(config, epath.Path(folder) / "run")
    finally:
      logger.setLevel(before)
  return (
    f"{_STEPS} steps of demo:tiny in {found['train_seconds']:.1f} s, "
    f"{time.monotonic() - began:.1f} s with all around them: training works"
  )
