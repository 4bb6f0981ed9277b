"""One training loop for every system that has a loss."""

import collections
from collections.abc import Callable
import contextlib
import dataclasses
import itertools
import signal
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np
import optax

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import Stopped, UserError
from lightlm_jax.runtime.signals import Signals
from lightlm_jax.systems.base import Built, Trainable
from lightlm_jax.training import speed
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib
from lightlm_jax.training.checkpoint import Checkpoints
from lightlm_jax.training.metric_writer import Bar, Journal

# More in flight hide nothing, and with collectives they deadlock CPU devices.
DISPATCHES_IN_FLIGHT = 2


@dataclasses.dataclass
class Progress:
  """What a restart must know beside the state; saved with every checkpoint."""

  best_score: float | None = None
  best_step: int = 0
  judged_step: int = 0  # the last that was validated, or passed where nobody is asked
  validations_since_best: int = 0
  examples: int = 0  # seen until `trained_step`
  trained_step: int = 0
  best_examples: int | None = None  # seen until `best_step`; of older runs unknown
  step_flops: int | None = None  # speed.flops_per_step; likewise
  train_seconds: float = 0.0


def train(
  built: Built,
  split: Split,
  config: ml_collections.ConfigDict,
  *,
  mesh: Mesh,
  checkpoints: Checkpoints,
  journal: Journal,
  bar: Bar,
  signals: Signals,
  compilations: speed.Compilations,
  profile_to: epath.Path | None,
  shards_root: epath.Path,
  on_first_step: Callable[[], None],
) -> tuple[Any, Progress]:
  """Trains from the latest checkpoint, or from scratch, to `config.train.steps`.

  The batch, the dropout and the order are functions of (seed, step), so a run that
  was killed ends with the same bits as one that was not.

  Args:
    signals: looked at between dispatches, and let through while validating.
    compilations: counted since the run began.
    profile_to: where a trace is left of the steps from the second dispatch to the next
      log; None = no trace.
    shards_root: where the rows are that are streamed from disk.
    on_first_step: called when the first step's result is there.

  Returns:
    The parameters of the best validation (of the last step without validation), and
    the progress.

  Raises:
    Stopped: a signal came; where the run stands is saved.
    UserError: the loss or a gradient is not finite, or the disk refuses.
  """
  t, system = config.train, built.system
  assert isinstance(system, Trainable)
  tx = state_lib.optimiser(config)
  feed, plan = make_feed(built, split.train, config)
  abstract = abstract_state(system, tx, config, mesh)
  steps_fn = step_lib.make_steps(system, tx, plan, mesh, config.seed, abstract)
  asked = sample(split.validation, t.eval_users, config.seed)

  if checkpoints.latest_step is None:
    progress = Progress()
    state = state_lib.create(system.init, tx, config.seed, abstract)
  else:
    progress = _progress(checkpoints)
    state = checkpoints.restore(checkpoints.latest_step, abstract)
  start = step = int(state.step)
  read = _reader(feed, plan, config, mesh, start, shards_root)

  clock = speed.Clock()
  waiting = collections.deque()  # dispatches: first step, end, report
  window = []  # losses, examples, tokens and places of each since the last log
  # Made once: between two dispatches the host has nothing to send but their names.
  told_D = {flag: step_lib.told_to_end(flag, mesh) for flag in (False, True)}

  def collect():
    first, end, report = waiting.popleft()
    report = _read(first, end, report)
    progress.train_seconds += clock.lap(end - first)
    window.append([number_K[: end - first] for number_K in report.numbers])
    progress.examples += int(report.numbers.examples.sum())
    progress.trained_step = end
    return bool(report.told)

  told = False  # to end; of several processes all know it at the same dispatch
  for turn in itertools.count():
    at_pause = step > 0 and (step % t.eval_every == 0 or step == t.steps)
    if at_pause and step != progress.judged_step:
      if asked is not None:
        try:
          with signals.let_through():
            found = _validate(built, state, asked, split, config, mesh)
        except Stopped:
          _save(checkpoints, step, state, progress)
          raise
        _tell(step, found, asked, journal, bar)
        _judge(progress, found["ndcg@10"], step)
      progress.judged_step = step
      _save(checkpoints, step, state, progress)
      clock.restart()
    if told:
      while waiting:
        collect()
      _save(checkpoints, step, state, progress)
      raise Stopped(signals.received or signal.SIGTERM)
    if step >= t.steps or (
      t.patience and progress.validations_since_best >= t.patience
    ):
      break

    # The first step alone, so that a run says early that it runs.
    end = step + 1 if step == start else _next_stop(step, t)
    dispatch = step_lib.dispatch(plan, step, end, t.steps_per_dispatch)
    if profile_to is not None and turn == 1:
      jax.profiler.start_trace(str(profile_to))
    # It compiles, which may take a minute, and there is nothing new to save yet.
    with signals.let_through() if step == start else contextlib.nullcontext():
      say = told_D[signals.received is not None]
      state, report = steps_fn(state, built.tables, read(end - step), dispatch, say)
      waiting.append((step, end, report))
      if len(waiting) == DISPATCHES_IN_FLIGHT or step == start:
        told |= collect()
    if step == start:
      on_first_step()
      step_flops = speed.flops_per_step(built, abstract.params, feed, plan)
      progress.step_flops = step_flops
      peak = speed.peak_of_run()
      clock.restart()
    step = end
    bar.advance(step)
    # Before every pause too, so that no checkpoint holds what has diverged.
    if step % t.log_every == 0 or step % t.eval_every == 0 or step == t.steps:
      while waiting:
        told |= collect()
      if profile_to is not None and turn >= 1:
        jax.profiler.stop_trace()
        profile_to = None
      record = _summary(window, clock.window(), step_flops, peak, compilations)
      journal.write(step, record)
      bar.log(step, record["loss"], record["examples_per_second"])
      window = []

  checkpoints.wait()
  if progress.best_score is not None and progress.best_step != step:
    return restore_best(system, config, mesh, checkpoints)
  return state.params, progress


