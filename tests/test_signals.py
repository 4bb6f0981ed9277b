"""A first and a second signal to stop."""

import signal

import pytest

from lightlm_jax.runtime import signals as signals_lib
from lightlm_jax.runtime.errors import Stopped


def test_two_signals_at_once_count_as_one(monkeypatch):
  signals = signals_lib.Signals()
  monkeypatch.setattr(signals_lib.time, "monotonic", lambda: clock)
  clock = 10.0
  with signals.deferred():
    signals.handle(signal.SIGTERM, None)
    clock = 10.5
    signals.handle(signal.SIGTERM, None)
    assert signals.received == signal.SIGTERM
    clock = 13.0
    with pytest.raises(Stopped):  # a later second signal is not deferred
      signals.handle(signal.SIGINT, None)
