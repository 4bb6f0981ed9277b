"""What a bench says to people and leaves for programs, a row at a time."""

from collections.abc import Callable, Iterable, Sequence
import functools
import importlib
import os
import shlex
import sys
import time
from types import ModuleType
from typing import Any

from etils import epath
import jax
import rich.console

from lightlm_jax.benchmarks import end_to_end
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib


class Record:
  """A report that is printed as it grows, and on disk after every part of it.

  Attributes:
    report: what is written as JSON.
    say: prints a line.
  """

  def __init__(
    self,
    options: dict[str, Any],
    parts: dict[str, Any],
    path: epath.Path | None,
    end: float | None = None,
  ):
    """Says and saves the head.

    Args:
      options: what was asked for.
      parts: an empty place in the report for each part.
      path: JSON; None = nowhere.
      end: by `time.monotonic`, when no further part is begun; None = never.

    Raises:
      UserError: the path cannot be written, which is no surprise for the end.
    """
    console = rich.console.Console()
    self.say = functools.partial(
      console.print, highlight=False, soft_wrap=True, markup=False
    )
    self.report = {
      "command": shlex.join(["python", "-m", "lightlm_jax.bench", *sys.argv[1:]]),
      "backend": jax.default_backend(),
      "devices": results_lib.devices(),
      "threads": end_to_end.threads(),
      "versions": results_lib.versions(),
      "options": options,
      **parts,
      "notes": [],
    }
    self._path, self._end = path, end
    self.save()
    versions = self.report["versions"].items()
    self.say(self.report["command"])
    self.say(f"{devices.describe()}; {self.report['threads']} CPU threads")
    self.say("; ".join(f"{name} {version}" for name, version in versions))

  def save(self) -> None:
    if self._path:
      workdir_lib.write_json(self._path, self.report)

  def note(self, line: str) -> None:
    self.report["notes"].append(line)
    self.say(line)
    self.save()

  def in_time(self, what: str) -> bool:
    """Whether there is time for it left; if not, that is noted."""
    if self._end is None or time.monotonic() < self._end:
      return True
    self.note(f"{what}: skipped, the time is spent; --minutes gives more")
    return False

  def of_parity(self, module: str, what: str) -> ModuleType | None:
    """A module of this folder; without the extra `parity` that is noted."""
    # torch's threads spin while they wait for each other: ten times as slow where
    # another process has one of the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
      return importlib.import_module(f"lightlm_jax.benchmarks.{module}")
    except ModuleNotFoundError as error:
      if error.name not in ("torch", "transformers"):
        raise
      self.note(
        f"{what}: skipped, there is no {error.name}: "
        "pip install -c constraints.txt -e '.[parity]'"
      )
      return None

  def rows(self, name: str, what: str, found: Iterable[dict[str, Any]]) -> None:
    """Takes rows into the report while there is time; a UserError ends them alone.

    Args:
      name: a list of the report.
      what: begins the line that says why some are missing.
      found: works while it is iterated.
    """
    found = iter(found)
    while self.in_time(what) and (
      row := self._or_note(what, lambda: next(found, None))
    ):
      self.report[name].append(row)
      self.save()

  def only(self, name: str, what: str, find: Callable[[], dict[str, Any]]) -> None:
    """Takes what `find` returns into the report; a UserError is noted."""
    self.report[name] = self._or_note(what, find)
    self.save()

  def _or_note(self, what: str, find: Callable) -> dict[str, Any] | None:
    try:
      return find()
    except UserError as error:
      self.note(f"{what}: skipped, {error}")
      return None


def table(
  say: Callable[[str], None], heads: Sequence[str], first: int = 28, width: int = 12
) -> Callable[..., None]:
  """Says the heads; what it returns says a line of cells below them.

  Args:
    say: prints a line.
    heads: the first stands on the left.
    first: columns of the first cell.
    width: columns of the others.
  """

  def line(*cells: str) -> None:
    say(f"  {cells[0]:{first}}" + "".join(f"{cell:>{width}}" for cell in cells[1:]))

  line(*heads)
  return line
