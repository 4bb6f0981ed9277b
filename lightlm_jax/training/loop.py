"""One training loop for every system that has a loss."""

import collections
from collections.abc import Callable
import contextlib
import dataclasses
import itertools
import signal
import time
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from lightlm_jax import processes
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.errors import Stopped, UserError
from lightlm_jax.evaluation import evaluator
from lightlm_jax.signals import Signals
from lightlm_jax.systems.base import System
from lightlm_jax.training import mesh as mesh_lib
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib
from lightlm_jax.training.checkpoint import Checkpoints
from lightlm_jax.training.journal import Bar, Journal

# More in flight hide nothing, and with collectives they deadlock CPU devices.
DISPATCHES_IN_FLIGHT = 2


@dataclasses.dataclass
class Progress:
  """What a restart must know beside the state; saved with every checkpoint."""

  best_score: float | None = None
  best_step: int = 0
  judged_step: int = 0  # the last that was validated, or passed where nobody is asked
  validations_since_best: int = 0
  examples: int = 0
  train_seconds: float = 0.0


def train(
  system: System,
  split: Split,
  config: ml_collections.ConfigDict,
  *,
  mesh: Mesh,
  checkpoints: Checkpoints,
  journal: Journal,
  bar: Bar,
  signals: Signals,
  on_first_step: Callable[[], None],
) -> tuple[Any, Progress]:
  """Trains from the latest checkpoint, or from scratch, to `config.train.steps`.

  The batch, the dropout and the order are functions of (seed, step), so a run that
  was killed ends with the same bits as one that was not.

  Args:
    signals: looked at between dispatches, and let through while validating.
    on_first_step: called when the first step's result is there.

  Returns:
    The parameters of the best validation (of the last step without validation), and
    the progress.

  Raises:
    Stopped: a signal came; where the run stands is saved.
    UserError: the loss or a gradient is not finite, or the disk refuses.
  """
  t = config.train
  tx = state_lib.optimiser(config)
  feed, plan = make_feed(system, split.train, config)
  feed = mesh_lib.put(feed, mesh_lib.replicated(mesh))
  abstract = _abstract(system, tx, config, mesh)
  steps_fn = step_lib.make_steps(system, tx, plan, mesh, config.seed, abstract)
  asked = sample(split.validation, t.eval_users, config.seed)

  if checkpoints.latest_step is None:
    progress = Progress()
    state = state_lib.create(system.init, tx, config.seed, abstract)
  else:
    progress = Progress(**checkpoints.progress())
    state = checkpoints.restore(checkpoints.latest_step, abstract)
  start = step = int(state.step)

  clock = _Clock(progress)
  waiting = collections.deque()  # dispatches: step, end, report
  losses = []
  for turn in itertools.count():
    at_pause = step > 0 and (step % t.eval_every == 0 or step == t.steps)
    if at_pause and step != progress.judged_step:
      clock.pause()
      score = None
      if asked is not None:
        try:
          with signals.let_through():
            score = _validate(system, state, asked, split, config, mesh, journal, bar)
        except Stopped:
          _save(checkpoints, step, state, progress)
          raise
        _judge(progress, score, step)
      progress.judged_step = step
      _save(checkpoints, step, state, progress, score)
      clock.go_on()
    if step >= t.steps or (
      t.patience and progress.validations_since_best >= t.patience
    ):
      break
    if signals.received is not None or processes.all_are_told_to_end(turn):
      for sent in waiting:
        _read(*sent)
      clock.pause()
      if step != checkpoints.latest_step:
        _save(checkpoints, step, state, progress)
      raise Stopped(signals.received or signal.SIGTERM)

    # The first step alone, so that a run says early that it runs.
    end = step + 1 if step == start else _next_stop(step, t)
    dispatch = step_lib.dispatch(plan, step, end, t.steps_per_dispatch)
    # It compiles, which may take a minute, and there is nothing new to save yet.
    with signals.let_through() if step == start else contextlib.nullcontext():
      state, report = steps_fn(state, system.tables, feed, dispatch)
      waiting.append((step, end, report))
      if len(waiting) == DISPATCHES_IN_FLIGHT or step == start:
        losses.append(_read(*waiting.popleft()))
    examples_K = plan.examples(dispatch.bucket_K, dispatch.batch_K)
    clock.count(int(examples_K[: end - step].sum()))
    if step == start:
      on_first_step()
    step = end
    bar.advance(step)
    # Before every pause too, so that no checkpoint holds what has diverged.
    if step % t.log_every == 0 or step % t.eval_every == 0 or step == t.steps:
      losses.extend(_read(*sent) for sent in waiting)
      waiting.clear()
      _log(step, np.concatenate(losses), clock.rate(), journal, bar)
      losses = []

  checkpoints.wait()
  if progress.best_score is not None and progress.best_step != step:
    return restore_best(system, config, mesh, checkpoints)
  return state.params, progress


