"""Checkpoints by Orbax: the latest two and the best, each whole or passed over.

Beside what Orbax writes, a checkpoint's folder has the SHA-256 of every file in it,
written last: one without is not finished, one with another digest is damaged.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import hashlib
import json
import logging
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from lightlm_jax import processes
from lightlm_jax.errors import UserError
from lightlm_jax.training.state import TrainState
from lightlm_jax.workdir import write_json

_NOT_YET = -1.0  # ranks below every metric
_MANIFEST = "sha256.json"


class _LatestAndBest:
  """Keeps what a restart needs, what it falls back on, and what will be judged."""

  def should_preserve(self, checkpoints, *, context):
    del context
    best = max(checkpoints, key=lambda c: (c.metrics["score"], -c.step))
    return [c is best or c in checkpoints[-2:] for c in checkpoints]


class Checkpoints:
  """The checkpoints of one workdir.

  Attributes:
    latest_step: the newest whole checkpoint when the workdir was opened, or what has
      been saved since; None without one.
    damaged: a line for each newer one that had to be passed over.

  Raises:
    UserError: the folder cannot be read, or no checkpoint in it is whole.
  """

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
    self._writer = futures.ThreadPoolExecutor(1, "checkpoint")
    self._writing = None  # what the writer is at
    self.damaged = []
    self.latest_step, passed_over = self._newest_whole()
    if not read_only:
      with _one_line("clear", self.directory):
        for step in passed_over:
          self._checkpointer.delete(step)

  def progress(self) -> dict[str, Any]:
    """What `save` was given beside the latest state."""
    metrics = {c.step: c.metrics for c in self._checkpointer.checkpoints}
    return metrics[self.latest_step]["progress"]

  def save(self, step: int, state: TrainState, progress: dict, score: float | None):
    """Copies the state and writes it while the caller goes on.

    Args:
      step: batches seen.
      state: to save; may be donated as soon as this returns.
      progress: JSON beside it, given back by `progress`.
      score: of this state on validation, larger is better; None without one.

    Raises:
      UserError: this write cannot begin, or the one before it failed.
    """
    self.wait()
    metrics = {"score": _NOT_YET if score is None else score, "progress": progress}
    with _one_line("write", self.directory):
      saved = self._checkpointer.save_async(
        step, state, metrics=metrics, overwrite=True
      )
      self._writing = self._writer.submit(self._finish, step, saved)
    self.latest_step = step

  def wait(self) -> None:
    """Returns when what was saved is whole on disk.

    Raises:
      UserError: it is not, and why.
    """
    writing, self._writing = self._writing, None
    if writing is not None:
      with _one_line("write", self.directory):
        writing.result()
        processes.wait_for_all("checkpoint")

  def restore(self, step: int, abstract_state: TrainState) -> TrainState:
    """Reads one step onto the shardings of `abstract_state`.

    Raises:
      UserError: it is damaged, or cannot be read.
    """
    self.wait()
    if why := _damage(self.directory / str(step)):
      raise UserError(
        f"the checkpoint of step {step} in {self.directory} is damaged: {why}; give "
        "a copy of it, or train anew in another --workdir"
      )
    with _one_line("read", self.directory):
      return self._checkpointer.load(step, abstract_state)

  def close(self) -> None:
    try:
      self.wait()
    finally:
      self._writer.shutdown()
      with _one_line("write", self.directory):
        self._checkpointer.close()

  def _newest_whole(self) -> tuple[int | None, list[int]]:
    """The newest whole step, and the steps behind it; the damaged ones are noted."""
    passed_over = []
    for step in sorted((c.step for c in self._checkpointer.checkpoints), reverse=True):
      folder = self.directory / str(step)
      if not (why := _damage(folder)):
        return step, passed_over
      if (folder / _MANIFEST).exists():
        self.damaged.append(f"the checkpoint of step {step} is damaged: {why}")
      passed_over.append(step)
    if self.damaged:
      raise UserError(
        f"no checkpoint in {self.directory} is whole ({'; '.join(self.damaged)}); give "
        "copies of them, or train anew in another --workdir"
      )
    return None, passed_over

  def _finish(self, step: int, saved) -> None:
    saved.result()
    if processes.is_first():
      folder = self.directory / str(step)
      write_json(folder / _MANIFEST, _digests(folder))


def _digests(folder: epath.Path) -> dict[str, str]:
  """The SHA-256 of every file below, by path, but the manifest's own."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in _files(folder)
    if not path.name.startswith(_MANIFEST)
  }


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  # On a bucket epath refuses a pattern for all that is below.
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _damage(folder: epath.Path) -> str | None:
  """What is wrong with a checkpoint's folder, None if nothing is."""
  try:
    wanted = json.loads((folder / _MANIFEST).read_text())
    found = _digests(folder)
  except FileNotFoundError:
    return "it was not written to its end"
  except (OSError, ValueError) as error:
    return str(error)
  for name, digest in wanted.items():
    if name not in found:
      return f"{name} is gone"
    if found[name] != digest:
      return f"{name} is not what was written"
  return None


@contextlib.contextmanager
def _one_line(verb: str, directory: epath.Path):
  """What a full or read-only disk makes Orbax raise is a person's to mend."""
  logger = logging.getLogger("absl")
  level = logger.level
  logger.setLevel(logging.CRITICAL)  # Orbax logs the traceback that it also raises
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    first_line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    raise UserError(
      f"cannot {verb} checkpoints in {directory}: {first_line or type(error).__name__};"
      " check free space, limits and permissions, then start again to resume"
    )
  finally:
    logger.setLevel(level)
