"""How long a call takes: compiled before, repeated, waited for."""

from collections.abc import Callable, Mapping
import gc
import math
import statistics
import time
from typing import Any, NamedTuple

import jax


class Time(NamedTuple):
  """Seconds a call.

  Attributes:
    median: of the wall clock.
    best: of the wall clock, which a busy machine disturbs least.
    cpu: median of the process's CPU time, all its threads together.
    repeats: how many calls were timed.
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
  """Times `call()` until its arrays are there; the first call, which compiles, is not.

  Args:
    call: what is timed.
    repeats: the fewest calls.
    seconds: the shortest time to repeat for.
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
  """Times calls by turns, so that what else the machine does disturbs all alike.

  Args:
    calls: what is timed, by name; a call of each is a round.
    repeats: the fewest rounds.
    seconds: the shortest time to repeat for.
    patience: seconds after which fewer rounds are enough.
  """
  for call in calls.values():
    jax.block_until_ready(call())
  rounds, spent = [], 0.0
  # A collection looks at every object of the process: at millions of dicts, if a peer
  # has them, in the midst of another's call.
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


def _lap(call: Callable[[], Any]) -> tuple[float, float]:
  """Seconds of the wall clock and of the process's CPU."""
  began, cpu_began = time.perf_counter(), time.process_time()
  jax.block_until_ready(call())
  return time.perf_counter() - began, time.process_time() - cpu_began
