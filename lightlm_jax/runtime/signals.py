"""SIGTERM and Ctrl-C: a run that is asked to stop saves its state first."""

from collections.abc import Iterator
import contextlib
import signal
import threading
import time

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import Stopped

HANDLED = (signal.SIGTERM, signal.SIGINT)
# A scheduler signals every process of a job, and a launcher passes the signal on to its
# child: two signals within this time are the same one.
SAME_SECONDS = 2.0


class Signals:
  """The signals of this process."""

  def __init__(self):
    self.received: int | None = None  # number of the last signal
    self._received_at = 0.0
    self._deferred = False

  @contextlib.contextmanager
  def deferred(self, on: bool = True) -> Iterator[None]:
    """Inside, the first signal only sets `received`, which the caller polls."""
    before, self._deferred = self._deferred, on
    try:
      yield
    finally:
      self._deferred = before

  @contextlib.contextmanager
  def immediate(self) -> Iterator[None]:
    """Inside `deferred`, lets a signal raise Stopped at once again.

    Without effect with several processes: if one left alone, the others would wait.
    """
    if processes.several():
      yield
      return
    with self.deferred(on=False):
      if self.received is not None:
        raise Stopped(self.received)
      yield

  def handle(self, number: int, frame) -> None:
    """The signal handler; a second signal always raises Stopped."""
    del frame
    now = time.monotonic()
    is_second = self.received is not None
    if is_second and now - self._received_at < SAME_SECONDS:
      return
    self.received, self._received_at = number, now
    if is_second or not self._deferred:
      raise Stopped(number)


@contextlib.contextmanager
def capture_signals() -> Iterator[Signals]:
  """Handles SIGTERM and SIGINT until it exits, on the main thread only.

  Raises:
    Stopped: on exit, if a signal was deferred and nobody acted on it.
  """
  signals = Signals()
  # Python allows handlers on no other thread, such as that of some notebooks.
  if threading.current_thread() is not threading.main_thread():
    yield signals
    return
  before = {number: signal.signal(number, signals.handle) for number in HANDLED}
  try:
    yield signals
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if signals.received is not None:
    raise Stopped(signals.received)
