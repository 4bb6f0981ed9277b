"""How long a call takes: compiled before, repeated, waited for."""

from collections.abc import Callable
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
  jax.block_until_ready(call())
  wall, cpu = [], []
  # A collection looks at every object of the process: at millions of dicts, if a peer
  # has them, in the midst of another's call.
  was_enabled = gc.isenabled()
  gc.disable()
  try:
    while not wall or (
      (len(wall) < repeats or sum(wall) < seconds) and sum(wall) < patience
    ):
      began, cpu_began = time.perf_counter(), time.process_time()
      jax.block_until_ready(call())
      wall.append(time.perf_counter() - began)
      cpu.append(time.process_time() - cpu_began)
  finally:
    if was_enabled:
      gc.enable()
  return Time(statistics.median(wall), min(wall), statistics.median(cpu), len(wall))
