"""Runs the training loop of every system that learns by gradient descent."""

import collections
from collections.abc import Callable
import contextlib
import dataclasses
import itertools
import logging
import signal
import time
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import optax

from lightlm_jax.config.schema import LearnedConfig, Train
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runtime import cache, start_time
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import Stopped, UserError
from lightlm_jax.systems.base import Built, Trainable
from lightlm_jax.training import speed
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib
from lightlm_jax.training.checkpoint import Checkpoints
from lightlm_jax.training.run_io import RunIO

# More would hide no further latency, and with collectives they deadlock CPU devices.
DISPATCHES_IN_FLIGHT = 2

logger = logging.getLogger(__name__)


@dataclasses.dataclass
class Progress:
  """The progress of a run; saved with every checkpoint."""

  best_score: float | None = None
  best_step: int = 0
  judged_step: int = 0  # the last pause: validated, if anything is held out
  validations_since_best: int = 0
  examples: int = 0  # number of examples up to `trained_step`
  trained_step: int = 0
  best_examples: int | None = None  # number up to `best_step`; None in older runs
  step_flops: int | None = None  # speed.flops_per_step; None in older runs
  train_seconds: float = 0.0


def train(
  built: Built, split: Split, config: LearnedConfig, *, mesh: Mesh, io: RunIO
) -> tuple[Any, Progress]:
  """Trains from the latest checkpoint, or from scratch, to `config.train.steps`.

  Batches, their order and dropout are functions of (seed, step), so that a run that was
  killed and resumed ends with the parameters of an uninterrupted one, bit for bit.

  Returns:
    Parameters of the step with the best validation, else of the last; and progress.

  Raises:
    Stopped: a signal was received; the state is saved unless a second signal came.
    UserError: the loss or a gradient is not finite, or a file cannot be written.
  """
  t, system = config.train, built.system
  assert isinstance(system, Trainable)
  tx = state_lib.optimiser(config)
  feed, plan = make_feed(built, split.train, config)
  abstract = abstract_state(system, config, mesh)
  steps_fn = step_lib.make_steps(system, tx, plan, mesh, config.seed, abstract)
  requests = sample(split.validation, t.eval_users, config.seed)
  with io.signals.immediate(saves=False):
    state, progress = _initial(system, tx, config.seed, abstract, io.checkpoints)
  start = step = int(state.step)
  read = _reader(feed, plan, config, mesh, start)
  # Made once: a dispatch transfers nothing but the indices of its batches.
  stop_requested_D = {flag: step_lib.stop_flags(flag, mesh) for flag in (False, True)}
  dispatches, trace = _Dispatches(progress), contextlib.ExitStack()

  # Fixed order: evaluate, save, next batch, step, log. A checkpoint is saved before the
  # next batch is taken, and contains only steps whose reports were read.
  for turn in itertools.count():
    if _is_pause(step, t) and step != progress.judged_step:
      if requests is not None:
        with _saved_if_stopped(io, step, state, progress):
          metrics = _validate(built, state, requests, split, config, mesh)
        _judge(io, step, progress, metrics, len(requests))
      progress.judged_step = step
      _save(io.checkpoints, step, state, progress)
      dispatches.clock.restart()
    # All processes see the request at the same dispatch.
    if dispatches.stop_requested:
      dispatches.read_all()
      _save(io.checkpoints, step, state, progress)
      raise Stopped(io.signals.received or signal.SIGTERM)
    if step >= t.steps or 0 < t.patience <= progress.validations_since_best:
      break

    # The first step is a dispatch of its own, to show early that the run works.
    is_first = step == start
    end = step + 1 if is_first else _next_stop(step, t)
    dispatch = step_lib.dispatch(plan, step, end, t.steps_per_dispatch)
    if io.profile_to is not None and turn == 1:
      trace.enter_context(jax.profiler.trace(str(io.profile_to)))
    # A signal during compilation stops at once: there is nothing new to save.
    with io.signals.immediate(saves=False) if is_first else contextlib.nullcontext():
      stop = stop_requested_D[io.signals.received is not None]
      state, report = steps_fn(state, built.tables, read(end - step), dispatch, stop)
      dispatches.add(step, end, report)
      if is_first:
        dispatches.read_all()
    if is_first:
      logger.info(f"first step after {time.monotonic() - start_time.STARTED:.1f} s")
      progress.step_flops = speed.flops_per_step(built, abstract.params, feed, plan)
      dispatches.start_measuring()
    step = end
    io.bar.advance(step)

    # Read at every pause too, so that no diverged state is saved.
    if step % t.log_every == 0 or _is_pause(step, t):
      dispatches.read_all()
      trace.close()
      dispatches.log_window(io, step)
      io.checkpoints.check()

  io.checkpoints.require(step)
  if progress.best_score is not None and progress.best_step != step:
    return restore_best(system, config, mesh, io.checkpoints)
  return state_lib.evaluated(state), progress


