"""Handles SIGTERM and Ctrl-C, so that a run saves its state before it stops."""

from collections.abc import Iterator
import contextlib
import signal
import threading
import time

from lightlm_jax.runtime import processes, stops
from lightlm_jax.runtime.errors import Stopped


class Signals:
  """The state of signal handling in this process."""

  def __init__(self):
    self.received: int | None = None  # number of the last signal
    self._received_at = 0.0
    self._deferred = False

  @contextlib.contextmanager
  def deferred(self, on: bool = True) -> Iterator[None]:
    """Defers the first signal: in the block, it only sets `self.received` (if `on`)."""
    before, self._deferred = self._deferred, on
    try:
      yield
    finally:
      self._deferred = before

  @contextlib.contextmanager
  def immediate(self, *, saves: bool = True) -> Iterator[None]:
    """Makes a signal raise Stopped at once, even inside `deferred`.

    A signal received earlier raises Stopped when the block begins. With several
    processes this has no effect: if one process left, the others would wait for it.
    `saves`: whether the caller then saves a state, see `stops.saving`.
    """
    if processes.several():
      yield
      return
    with self.deferred(on=False), stops.saving(saves):
      if self.received is not None:
        raise Stopped(self.received)
      yield

  def handle(self, number: int, frame) -> None:
    """Handles signal `number`: raises Stopped unless it is the first and in `deferred`.

    A signal within `stops.SAME_SECONDS` of the last one counts as the same: ignored.
    """
    del frame
    now = time.monotonic()
    is_second = self.received is not None
    if is_second and now - self._received_at < stops.SAME_SECONDS:
      return
    self.received, self._received_at = number, now
    if is_second or not self._deferred:
      raise Stopped(number)


@contextlib.contextmanager
def capture_signals() -> Iterator[Signals]:
  """Yields a `Signals` that handles SIGTERM and SIGINT in the block.

  On other threads than the main one, it handles nothing.

  Raises:
    Stopped: at the end of the block or earlier, if a signal was received.
  """
  signals = Signals()
  # Python allows handlers only on the main thread; some notebooks run on another one.
  if threading.current_thread() is not threading.main_thread():
    yield signals
    return
  before = {number: signal.signal(number, signals.handle) for number in stops.HANDLED}
  try:
    with stops.saving():
      yield signals
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if signals.received is not None:
    raise Stopped(signals.received)
