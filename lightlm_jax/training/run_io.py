"""Opens the files, progress bar and signal handlers that the training loop uses."""

from collections.abc import Iterator, Mapping
import contextlib
import logging
from typing import Any, NamedTuple

from etils import epath

from lightlm_jax.config.schema import LearnedConfig
from lightlm_jax.runtime.signals import Signals, capture_signals
from lightlm_jax.training.checkpoint import Checkpoints
from lightlm_jax.training.metric_writer import MetricWriter, ProgressBar
from lightlm_jax.training.speed import Compilations, count_compilations

logger = logging.getLogger(__name__)


class RunIO(NamedTuple):
  """The open files, the progress bar and the signals of one training run."""

  checkpoints: Checkpoints
  metrics: MetricWriter
  bar: ProgressBar
  signals: Signals  # polled between dispatches, and immediate during validation
  compilations: Compilations
  # Folder for a profiler trace from the second dispatch to the next log; None = none.
  profile_to: epath.Path | None


@contextlib.contextmanager
def open_run_io(
  workdir: epath.Path, config: LearnedConfig, run: Mapping[str, Any]
) -> Iterator[RunIO]:
  """Opens the files of a run, and closes them on exit; `run` is for `Checkpoints`.

  Raises:
    UserError: the workdir cannot be read or written, or all checkpoints are damaged.
    Stopped: at the end of the block or earlier, if a signal was received.
  """
  with contextlib.ExitStack() as stack:
    compilations = stack.enter_context(count_compilations())
    signals = stack.enter_context(capture_signals())
    stack.enter_context(signals.deferred())
    keep, goes_on = config.train.checkpoints, config.train.failed_save == "go_on"
    opened = Checkpoints(workdir, run, keep=keep, goes_on=goes_on)
    checkpoints = stack.enter_context(contextlib.closing(opened))
    for line in checkpoints.damaged:
      logger.warning(
        f"{line}; passed over for that of step {checkpoints.latest_step:,}"
      )
    start = checkpoints.latest_step or 0
    if start:
      logger.info(f"resuming at step {start}")
    metrics = stack.enter_context(contextlib.closing(MetricWriter(workdir, start)))
    bar = ProgressBar(start=start, total=config.train.steps)
    stack.enter_context(contextlib.closing(bar))
    profile_to = workdir / "profile" if config.profile else None
    yield RunIO(checkpoints, metrics, bar, signals, compilations, profile_to)