def restore_best(
  system: Trainable, config: LearnedConfig, mesh: Mesh, checkpoints: Checkpoints
) -> tuple[Any, Progress]:
  """Restores what `train` would return if it ended at the latest checkpoint."""
  progress = _read_progress(checkpoints)
  has_best = progress.best_score is not None
  step = progress.best_step if has_best else checkpoints.latest_step
  assert step is not None, "no checkpoint"
  if not checkpoints.has(step) and (latest := checkpoints.latest_step):
    logger.warning(
      f"the best state, of step {step:,}, was not saved; that of step {latest:,} is "
      "used"
    )
    progress.best_step = step = latest
  abstract = abstract_state(system, config, mesh)
  return state_lib.evaluated(checkpoints.restore(step, abstract)), progress


def abstract_state(
  system: Trainable, config: LearnedConfig, mesh: Mesh
) -> state_lib.TrainState:
  """Returns the training state of a run as shapes, dtypes and shardings."""
  tx, over_data = state_lib.optimiser(config), config.mesh.shard_optimiser
  return state_lib.abstract(system.init, tx, mesh, shard_optimiser=over_data)


def make_feed(
  built: Built, log: Interactions, config: LearnedConfig
) -> tuple[feed_lib.Positions | feed_lib.Packs, feed_lib.Plan]:
  """Builds the system's training examples from `log`, and the plan of their batches."""
  order = {"seed": config.seed, "batch_size": config.train.batch_size}
  system, widest = built.system, built.system.max_history
  assert widest is not None, "only fitted systems read histories of any length"
  if system.example == "sequence":
    whole = config.whole_histories
    return feed_lib.packs(log, width=widest, whole=whole, **order)
  widths = (*(w for w in config.history_buckets if w < widest), widest)
  drawn = system.example == "drawn"
  return feed_lib.positions(log, widths=widths, drawn=drawn, rows=built.rows, **order)


def sample(requests: Requests | None, size: int, seed: int) -> Requests | None:
  """Returns `size` random requests (0 = all), order kept; None if there are none."""
  if requests is None or not len(requests):
    return None
  if not size or size >= len(requests):
    return requests
  rng = np.random.default_rng(seed)
  return requests.take(np.sort(rng.choice(len(requests), size, replace=False)))


def _judge(io: RunIO, step: int, progress: Progress, metrics, num_users: int) -> None:
  """Logs a validation and updates `progress`; an equal score is not a new best."""
  io.metrics.write(step, {"validation": metrics})
  logger.info(
    f"step {step}  validation, {num_users:,} users, seen excluded: "
    f"HR@10 {metrics['hr@10']:.4f}  NDCG@10 {metrics['ndcg@10']:.4f}"
  )
  score = metrics["ndcg@10"]
  if progress.best_score is None or score > progress.best_score:
    progress.best_score, progress.best_step = score, step
    progress.best_examples = progress.examples
    progress.validations_since_best = 0
  else:
    progress.validations_since_best += 1


class _Dispatches:
  """The dispatches sent to the device, and the metrics and times of finished steps."""

  def __init__(self, progress: Progress):
    self.clock = speed.Clock()  # restarted after each pause
    self.stop_requested = False  # whether any process asked, in the reports read so far
    self._progress = progress
    self._peak_flops = None
    self._in_flight = collections.deque()  # (first step, end, report)
    self._window = []  # StepMetrics of each dispatch since the last log line

  def start_measuring(self) -> None:
    """Restarts the clock after the first step, so that compilation is not measured."""
    self._peak_flops = speed.peak_of_run()
    self.clock.restart()

  def add(self, first: int, end: int, report: step_lib.Report) -> None:
    """Adds a dispatch of steps first, …, end - 1; may wait for the oldest dispatch."""
    self._in_flight.append((first, end, report))
    if len(self._in_flight) == DISPATCHES_IN_FLIGHT:
      self._read_oldest()

  def read_all(self) -> None:
    """Waits for all dispatches; raises UserError for a non-finite loss or gradient."""
    while self._in_flight:
      self._read_oldest()

  def log_window(self, io: RunIO, step: int) -> None:
    """Logs the steps since the last call, the last of which is `step`."""
    loss_S, example_S, token_S, capacity_S = (
      np.concatenate(each, dtype=np.float64) for each in zip(*self._window)
    )
    self._window = []
    seconds, median, p90 = self.clock.window()
    flops = (self._progress.step_flops or 0) * len(loss_S) / seconds
    peak, memory, compiled = self._peak_flops, speed.memory_peak(), io.compilations
    record: dict[str, Any] = {
      "loss": float(loss_S.mean()),
      "examples_per_second": float(example_S.sum()) / seconds,
      "tokens_per_second": float(token_S.sum()) / seconds,
      "places_per_second": float(capacity_S.sum()) / seconds,
      "step_seconds": {"median": median, "p90": p90},
      "flops_per_second": flops,
      **({} if peak is None else {"mfu": flops / peak}),
      "compilations": {"count": compiled.count, "seconds": compiled.seconds},
      **({} if memory is None else {"memory_peak_bytes": memory}),
    }
    io.metrics.write(step, record)
    io.bar.log(step, record["loss"], record["examples_per_second"])

  def _read_oldest(self) -> None:
    first, end, report = self._in_flight.popleft()
    report = step_lib.wait_for(first, end, report)
    self._progress.train_seconds += self.clock.lap(end - first)
    self._window.append([metric_K[: end - first] for metric_K in report.metrics])
    self._progress.examples += int(report.metrics.examples.sum())
    self._progress.trained_step = end
    self.stop_requested |= bool(report.stop_requested)


