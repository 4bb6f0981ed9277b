"""Prints the report of a benchmark, and writes it to disk, as it grows."""

from collections.abc import Callable, Iterable, Sequence
import importlib
import logging
import os
import shlex
import sys
import time
from types import ModuleType
from typing import Any

from etils import epath
import jax

from lightlm_jax.benchmarks import timing
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import devices, log
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic

logger = logging.getLogger(__name__)


class Record:
  """A report that is written to disk after every part.

  Attributes:
    report: the content of the JSON file.
  """

  def __init__(
    self,
    options: dict[str, Any],
    parts: dict[str, Any],
    path: epath.Path | None,
    end: float | None = None,
  ):
    """Prints the header and writes the file, so that a bad path fails at the start.

    Args:
      options: the options of the benchmark.
      parts: the initial, empty value of each part of the report.
      path: JSON file for the report; None = no file.
      end: time by `time.monotonic` after which no part starts; None = no limit.

    Raises:
      UserError: the file cannot be written.
    """
    log.set_up()
    self.report = {
      "command": shlex.join(["python", "-m", "lightlm_jax.bench", *sys.argv[1:]]),
      "backend": jax.default_backend(),
      "devices": results_lib.devices(),
      "threads": timing.threads(),
      "versions": results_lib.versions(),
      "options": options,
      **parts,
      "notes": [],
    }
    self._path, self._end = path, end
    self.save()
    versions = self.report["versions"].items()
    logger.info(self.report["command"])
    logger.info(f"{devices.describe()}; {self.report['threads']} CPU threads")
    logger.info("; ".join(f"{name} {version}" for name, version in versions))

  def save(self) -> None:
    if self._path:
      atomic.write_json(self._path, self.report)

  def note(self, line: str) -> None:
    self.report["notes"].append(line)
    logger.info(line)
    self.save()

  def in_time(self, what: str) -> bool:
    """Returns True if there is time left for the part `what`; adds a note if not."""
    if self._end is None or time.monotonic() < self._end:
      return True
    self.note(f"{what}: skipped, the time is up; give more --minutes")
    return False

  def of_parity(self, module: str, what: str) -> ModuleType | None:
    """Imports `module` of this folder; None and a note without the extra `parity`."""
    # Otherwise waiting torch threads spin, ten times slower if a core is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
      return importlib.import_module(f"lightlm_jax.benchmarks.{module}")
    except ModuleNotFoundError as error:
      if error.name not in ("torch", "transformers"):
        raise
      self.note(
        f"{what}: skipped, {error.name} is not installed: "
        "pip install -c constraints.txt -e '.[parity]'"
      )
      return None

  def rows(self, name: str, what: str, found: Iterable[dict[str, Any]]) -> None:
    """Adds rows to the report while there is time; a UserError ends only this part.

    Args:
      name: the list in the report to which rows are added.
      what: name of the part, in notes on why rows are missing.
      found: computes each row when it is iterated.
    """
    found = iter(found)
    while self.in_time(what) and (
      row := self._or_note(what, lambda: next(found, None))
    ):
      self.report[name].append(row)
      self.save()

  def only(self, name: str, what: str, find: Callable[[], dict[str, Any]]) -> None:
    """Sets part `name` of the report to `find()`; None and a note on a UserError."""
    self.report[name] = self._or_note(what, find)
    self.save()

  def _or_note(self, what: str, find: Callable) -> dict[str, Any] | None:
    try:
      return find()
    except UserError as error:
      self.note(f"{what}: skipped, {error}")
      return None


def table(
  heads: Sequence[str], first: int = 28, width: int = 12
) -> Callable[..., None]:
  """Prints the header of a table; returns a function that prints a row of cells.

  Args:
    heads: column headings; the first column is aligned left.
    first: width of the first column.
    width: width of the other columns.
  """

  def line(*cells: str) -> None:
    logger.info(
      f"  {cells[0]:{first}}" + "".join(f"{cell:>{width}}" for cell in cells[1:])
    )

  line(*heads)
  return line
