"""Which process of several counts as lost, by the numbers that each counts up."""

import threading

import pytest

from lightlm_jax.runtime import liveness


class Store:
  """The coordinator's store, in which another process writes, too."""

  def __init__(self, others):
    self.values, self.others = {}, others

  def key_value_set(self, key, value, allow_overwrite):
    assert allow_overwrite
    self.values[key] = value

  def key_value_dir_get(self, prefix):
    for rank, write in self.others.items():
      write(self.values, f"{prefix}{rank}")
    return list(self.values.items())


def counts_up(values, key):
  values[key] = str(int(values.get(key, 0)) + 1)


def is_silent(values, key):
  values[key] = "7"


def has_ended(values, key):
  values[key] = "ended"


def never_came(values, key):
  del values, key


@pytest.fixture
def watched(monkeypatch):
  """Watches for a fifth of a second; what was said of whom."""

  def watch(**others):
    stopped, left = threading.Event(), []

    def leave(why):
      left.append(why)
      stopped.set()

    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.005)
    monkeypatch.setattr(liveness, "LOST_SECONDS", 0.06)
    monkeypatch.setattr(liveness, "_stopped", stopped)
    monkeypatch.setattr(liveness, "_leave", leave)
    store = Store({int(name[1:]): write for name, write in others.items()})
    timer = threading.Timer(0.2, stopped.set)
    timer.start()
    liveness._watch(store, 1, 1 + len(others))
    timer.cancel()
    return left, store.values["lightlm_jax/alive/1"]

  return watch


def test_who_counts_up_or_has_ended_is_not_lost(watched):
  left, own = watched(p0=counts_up, p2=has_ended)
  assert not left
  assert int(own) > 3


@pytest.mark.parametrize("silent", [is_silent, never_came])
def test_who_does_not_count_up_is_lost_and_named(watched, silent):
  (why,), _ = watched(p0=counts_up, p2=silent)
  assert why.startswith("process 2 has not been heard of")


@pytest.mark.parametrize(
  ("text", "waits"),
  [
    ("Gloo all-reduce failed: Read error [127.0.0.1]: Connection reset by peer", True),
    ("NCCL operation failed: unhandled system error", True),
    ("UNAVAILABLE: Socket closed", True),
    ("shapes (3,) and (4,) do not match", False),
  ],
)
def test_an_error_of_a_collective_waits_until_the_lost_one_is_named(
  monkeypatch, text, waits
):
  slept = []
  monkeypatch.setattr(liveness.time, "sleep", slept.append)
  liveness.wait_if_lost(RuntimeError(text))  # a process alone has nobody to lose
  assert not slept
  monkeypatch.setattr(liveness, "_kept", [None])
  liveness.wait_if_lost(RuntimeError(text))
  assert bool(slept) == waits
