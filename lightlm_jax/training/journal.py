"""What a run says while it goes: metrics.jsonl, TensorBoard events, a progress bar."""

import json
import time
from typing import Any

from etils import epath
import rich.console
import rich.progress

from lightlm_jax.errors import UserError


class Journal:
  """Writes one JSON object a line to `metrics.jsonl`, the numbers to TensorBoard too.

  A run that resumes drops the lines behind the step it resumes from.
  """

  def __init__(self, workdir: epath.Path, resume_step: int):
    import tensorboardX  # noqa: PLC0415, slow to import

    self._path = workdir / "metrics.jsonl"
    lines = self._path.read_text().splitlines() if self._path.exists() else []
    kept = [line for line in lines if _step(line) <= resume_step]
    try:
      self._path.write_text("".join(line + "\n" for line in kept))
      self._file = self._path.open("a")
      self._events = tensorboardX.SummaryWriter(
        str(workdir), purge_step=resume_step + 1, flush_secs=10
      )
    except OSError as error:
      raise UserError(_no_write(self._path, error))

  def write(self, step: int, record: dict[str, Any]) -> None:
    """One line: the step and what is known at it; nested groups become tags a/b."""
    try:
      self._file.write(json.dumps({"step": step, **record}) + "\n")
      self._file.flush()
      for tag, value in _scalars(record):
        self._events.add_scalar(tag, value, step)
    except OSError as error:
      raise UserError(_no_write(self._path, error))

  def close(self) -> None:
    self._file.close()
    self._events.close()


class Bar:
  """A live bar on a terminal; a plain line at every log step elsewhere."""

  def __init__(self, console: rich.console.Console, *, start: int, total: int):
    self._console = console
    self._total = total
    self._start, self._started = start, time.monotonic()
    self._bar = None
    if console.is_terminal:
      columns = [
        "{task.description}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        "{task.fields[numbers]}",
        rich.progress.TimeRemainingColumn(),
      ]
      self._bar = rich.progress.Progress(*columns, console=console)
      self._task = self._bar.add_task("train", total=total, completed=start, numbers="")
      self._bar.start()

  def advance(self, step: int) -> None:
    if self._bar:
      self._bar.update(self._task, completed=step)

  def log(self, step: int, loss: float, rate: float) -> None:
    numbers = f"loss {loss:.3f}  {rate:,.0f} examples/s"
    if self._bar:
      self._bar.update(self._task, completed=step, numbers=numbers)
      return
    a_step = (time.monotonic() - self._started) / max(step - self._start, 1)
    left = int(a_step * (self._total - step))
    self.say(f"step {step}/{self._total}  {numbers}  {left // 60}:{left % 60:02d} left")

  def say(self, line: str) -> None:
    """A line above the bar."""
    self._console.print(line, highlight=False, markup=False, soft_wrap=True)

  def close(self) -> None:
    if self._bar:
      self._bar.stop()


def _step(line: str) -> float:
  """The step of a line; a line cut off by a kill belongs to no step that is kept."""
  try:
    return json.loads(line)["step"]
  except (ValueError, KeyError, TypeError):
    return float("inf")


def _scalars(record: dict[str, Any], prefix: str = ""):
  for name, value in record.items():
    if isinstance(value, dict):
      yield from _scalars(value, f"{prefix}{name}/")
    elif isinstance(value, int | float):
      yield prefix + name, value


def _no_write(path: epath.Path, error: OSError) -> str:
  return f"cannot write {path}: {error.strerror or error}; check space and permissions"