def restore_best(
  system: System, config: ml_collections.ConfigDict, mesh: Mesh, checkpoints
) -> tuple[Any, Progress]:
  """What `train` returned, or would return now, from its checkpoints alone."""
  progress = Progress(**checkpoints.progress())
  has_best = progress.best_score is not None
  step = progress.best_step if has_best else checkpoints.latest_step
  abstract = _abstract(system, state_lib.optimiser(config), config, mesh)
  return checkpoints.restore(step, abstract).params, progress


def _abstract(system: System, tx, config, mesh: Mesh) -> state_lib.TrainState:
  # Runs from before there was a choice have none in their config.json.
  shard_optimiser = config.mesh.get("shard_optimiser", False)
  return state_lib.abstract(system.init, tx, mesh, shard_optimiser=shard_optimiser)


def make_feed(
  system: System, log: Interactions, config: ml_collections.ConfigDict
) -> tuple[feed_lib.Positions | feed_lib.Packs, feed_lib.Plan]:
  """The training examples that a system wants, and the batches they come in."""
  order = {"seed": config.seed, "batch_size": config.train.batch_size}
  if system.example == "sequence":
    return feed_lib.packs(log, width=system.max_history, **order)
  narrower = (w for w in config.train.history_buckets if w < system.max_history)
  widths = (*narrower, system.max_history)
  return feed_lib.positions(
    log, widths=widths, drawn=system.example == "drawn", **order
  )


def sample(requests: Requests | None, most: int, seed: int) -> Requests | None:
  """At most `most` requests, drawn by the seed; 0 = all of them."""
  if requests is None or not len(requests):
    return None
  if not most or most >= len(requests):
    return requests
  rng = np.random.default_rng(seed)
  return requests.take(np.sort(rng.choice(len(requests), most, replace=False)))


class _Clock:
  """Seconds and examples of training, validations and checkpoints left out."""

  def __init__(self, progress: Progress):
    self._progress = progress
    self._last = self._window_start = time.monotonic()
    self._window_examples = 0

  def count(self, examples: int) -> None:
    self._progress.examples += examples
    self._window_examples += examples

  def pause(self) -> None:
    now = time.monotonic()
    self._progress.train_seconds += now - self._last
    self._last = now

  def go_on(self) -> None:
    paused = time.monotonic() - self._last
    self._last += paused
    self._window_start += paused

  def rate(self) -> float:
    """Examples a second since the last call."""
    now = time.monotonic()
    rate = self._window_examples / max(now - self._window_start, 1e-9)
    self._window_start, self._window_examples = now, 0
    return rate


def _validate(system, state, asked, split, config, mesh, journal, bar) -> float:
  """NDCG@10 with seen items excluded, on the validation requests asked."""
  ranks = evaluator.evaluate(
    system,
    state.params,
    asked,
    num_items=split.train.num_items,
    batch_size=config.train.eval_batch_size,
    mesh=mesh,
    rules=("seen_excluded",),
    lists=False,
    user_ids=split.train.user_ids,
  )
  metrics = evaluator.summarise_rules(ranks)["seen_excluded"]
  step = int(state.step)
  journal.write(step, {"validation": metrics})
  bar.say(
    f"step {step}  validation, {len(asked):,} users, seen excluded: "
    f"HR@10 {metrics['hr@10']:.4f}  NDCG@10 {metrics['ndcg@10']:.4f}"
  )
  return metrics["ndcg@10"]


def _judge(progress: Progress, score: float, step: int) -> None:
  if progress.best_score is None or score > progress.best_score:
    progress.best_score, progress.best_step = score, step
    progress.validations_since_best = 0
  else:
    progress.validations_since_best += 1


def _save(checkpoints, step, state, progress: Progress, score=None) -> None:
  checkpoints.save(step, state, dataclasses.asdict(progress), score)


def _next_stop(step: int, t: ml_collections.ConfigDict) -> int:
  """Where the dispatch that starts at `step` ends: by length, or at a pause."""
  pauses = (step // every * every + every for every in (t.log_every, t.eval_every))
  return min(step + t.steps_per_dispatch, t.steps, *pauses)


def _read(step: int, end: int, report: step_lib.Report) -> np.ndarray:
  """Waits for a dispatch of the steps from `step` to `end`; returns their losses.

  Raises:
    UserError: one of them had a loss or a gradient that is not finite.
  """
  loss_K, taken, sound = jax.device_get(report)
  if not sound:
    loss = loss_K[taken]
    what = "a gradient is not finite" if np.isfinite(loss) else f"the loss is {loss}"
    raise UserError(
      f"{what} at step {step + taken + 1}; lower train.learning_rate or "
      "train.clip_norm and start again in another --workdir"
    )
  return loss_K[: end - step]


def _log(step, loss_S, rate, journal, bar) -> None:
  loss = float(np.mean(loss_S, dtype=np.float64))
  journal.write(step, {"loss": loss, "examples_per_second": rate})
  bar.log(step, loss, rate)
