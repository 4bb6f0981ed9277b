"""SIGTERM and Ctrl-C: a run that is told to end first keeps what it has learned."""

from collections.abc import Iterator
import contextlib
import signal
import threading

from lightlm_jax import processes
from lightlm_jax.errors import Stopped

HEARD = (signal.SIGTERM, signal.SIGINT)


class Signals:
  """What has been heard so far.

  Attributes:
    received: the signal's number, None before one.
  """

  def __init__(self):
    self.received = None
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
    """Inside, a signal raises Stopped wherever the main thread is, as at first."""
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
    again, self.received = self.received is not None, number
    if again or not self._held:
      raise Stopped(number)


@contextlib.contextmanager
def heard() -> Iterator[Signals]:
  """Listens until it is left; where that is not its business, to nothing.

  Off the main thread, as a notebook's may be, Python hears no signal. Of several
  processes jax.distributed hears SIGTERM, and `processes.all_are_told_to_end` asks it.
  """
  found = Signals()
  if threading.current_thread() is not threading.main_thread() or processes.several():
    yield found
    return
  before = {number: signal.signal(number, found.hear) for number in HEARD}
  try:
    yield found
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
