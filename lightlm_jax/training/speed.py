"""Measures step times, memory, compilations, FLOPs and the devices' peak FLOP/s."""

from collections.abc import Iterator
import contextlib
import functools
import math
import time
import timeit
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.systems.base import Built, Trainable

# Dense bfloat16 FLOP/s of one jax device, from the vendors' data sheets. The longest
# key that is a prefix of the device's kind applies.
PEAK_FLOPS = {
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989e12,
  "NVIDIA B200": 2_250e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
}


def peak_flops(kind: str) -> float | None:
  """Returns the peak FLOP/s of a device kind, in bfloat16; None if it is not listed."""
  known = [name for name in PEAK_FLOPS if kind.startswith(name)]
  return PEAK_FLOPS[max(known, key=len)] if known else None


def peak_of_run() -> float | None:
  """Returns the peak FLOP/s of all devices together, None if unknown."""
  if (peak := peak_of_device()) is None:
    return None
  # The devices of a CPU share its cores.
  on_cpu = jax.devices()[0].platform == "cpu"
  return peak * (jax.process_count() if on_cpu else jax.device_count())


def peak_of_device() -> float | None:
  """Returns one device's peak FLOP/s (a CPU's: measured, float32); None if unknown."""
  device = jax.devices()[0]
  if device.platform == "cpu":
    return _measured_flops()
  return peak_flops(device.device_kind)


def matmul_flops(jaxpr: Any) -> int:
  """Returns the FLOPs of a jaxpr's matrix products, with every iteration of a scan."""
  total = 0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      inner = math.prod(left[axis] for axis in contracted)
      total += 2 * equation.outvars[0].aval.size * inner
      continue
    times = equation.params.get("length", 1)  # of a scan
    for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        total += times * matmul_flops(value)
  return total


def flops_per_step(built: Built, params: Any, feed: Any, plan: feed_lib.Plan) -> int:
  """Returns the matmul FLOPs of loss and gradient, averaged over an epoch's steps."""
  flops = flops_of_buckets(built, params, feed, plan)
  total = sum(n * each for n, each in zip(plan.batches, flops))
  return round(total / plan.steps_per_epoch)


def flops_of_buckets(
  built: Built, params: Any, feed: Any, plan: feed_lib.Plan
) -> list[int]:
  """Returns matmul FLOPs of loss and gradient for a batch of each bucket of `plan`."""
  assert isinstance(built.system, Trainable)
  flops = []
  for bucket in range(len(plan.widths)):
    gather = functools.partial(feed_lib.gather, plan=plan, bucket=bucket)
    batch = jax.eval_shape(gather, feed, np.uint32(0), np.uint32(0))
    gradient = jax.grad(built.system.loss, has_aux=True)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.make_jaxpr(gradient)(params, built.tables, batch, rng)
    flops.append(matmul_flops(traced))
  return flops


def memory_peak() -> int | None:
  """Returns the most bytes used on a device of this process; None = not reported."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  return max(peaks, default=None)


class Compilations:
  """Counts and times compilations, including loads from the persistent cache."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0

  def record(self, event: str, duration_secs: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      self.count += 1
      self.seconds += duration_secs


@contextlib.contextmanager
def count_compilations() -> Iterator[Compilations]:
  """Counts this process's compilations until the context exits."""
  found = Compilations()
  jax.monitoring.register_event_duration_secs_listener(found.record)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(found.record)


class Clock:
  """Measures the seconds of steps; time between a `lap` and a `restart` is left out."""

  def __init__(self):
    self.restart()
    self._laps = []

  def restart(self) -> None:
    self._last = time.monotonic()

  def lap(self, steps: int) -> float:
    """Records that `steps` more steps are done; returns the seconds they took."""
    last, self._last = self._last, time.monotonic()
    self._laps.append((steps, self._last - last))
    return self._last - last

  def window(self) -> tuple[float, float, float]:
    """Returns (total, median, 90th percentile) of the seconds of steps.

    The steps are those since the last call; there must be at least one `lap` since.
    """
    steps, seconds = np.array(self._laps).T
    self._laps = []
    step_seconds = np.repeat(seconds / steps, steps.astype(int))
    median, p90 = np.quantile(step_seconds, (0.5, 0.9))
    return max(float(seconds.sum()), 1e-9), float(median), float(p90)


def _measured_flops(n: int = 1024) -> float:
  square = jax.device_put(np.ones((n, n), np.float32), jax.local_devices()[0])
  multiply = functools.partial(jax.jit(jnp.matmul), square, square)
  # The slow first call compiles.
  seconds = timeit.repeat(lambda: multiply().block_until_ready(), number=1, repeat=5)
  return 2 * n**3 / min(seconds)


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, "eqns") or hasattr(value, "jaxpr")
