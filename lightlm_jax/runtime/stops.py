"""Ends a command soon after SIGTERM or Ctrl-C, whatever it is doing.

Python calls the handler of a signal between two of its own instructions, and the next
may be half a minute away: in a compilation, or in a solver of eigenvectors. But the
number of the signal is written to a pipe at once, and a thread here reads it.
"""

import atexit
from collections.abc import Callable, Iterator
import contextlib
import os
import signal
import sys
import threading
import time
from typing import Any

from lightlm_jax.runtime.errors import Stopped, signal_name, stopped_line

HANDLED = (signal.SIGTERM, signal.SIGINT)
# A scheduler signals every process of a job, and a launcher passes the signal on to its
# child: a signal that comes again within this time is ignored.
SAME_SECONDS = 2.0
SECONDS = 1.0  # from a signal to the end of a process that has nothing to save

_saving = False


@contextlib.contextmanager
def saving(on: bool = True) -> Iterator[None]:
  """Says whether, in the block, a first signal has to wait until a state is saved."""
  global _saving
  before, _saving = _saving, on
  try:
    yield
  finally:
    _saving = before


def exit_at_once() -> None:
  """Makes signals end this process; a command calls it before its slow imports."""
  _handle(lambda number, frame: _leave(number))
  # Nothing is left to stop then, and Python would take back the handlers.
  atexit.register(_handle, signal.SIG_IGN)


def limited(call: Callable[[], int]) -> int:
  """Returns the exit code `call()`, which a signal ends within `SECONDS`.

  First SIGTERM raises Stopped and Ctrl-C KeyboardInterrupt, so that temporary files are
  removed. A process that has not ended in time is ended without, except in `saving`: it
  says that it stops later, and only a second signal ends it.
  """
  if threading.current_thread() is not threading.main_thread():
    return call()
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  pipe_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  before, told = _handle(_raise), sys.unraisablehook
  sys.unraisablehook = lambda lost: _is_stop(lost) or told(lost)
  ended, calling = threading.Event(), threading.Event()
  calling.set()
  arguments = reader, ended, calling
  threading.Thread(target=_watch, args=arguments, daemon=True, name="stops").start()
  code = None
  try:
    code = call()
    return code
  finally:
    calling.clear()
    if code not in [128 + number for number in HANDLED]:
      ended.set()  # otherwise Python's own exit, which joins threads, is limited too
    sys.unraisablehook = told
    for number, handler in before.items():
      signal.signal(number, handler)
    signal.set_wakeup_fd(pipe_before)
    os.close(writer)


def _handle(handler: Any) -> dict[Any, Any]:
  """Sets the handler of the signals that are not ignored; returns those before."""
  known = {number: signal.getsignal(number) for number in HANDLED}
  known = {number: old for number, old in known.items() if old != signal.SIG_IGN}
  for number in known:
    signal.signal(number, handler)
  return known


def _raise(number: int, frame: Any) -> None:
  if number == signal.SIGINT:
    signal.default_int_handler(number, frame)
  raise Stopped(number)


def _is_stop(lost: Any) -> bool:
  """Returns whether a destructor swallowed what `_raise` raised; `_watch` ends it."""
  return issubclass(lost.exc_type, (Stopped, KeyboardInterrupt))


def _watch(reader: int, ended: threading.Event, calling: threading.Event) -> None:
  """Waits for signals in the pipe, and limits how long the process lasts after one."""
  first = None
  with open(reader, "rb", buffering=0) as pipe:
    while number := pipe.read(1):
      if number[0] not in HANDLED:
        continue
      now = time.monotonic()
      again = first is not None and now - first > SAME_SECONDS
      first = first or now
      if ended.wait(SECONDS):
        return
      if again or not _saving:
        _leave(number[0], silent=not calling.is_set())
      line = (
        f"lightlm_jax: {signal_name(number[0])}: stops after the work at hand, such "
      )
      os.write(2, f"{line}as a compilation, and saves its state\n".encode())


def _leave(number: int, silent: bool = False) -> None:
  """Ends the process, without any clean-up."""
  if not silent:
    os.write(2, f"{stopped_line(number)}\n".encode())
  os._exit(128 + number)
