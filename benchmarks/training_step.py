"""Times complete training steps, with optimiser, donated state and feed."""

import collections
from collections.abc import Iterable, Iterator, Mapping
import functools
import time
from typing import Any

import jax
import numpy as np

from lightlm_jax.benchmarks import timing
from lightlm_jax.benchmarks.shapes import Source
from lightlm_jax.config import LightLMConfig
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import lightlm
from lightlm_jax.systems.base import Trainable
from lightlm_jax.training import loop, speed
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib

_PATIENCE = 60.0  # maximum seconds for the calls of a comparison


class Trainee:
  """A system that is trained on one device, with the same batches in every dispatch.

  The batches are spread evenly over the buckets of an epoch, so all dispatches have the
  same cost.

  Attributes:
    config, source, built: configuration, log with ids, and the system built from them.
    feed, plan, tables, state: as in training/.
    K: number of steps in a dispatch.
    examples: number of examples in a dispatch, without padding.
    flops: FLOPs of the matrix products in a dispatch, forward and backward.
    feed_seconds: time to build the feed and copy it to the device.
    first_seconds: time of the first dispatch, which compiles.
  """

  def __init__(self, config: LightLMConfig, source: Source):
    self.config, self.source = config, source
    self.built = lightlm.build(config, source.book, source.log)
    system = self.built.system
    assert isinstance(system, Trainable)
    self.K = config.train.steps_per_dispatch
    mesh = mesh_lib.make(1, 1)
    everywhere = mesh_lib.replicated(mesh)
    began = time.perf_counter()
    feed, self.plan = loop.make_feed(self.built, source.log, config)
    self.feed = jax.block_until_ready(mesh_lib.put(feed, everywhere))
    self.feed_seconds = time.perf_counter() - began
    self.tables = mesh_lib.put(self.built.tables, everywhere)
    tx = state_lib.optimiser(config)
    abstract = state_lib.abstract(system.init, tx, mesh)
    self._steps = step_lib.make_steps(
      system, tx, self.plan, mesh, config.seed, abstract
    )
    self._stop_flags = step_lib.stop_flags(False, mesh)
    self.state = state_lib.create(system.init, tx, config.seed, abstract)
    self._mix = mix(self.plan, self.K)
    self._step = 0
    bucket_K, *_ = self._mix
    flops = speed.flops_of_buckets(self.built, self.state.params, self.feed, self.plan)
    self.flops = int(np.array(flops)[bucket_K].sum())
    began = time.perf_counter()
    self.report = jax.block_until_ready(self.go())
    self.first_seconds = time.perf_counter() - began
    self.examples = int(self.report.metrics.examples.sum())

  def go(self, dispatches: int = 1) -> step_lib.Report:
    """Runs dispatches, as many in flight as in training; returns the last report."""
    waiting = collections.deque()
    for _ in range(dispatches):
      first, self._step = self._step, self._step + self.K
      # Built as in training, for the same cost on the host; then with our batches.
      what = step_lib.dispatch(self.plan, first, self._step, self.K)
      what = step_lib.Dispatch(what.first, what.end, *self._mix)
      self.state, self.report = self._steps(
        self.state, self.tables, self.feed, what, self._stop_flags
      )
      waiting.append(self.report)
      if len(waiting) == loop.DISPATCHES_IN_FLIGHT:
        jax.device_get(waiting.popleft())
    return self.report

  def batches(self) -> Iterator[feed_lib.Batch]:
    """Yields the batches of a dispatch, in order."""
    for bucket, key, batch in zip(*self._mix):
      yield feed_lib.gather(self.feed, key, batch, plan=self.plan, bucket=int(bucket))

  def check(self) -> None:
    """Raises RuntimeError if steps were skipped: the time would be too short."""
    if int(self.state.step) != self._step or not self.report.finite:
      raise RuntimeError(f"only {self.state.step} of {self._step} steps were taken")