def restore_best(
  system: Trainable, config: ml_collections.ConfigDict, mesh: Mesh, checkpoints
) -> tuple[Any, Progress]:
  """What `train` returned, or would return now, from its checkpoints alone."""
  progress = _progress(checkpoints)
  has_best = progress.best_score is not None
  step = progress.best_step if has_best else checkpoints.latest_step
  abstract = abstract_state(system, state_lib.optimiser(config), config, mesh)
  return checkpoints.restore(step, abstract).params, progress


def _progress(checkpoints) -> Progress:
  """What was saved beside the latest state.

  Raises:
    UserError: it is of another version, or was not written by this project.
  """
  # Older checkpoints were saved when they had been judged, and do not say so.
  saved = {"judged_step": checkpoints.latest_step} | checkpoints.progress()
  try:
    return Progress(**saved)
  except TypeError as error:
    raise UserError(
      f"the checkpoints in {checkpoints.directory} say other things of their progress "
      f"than this version writes ({error}); ask the run with that version, or train it "
      "anew"
    )


def abstract_state(
  system: Trainable,
  tx: optax.GradientTransformation,
  config: ml_collections.ConfigDict,
  mesh: Mesh,
) -> state_lib.TrainState:
  """Shapes, dtypes and shardings of what a run of this configuration carries."""
  over_data = config.mesh.shard_optimiser
  return state_lib.abstract(system.init, tx, mesh, shard_optimiser=over_data)


def _reader(feed, plan, config, mesh, start, shards_root) -> Callable[[int], Any]:
  """How many steps → what the compiled steps read for them."""
  if config.train.feed == "device":
    resident = mesh_lib.put(feed, mesh_lib.replicated(mesh))
    return lambda number: resident
  from lightlm_jax.data import shards, stream  # noqa: PLC0415, of the extra `stream`

  rows = shards.cached(shards_root, feed, plan)
  K = config.train.steps_per_dispatch
  return stream.reader(rows, plan, mesh, start=start, most=K)


