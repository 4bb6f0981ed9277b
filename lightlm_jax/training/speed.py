"""How fast a run goes, and how that stands to what its devices could do."""

from collections.abc import Iterator
import contextlib
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.systems.base import Built, Trainable

# FLOP/s of one device as jax counts them, bfloat16, dense, by the vendors' sheets; the
# longest kind that a device's name begins with counts.
PEAK_FLOPS = {
  "NVIDIA A100": 312e12,
  "NVIDIA H100": 989e12,
  "NVIDIA H100 PCIe": 756e12,
  "NVIDIA H200": 989e12,
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,
  "TPU v5p": 459e12,
  "TPU v6 lite": 918e12,
}


def peak_flops(kind: str) -> float | None:
  """What a device of this kind can do a second; None where nobody wrote it down."""
  known = [name for name in PEAK_FLOPS if kind.startswith(name)]
  return PEAK_FLOPS[max(known, key=len)] if known else None


def peak_of_run() -> float | None:
  """FLOP/s of all devices together; that of a CPU is measured, float32, all cores."""
  on_cpu = jax.devices()[0].platform == "cpu"
  peak = peak_of_device()
  # The devices of a CPU share its cores.
  times = jax.process_count() if on_cpu else jax.device_count()
  return None if peak is None else peak * times


def peak_of_device() -> float | None:
  """FLOP/s of one device; that of a CPU is measured, float32, all cores."""
  device = jax.devices()[0]
  if device.platform == "cpu":
    return _measured_flops()
  return peak_flops(device.device_kind)


def matmul_flops(jaxpr: Any) -> int:
  """FLOPs of a (closed) jaxpr's matrix products, loops of known length unrolled."""
  total = 0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      inner = 1
      for axis in contracted:
        inner *= left[axis]
      total += 2 * equation.outvars[0].aval.size * inner
      continue
    times = equation.params.get("length", 1)  # of a scan
    for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        total += times * matmul_flops(value)
  return total


def flops_per_step(built: Built, params: Any, feed: Any, plan: feed_lib.Plan) -> int:
  """Matrix products of the loss and its gradient, the mean over an epoch's batches.

  Args:
    params: arrays, or their shapes.
    feed: likewise.
  """
  flops = flops_of_buckets(built, params, feed, plan)
  total = sum(n * each for n, each in zip(plan.batches, flops))
  return round(total / plan.steps_per_epoch)


def flops_of_buckets(
  built: Built, params: Any, feed: Any, plan: feed_lib.Plan
) -> list[int]:
  """`flops_per_step` of a batch of each bucket."""
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
  """The most bytes that a device of this process has held; None where none counts."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [s["peak_bytes_in_use"] for s in stats if "peak_bytes_in_use" in s]
  return max(peaks, default=None)


class Compilations:
  """Programs made since `counted` was entered, those from the cache among them."""

  def __init__(self):
    self.count, self.seconds = 0, 0.0

  def hear(self, event: str, seconds: float, **_) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
      self.count += 1
      self.seconds += seconds


@contextlib.contextmanager
def counted() -> Iterator[Compilations]:
  found = Compilations()
  jax.monitoring.register_event_duration_secs_listener(found.hear)
  try:
    yield found
  finally:
    jax.monitoring.unregister_event_duration_listener(found.hear)


class Times(NamedTuple):
  """Seconds of a window, and of a step in it the median and the 90 % quantile."""

  seconds: float
  median: float
  p90: float


class Clock:
  """Times laps of steps; what lies before `restart` belongs to none."""

  def __init__(self):
    self.restart()
    self._laps = []

  def restart(self) -> None:
    self._last = time.monotonic()

  def lap(self, steps: int) -> float:
    """So many steps have come back from the device; seconds since the lap before."""
    last, self._last = self._last, time.monotonic()
    self._laps.append((steps, self._last - last))
    return self._last - last

  def window(self) -> Times:
    """Of the laps since the last call, of which there is at least one."""
    steps, seconds = np.array(self._laps).T
    self._laps = []
    step_seconds = np.repeat(seconds / steps, steps.astype(int))
    median, p90 = np.quantile(step_seconds, (0.5, 0.9))
    return Times(max(float(seconds.sum()), 1e-9), float(median), float(p90))


def _measured_flops(n: int = 1024, tries: int = 4) -> float:
  multiply = jax.jit(jnp.matmul)
  square = jax.device_put(np.ones((n, n), np.float32), jax.local_devices()[0])
  jax.block_until_ready(multiply(square, square))
  best = float("inf")
  for _ in range(tries):
    began = time.perf_counter()
    jax.block_until_ready(multiply(square, square))
    best = min(best, time.perf_counter() - began)
  return 2 * n**3 / best


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, "eqns") or hasattr(value, "jaxpr")
