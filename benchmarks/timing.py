"""Times calls: compiles them first, repeats them, and waits for their results."""

from collections.abc import Callable, Mapping
import gc
import math
import os
import statistics
import time
from typing import Any, NamedTuple

import jax


class Time(NamedTuple):
  """The time of a call, in seconds.

  Attributes:
    median: median wall time.
    best: shortest wall time, which other load on the machine disturbs least.
    cpu: median CPU time of the process, summed over all threads.
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
  """Times `call()` until its arrays are ready; leaves out the first, compiling call.

  Args:
    call: function to time.
    repeats: minimum number of calls.
    seconds: minimum total time of the calls.
    patience: total seconds after which it stops, even with fewer calls.
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
    calls: functions to time, by name; a round calls each of them once.
    repeats: minimum number of rounds.
    seconds: minimum total time of the rounds.
    patience: total seconds after which it stops, even with fewer rounds.
  """
  for call in calls.values():
    jax.block_until_ready(call())
  rounds, spent = [], 0.0
  # Garbage collection visits all objects, such as the millions of dicts of one call,
  # and might do so while another one is timed.
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
