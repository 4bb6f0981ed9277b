"""Reports metrics during training: metrics.jsonl, TensorBoard, progress bar."""

import contextlib
import json
import logging
import time
from typing import Any

from etils import epath
import rich.progress

from lightlm_jax.config.fields import flatten
from lightlm_jax.runtime import log, processes
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text

_FLUSH_SECONDS = 10  # between flushes: on a bucket each uploads the whole file

logger = logging.getLogger(__name__)


class MetricWriter:
  """Writes records to metrics.jsonl and to TensorBoard, in the first process only.

  A resumed run repeats the steps after `resume_step`; it first removes their lines.
  """

  def __init__(self, workdir: epath.Path, resume_step: int):
    self._inactive = not processes.is_first()
    if self._inactive:
      return
    path = workdir / "metrics.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    kept = [line for line in lines if _step(line) <= resume_step]
    atomic.write(path, b"".join(line + b"\n" for line in kept))
    self._path = path
    with self._os_error_to_user_error():
      self._file = _RewrittenFile(path) if "://" in str(path) else path.open("a")
      self._events = _Events(workdir, purge_step=resume_step + 1)

  def write(self, step: int, record: dict[str, Any]) -> None:
    """Writes one record; nested values get the TensorBoard tag "group/name"."""
    if self._inactive:
      return
    with self._os_error_to_user_error():
      self._file.write(json.dumps({"step": step, **record}) + "\n")
      self._file.flush()
      self._events.write(step, record)

  def close(self) -> None:
    if self._inactive:
      return
    with self._os_error_to_user_error():
      try:
        self._file.close()
      finally:
        self._events.close()

  @contextlib.contextmanager
  def _os_error_to_user_error(self):
    try:
      yield
    except OSError as error:
      raise UserError(
        f"cannot write {self._path} and the events beside it: "
        f"{first_line(error)}; check free space, limits and permissions, then "
        "start again to resume"
      )


class _RewrittenFile:
  """A text file on a bucket, rewritten at each flush since appending is impossible."""

  def __init__(self, path: epath.Path):
    self._path, self._content = path, path.read_text()
    self._flushed = time.monotonic()

  def write(self, text: str) -> None:
    self._content += text

  def flush(self) -> None:
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self.close()

  def close(self) -> None:
    atomic.write(self._path, self._content)
    self._flushed = time.monotonic()


class _Events:
  """A TensorBoard event file, written on the calling thread.

  tensorboardX's own writer uses a second thread, which dies when the disk is full; the
  run would then wait for it forever.
  """

  def __init__(self, workdir: epath.Path, purge_step: int):
    from tensorboardX import event_file_writer, summary  # noqa: PLC0415, slow
    from tensorboardX.proto import event_pb2 as generated  # noqa: PLC0415

    event_pb2: Any = generated  # its classes are created at run time
    self._event, self._scalar = event_pb2.Event, summary.scalar
    self._file = event_file_writer.EventsWriter(str(workdir / "events"))
    self._flushed = 0.0
    # Makes TensorBoard hide what a killed run wrote from this step on.
    session = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._add(step=purge_step, file_version="brain.Event:2")
    self._add(step=purge_step, session_log=session)

  def write(self, step: int, record: dict[str, Any]) -> None:
    for name, value in flatten(record).items():
      if isinstance(value, int | float):
        summary = self._scalar(name.replace(".", "/"), value)
        self._add(step=step, summary=summary)
    if time.monotonic() - self._flushed > _FLUSH_SECONDS:
      self._file.flush()
      self._flushed = time.monotonic()

  def close(self) -> None:
    self._file.close()

  def _add(self, **event) -> None:
    self._file.write_event(self._event(wall_time=time.time(), **event))


class ProgressBar:
  """A live progress bar if the output is a terminal, otherwise log lines."""

  def __init__(self, *, start: int, total: int):
    self._total = total
    self._start, self._started = start, time.monotonic()
    self._bar = None
    if log.shows_bars():
      columns = [
        "{task.description}",
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        "{task.fields[numbers]}",
        rich.progress.TimeRemainingColumn(),
      ]
      self._bar = rich.progress.Progress(*columns, console=log.console())
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
    seconds_per_step = (time.monotonic() - self._started) / max(step - self._start, 1)
    left = int(seconds_per_step * (self._total - step))
    clock = f"{left // 60}:{left % 60:02d} left"
    logger.info(f"step {step}/{self._total}  {numbers}  {clock}")

  def close(self) -> None:
    if self._bar:
      self._bar.stop()


def _step(line: bytes) -> float:
  """Returns the "step" in a line of JSON; infinity if a kill truncated the line."""
  step: Any = None
  with contextlib.suppress(ValueError, KeyError, TypeError):
    step = json_text.loads(line)["step"]
  return step if json_text.is_number(step) else float("inf")
