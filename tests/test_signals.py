"""Being told to end, once and twice."""

import signal

import pytest

from lightlm_jax.runtime import signals as signals_lib
from lightlm_jax.runtime.errors import Stopped


def test_what_comes_twice_at_once_is_one_signal(monkeypatch):
  heard = signals_lib.Signals()
  monkeypatch.setattr(signals_lib.time, "monotonic", lambda: clock)
  clock = 10.0
  with heard.held():
    heard.hear(signal.SIGTERM, None)
    clock = 10.5
    heard.hear(signal.SIGTERM, None)
    assert heard.received == signal.SIGTERM
    clock = 13.0
    with pytest.raises(Stopped):  # who asks again does not want to wait
      heard.hear(signal.SIGINT, None)
