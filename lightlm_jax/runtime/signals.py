"""SIGTERM and Ctrl-C: a run that is told to end first keeps what it has learned."""

from collections.abc import Iterator
import contextlib
import signal
import threading
import time

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import Stopped

HEARD = (signal.SIGTERM, signal.SIGINT)
# A scheduler tells every process of a job, and who started one passes it on: that is
# one signal.
SAME_SECONDS = 2.0


class Signals:
  """What has been heard so far.

  Attributes:
    received: the signal's number, None before one.
  """

  def __init__(self):
    self.received = None
    self._at = 0.0
    self._held = False

  @contextlib.contextmanager
  def held(self) -> Iterator[None]:
    """Inside, the first signal is only noted: whoever holds it back has to look."""
    before, self._held = self._held, True
    try:
      yield
    finally:
      self._held = before

  @contextlib.contextmanager
  def let_through(self) -> Iterator[None]:
    """Inside, a signal raises Stopped wherever the main thread is, as at first.

    Not of several processes: one that left alone would leave the others waiting.
    """
    if processes.several():
      yield
      return
    before, self._held = self._held, False
    try:
      if self.received is not None:
        raise Stopped(self.received)
      yield
    finally:
      self._held = before

  def hear(self, number: int, frame) -> None:
    """The handler; a second signal is never held back."""
    del frame
    now = time.monotonic()
    again = self.received is not None
    if again and now - self._at < SAME_SECONDS:
      return
    self.received, self._at = number, now
    if again or not self._held:
      raise Stopped(number)


@contextlib.contextmanager
def heard() -> Iterator[Signals]:
  """Listens until it is left; off the main thread, as in a notebook's, to nothing.

  Raises:
    Stopped: what was held back and never looked at.
  """
  found = Signals()
  if threading.current_thread() is not threading.main_thread():
    yield found
    return
  before = {number: signal.signal(number, found.hear) for number in HEARD}
  try:
    yield found
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
  if found.received is not None:
    raise Stopped(found.received)