def mix(plan: feed_lib.Plan, K: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns what `Plan.at` returns, each [K], for K steps spread over an epoch."""
  ends = np.cumsum(plan.batches)
  place_K = ((np.arange(K) + 0.5) / K * ends[-1]).astype(np.int64)
  bucket_K = np.searchsorted(ends, place_K, side="right")
  first_K = (ends - plan.batches)[bucket_K]
  key_K = np.arange(K, dtype=np.uint32)
  return bucket_K.astype(np.int32), key_K, (place_K - first_K).astype(np.uint32)


def compare(
  configs: Mapping[Any, LightLMConfig],
  source: Source,
  repeats: int,
  *,
  steps: int | None = None,
) -> dict[Any, dict[str, Any]]:
  """Times the training of several configurations, in turn.

  Args:
    configs: configurations by name.
    source: the log on which all of them are trained.
    repeats: see `timing.interleaved`.
    steps: steps in a turn, a multiple of each steps_per_dispatch; None = one dispatch.

  Returns:
    The result of `row` for each name.
  """
  trainees = {name: Trainee(config, source) for name, config in configs.items()}
  turns = {name: (steps or each.K) // each.K for name, each in trainees.items()}
  times = timing.interleaved(
    {
      name: functools.partial(trainee.go, turns[name])
      for name, trainee in trainees.items()
    },
    repeats=repeats,
    patience=_PATIENCE,
  )
  found = {}
  for name, trainee in trainees.items():
    *seconds, rounds = times[name]
    a_dispatch = timing.Time(*(x / turns[name] for x in seconds), rounds)
    found[name] = row(trainee, a_dispatch)
  return found


def row(trainee: Trainee, seconds: timing.Time) -> dict[str, Any]:
  """Returns a row of the report; rates use the median of `seconds` per dispatch.

  Returns:
    data, preset, dtype, batch, steps_per_dispatch and parameters; examples, tokens
    (without padding) and places (with padding) in a dispatch, also per second;
    step_seconds; FLOPs of matrix products per step and per second, and their share of
    the device's peak (`mfu`) if that is known; loss; the other times.
  """
  trainee.check()
  report = jax.device_get(trainee.report)
  K, whole = trainee.K, seconds.median
  counts = {
    "examples": trainee.examples,
    "tokens": float(report.metrics.tokens.sum()),
    "places": float(report.metrics.capacity_tokens.sum()),
  }
  flops_per_second = trainee.flops / whole
  peak = _peak()
  return {
    "data": trainee.source.name,
    "preset": trainee.config.preset,
    "dtype": trainee.config.model.dtype,
    "batch": trainee.config.train.batch_size,
    "steps_per_dispatch": K,
    "parameters": state_lib.count_parameters(trainee.state.params),
    **counts,
    **{f"{name}_per_second": number / whole for name, number in counts.items()},
    "step_seconds": whole / K,
    "flops_per_step": trainee.flops / K,
    "flops_per_second": flops_per_second,
    **({} if peak is None else {"mfu": flops_per_second / peak}),
    "loss": float(report.metrics.loss.mean()),
    "seconds": seconds._asdict(),
    "feed_seconds": trainee.feed_seconds,
    "first_seconds": trainee.first_seconds,
  }


HEADS = ("examples/s", "tokens/s", "ms a step", "GFLOP/s", "of peak")


def cells(row: dict[str, Any]) -> Iterable[str]:
  """Formats a row's cells below HEADS."""
  return (
    f"{row['examples_per_second']:,.0f}",
    f"{row['tokens_per_second']:,.0f}",
    f"{1e3 * row['step_seconds']:,.2f}",
    f"{row['flops_per_second'] / 1e9:,.1f}",
    f"{100 * row['mfu']:.1f} %" if "mfu" in row else "-",
  )


@functools.cache  # it is the same for all rows of a report
def _peak() -> float | None:
  return speed.peak_of_device()