def _initial(
  system: Trainable,
  tx: optax.GradientTransformation,
  seed: int,
  abstract: state_lib.TrainState,
  checkpoints: Checkpoints,
) -> tuple[state_lib.TrainState, Progress]:
  """Restores the latest checkpoint's state and progress, or creates new ones."""
  if checkpoints.latest_step is None:
    return state_lib.create(system.init, tx, seed, abstract), Progress()
  progress = _read_progress(checkpoints)
  return checkpoints.restore(checkpoints.latest_step, abstract), progress


def _read_progress(checkpoints: Checkpoints) -> Progress:
  """Reads the progress that was saved with the latest state."""
  # Older checkpoints lack this field; they were saved after their validation.
  saved: dict[str, Any] = {"judged_step": checkpoints.latest_step}
  saved |= checkpoints.progress()
  try:
    return Progress(**saved)
  except TypeError as error:
    raise UserError(
      f"the checkpoints in {checkpoints.directory} hold other fields of progress than "
      f"this version writes ({error}); use the version that trained the run, or train "
      "it anew"
    )


def _reader(feed, plan, config, mesh, start) -> Callable[[int], Any]:
  """Returns a function that returns the next dispatch's `feed` (`step.make_steps`).

  Its argument is the dispatch's number of steps. The first dispatch begins at `start`.
  """
  if config.train.feed == "device":
    resident = mesh_lib.put(feed, mesh_lib.replicated(mesh))
    return lambda number: resident
  from lightlm_jax.data import shards  # noqa: PLC0415, of the extra `stream`

  rows = shards.cached(cache.cache_root() / "shards", feed, plan)
  K = config.train.steps_per_dispatch
  return shards.reader(rows, plan, mesh, start=start, most=K)


def _validate(built, state, requests, split, config, mesh) -> dict[str, float]:
  """Evaluates the state on `requests`; returns metrics with seen items excluded."""
  ranks = evaluator.evaluate(
    built,
    state_lib.evaluated(state),
    requests,
    num_items=split.train.num_items,
    batch_size=config.train.eval_batch_size,
    mesh=mesh,
    rules=("seen_excluded",),
    lists=False,
    user_ids=split.train.user_ids,
  )
  return evaluator.summarise_rules(ranks)["seen_excluded"]


def _save(checkpoints, step, state, progress: Progress) -> None:
  """Saves state and progress; only the progress if this step is saved already."""
  if step == checkpoints.latest_step:
    checkpoints.update_progress(dataclasses.asdict(progress))
  else:
    checkpoints.save(step, state, dataclasses.asdict(progress))


@contextlib.contextmanager
def _saved_if_stopped(io: RunIO, step: int, state, progress: Progress):
  """Within the context, a signal saves the state at once and then raises Stopped."""
  try:
    with io.signals.immediate():
      yield
  except Stopped:
    _save(io.checkpoints, step, state, progress)
    raise


def _is_pause(step: int, t: Train) -> bool:
  """Returns whether the run validates and saves at this step."""
  return step > 0 and (step % t.eval_every == 0 or step == t.steps)


def _next_stop(step: int, t: Train) -> int:
  """Returns the end of a dispatch from `step` that skips no log line or validation."""
  pauses = (step // every * every + every for every in (t.log_every, t.eval_every))
  return min(step + t.steps_per_dispatch, t.steps, *pauses)
