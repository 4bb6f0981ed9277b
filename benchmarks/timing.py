"""Times calls: compiled before, repeated, and waited for."""

from collections.abc import Callable, Mapping
import gc
import math
import os
import statistics
import time
from typing import Any, NamedTuple

import jax


class Time(NamedTuple):
  """Seconds per call.

  Attributes:
    median: median wall time.
    best: shortest wall time, the one least disturbed by a busy machine.
    cpu: median CPU time of the process, over all threads.
    repeats: number of timed calls.
  """

  median: float
  best: float
  cpu: float
  repeats: int


def measure(
  call: Callable[[], Any],
  *,
  repeats: int,
  seconds: float = 0.3,
  patience: float = math.inf,
) -> Time:
  """Times `call()` until its arrays are ready, without the first, compiling call.

  Args:
    call: the call.
    repeats: minimum number of calls.
    seconds: minimum time to repeat for.
    patience: seconds after which fewer repeats are enough.
  """
  calls = {"": call}
  return interleaved(calls, repeats=repeats, seconds=seconds, patience=patience)[""]


def interleaved(
  calls: Mapping[str, Callable[[], Any]],
  *,
  repeats: int,
  seconds: float = 0.3,
  patience: float = math.inf,
) -> dict[str, Time]:
  """Times calls in turn, so that other load on the machine affects all alike.

  Args:
    calls: the calls by name; one call of each is a round.
    repeats: minimum number of rounds.
    seconds: minimum time to repeat for.
    patience: seconds after which fewer rounds are enough.
  """
  for call in calls.values():
    jax.block_until_ready(call())
  rounds, spent = [], 0.0
  # Garbage collection visits every object, such as the millions of dicts of a peer, and
  # would do so during another's call.
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    while not rounds or (
      (len(rounds) < repeats or spent < seconds) and spent < patience
    ):
      rounds.append([_lap(call) for call in calls.values()])
      spent += sum(wall for wall, _ in rounds[-1])
  finally:
    if was_enabled:
      gc.enable()
  found = {}
  for name, laps in zip(calls, zip(*rounds, strict=True), strict=True):
    wall, cpu = zip(*laps, strict=True)
    found[name] = Time(
      statistics.median(wall), min(wall), statistics.median(cpu), len(wall)
    )
  return found


def threads() -> int:
  """Returns the number of CPU cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1


def _lap(call: Callable[[], Any]) -> tuple[float, float]:
  """Returns wall time and CPU time of one call, in seconds."""
  began, cpu_began = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  return time.perf_counter() - began, time.process_time() - cpu_began
