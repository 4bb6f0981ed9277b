"""Checkpoints by Orbax: the latest one and the best one, each whole or not there."""

import contextlib
import logging
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from lightlm_jax.errors import UserError
from lightlm_jax.training.state import TrainState

_NOT_YET = -1.0  # ranks below every metric


class _LatestAndBest:
  """Keeps what a restart needs and what the run will be judged by."""

  def should_preserve(self, checkpoints, *, context):
    del context
    best = max(checkpoints, key=lambda c: (c.metrics["score"], -c.step))
    return [c is best or c is checkpoints[-1] for c in checkpoints]


class Checkpoints:
  """The checkpoints of one workdir."""

  def __init__(self, workdir: epath.Path, *, read_only: bool = False):
    self.directory = workdir / "checkpoints"
    policies = ocp.training.save_decision_policies
    with _one_line("open", self.directory):
      self._checkpointer = ocp.training.Checkpointer(
        self.directory,
        save_decision_policy=policies.FixedIntervalPolicy(1),
        preservation_policy=_LatestAndBest(),
        # A reader must not sweep away what the run is about to finish writing.
        cleanup_tmp_directories=not read_only,
      )

  @property
  def latest_step(self) -> int | None:
    latest = self._checkpointer.latest
    return None if latest is None else latest.step

  def progress(self) -> dict[str, Any]:
    """What `save` was given beside the latest state."""
    return self._checkpointer.latest.metrics["progress"]

  def save(self, step: int, state: TrainState, progress: dict, score: float | None):
    """Writes the state; returns when it is whole on disk.

    Args:
      step: batches seen.
      state: to save.
      progress: JSON beside it, given back by `progress`.
      score: of this state on validation, larger is better; None without one.
    """
    metrics = {"score": _NOT_YET if score is None else score, "progress": progress}
    with _one_line("write", self.directory):
      self._checkpointer.save(step, state, metrics=metrics, overwrite=True)

  def restore(self, step: int, abstract_state: TrainState) -> TrainState:
    """Reads one step onto the shardings of `abstract_state`."""
    with _one_line("read", self.directory):
      return self._checkpointer.load(step, abstract_state)

  def close(self) -> None:
    # A write that failed is raised here once more.
    with _one_line("write", self.directory):
      self._checkpointer.close()


@contextlib.contextmanager
def _one_line(verb: str, directory: epath.Path):
  """What a full or read-only disk makes Orbax raise is a person's to mend."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)  # Orbax logs the traceback that it also raises
  try:
    yield
  except Exception as error:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    raise UserError(
      f"cannot {verb} checkpoints in {directory}: {first_line or type(error).__name__};"
      " check free space, limits and permissions, then start again to resume"
    )
  finally:
    logger.setLevel(level)