def make_feed(
  built: Built, log: Interactions, config: ml_collections.ConfigDict
) -> tuple[feed_lib.Positions | feed_lib.Packs, feed_lib.Plan]:
  """The training examples that a system wants, and the batches they come in."""
  order = {"seed": config.seed, "batch_size": config.train.batch_size}
  system = built.system
  if system.example == "sequence":
    whole = config.train.whole_histories
    return feed_lib.packs(log, width=system.max_history, whole=whole, **order)
  narrower = (w for w in config.train.history_buckets if w < system.max_history)
  widths = (*narrower, system.max_history)
  drawn = system.example == "drawn"
  return feed_lib.positions(log, widths=widths, drawn=drawn, rows=built.rows, **order)


def sample(requests: Requests | None, most: int, seed: int) -> Requests | None:
  """At most `most` requests, drawn by the seed; 0 = all of them."""
  if requests is None or not len(requests):
    return None
  if not most or most >= len(requests):
    return requests
  rng = np.random.default_rng(seed)
  return requests.take(np.sort(rng.choice(len(requests), most, replace=False)))


def _validate(built, state, asked, split, config, mesh) -> dict[str, float]:
  """The metrics with seen items excluded, on the validation requests asked."""
  ranks = evaluator.evaluate(
    built,
    state.params,
    asked,
    num_items=split.train.num_items,
    batch_size=config.train.eval_batch_size,
    mesh=mesh,
    rules=("seen_excluded",),
    lists=False,
    user_ids=split.train.user_ids,
  )
  return evaluator.summarise_rules(ranks)["seen_excluded"]


def _tell(step, metrics, asked, journal, bar) -> None:
  journal.write(step, {"validation": metrics})
  bar.say(
    f"step {step}  validation, {len(asked):,} users, seen excluded: "
    f"HR@10 {metrics['hr@10']:.4f}  NDCG@10 {metrics['ndcg@10']:.4f}"
  )


def _judge(progress: Progress, score: float, step: int) -> None:
  if progress.best_score is None or score > progress.best_score:
    progress.best_score, progress.best_step = score, step
    progress.best_examples = progress.examples
    progress.validations_since_best = 0
  else:
    progress.validations_since_best += 1


def _save(checkpoints, step, state, progress: Progress) -> None:
  """Where this very state is there, only what is known of it has changed."""
  if step == checkpoints.latest_step:
    checkpoints.judge(dataclasses.asdict(progress))
  else:
    checkpoints.save(step, state, dataclasses.asdict(progress))


def _summary(
  window: list[tuple],
  times: speed.Times,
  step_flops: int,
  peak: float | None,
  compilations: speed.Compilations,
) -> dict[str, Any]:
  """What the journal says of the steps of a window."""
  loss_S, example_S, token_S, place_S = (
    np.concatenate(each, dtype=np.float64) for each in zip(*window)
  )
  flops = step_flops * len(loss_S) / times.seconds
  memory = speed.memory_peak()
  return {
    "loss": float(loss_S.mean()),
    "examples_per_second": float(example_S.sum()) / times.seconds,
    "tokens_per_second": float(token_S.sum()) / times.seconds,
    "places_per_second": float(place_S.sum()) / times.seconds,
    "step_seconds": {"median": times.median, "p90": times.p90},
    "flops_per_second": flops,
    **({} if peak is None else {"mfu": flops / peak}),
    "compilations": {"count": compilations.count, "seconds": compilations.seconds},
    **({} if memory is None else {"memory_peak_bytes": memory}),
  }


def _next_stop(step: int, t: ml_collections.ConfigDict) -> int:
  """Where the dispatch that starts at `step` ends: by length, or at a pause."""
  pauses = (step // every * every + every for every in (t.log_every, t.eval_every))
  return min(step + t.steps_per_dispatch, t.steps, *pauses)


def _read(first: int, end: int, report: step_lib.Report) -> step_lib.Report:
  """Waits for a dispatch of the steps from `first` to `end`; returns what it told.

  Raises:
    UserError: one of them had a loss or a gradient that is not finite.
  """
  report = jax.device_get(report)
  if not report.sound:
    loss = report.numbers.loss[report.taken]
    what = "the gradient is not finite" if np.isfinite(loss) else f"the loss is {loss}"
    raise UserError(
      f"{what} at step {first + report.taken + 1}; lower train.learning_rate or "
      "train.clip_norm and start again in another --workdir"
    )
  return report
