"""Checkpoints by Orbax: the latest two and the best, each whole or passed over.

Orbax gives a folder its name when it is written to its end. Beside what it writes lie
the SHA-256 of every file, so that a file that has changed since is noticed.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import hashlib
import logging
from typing import Any

from etils import epath
from orbax.checkpoint import v1 as ocp

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage.workdir import write_json
from lightlm_jax.training.state import TrainState

_MANIFEST = "sha256.json"
_JUDGED = "progress.json"  # in place of what was saved with the state
_DAMAGED = "damaged-"  # before a step's number: nothing reads it any more


class _LatestAndBest:
  """Keeps what a restart needs, what it falls back on, and the best of either."""

  def should_preserve(self, checkpoints, *, context):
    del context
    kept = checkpoints[-2:]
    best = {c.metrics["progress"]["best_step"] for c in kept}
    return [c in kept or c.step in best for c in checkpoints]


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
    whole = None
    with (
      processes.fail_together("read the checkpoints"),
      _one_line("read", self.directory),
    ):
      if processes.is_first():
        whole = self._newest_whole(set_aside=not read_only)
    self.latest_step = processes.broadcast_from_first(whole)
    if not read_only:
      self._checkpointer.reload()  # without what was set aside

  def progress(self) -> dict[str, Any]:
    """What `save` or `judge` was given beside the latest state."""
    judged = self.directory / str(self.latest_step) / _JUDGED
    if judged.exists():
      with _one_line("read", self.directory):
        return dict(json_text.loads(judged.read_text()))
    metrics = {c.step: c.metrics for c in self._checkpointer.checkpoints}
    return metrics[self.latest_step]["progress"]

  def save(self, step: int, state: TrainState, progress: dict) -> None:
    """Copies the state and writes it while the caller goes on.

    Args:
      step: batches seen; not saved before.
      state: to save; may be donated as soon as this returns.
      progress: JSON beside it, given back by `progress`; its `best_step` is kept.

    Raises:
      UserError: this write cannot begin, or the one before it failed.
    """
    self.wait()
    with _one_line("write", self.directory):
      saved = self._checkpointer.save_async(step, state, metrics={"progress": progress})
      self._writing = self._writer.submit(self._finish, step, saved)
    self.latest_step = step

  def judge(self, progress: dict) -> None:
    """What was learned of the latest checkpoint since it was saved."""
    self.wait()
    write_json(self.directory / str(self.latest_step) / _JUDGED, progress)

  def wait(self) -> None:
    """Returns when what was saved is whole on disk.

    Raises:
      UserError: it is not, and why.
    """
    writing, self._writing = self._writing, None
    if writing is not None:
      with (
        processes.fail_together("write a checkpoint"),
        _one_line("write", self.directory),
      ):
        writing.result()

  def restore(self, step: int, abstract_state: TrainState) -> TrainState:
    """Reads one step onto the shardings of `abstract_state`.

    Raises:
      UserError: it is damaged, or cannot be read.
    """
    self.wait()
    with _one_line("read", self.directory):
      why = _damage(self.directory / str(step))
      if not why:
        return self._checkpointer.load(step, abstract_state)
    raise UserError(
      f"the checkpoint of step {step} in {self.directory} is damaged: {why}; give a "
      "copy of it, or train anew in another --workdir"
    )

  def close(self) -> None:
    try:
      self.wait()
    finally:
      self._writer.shutdown()
      with _one_line("write", self.directory):
        self._checkpointer.close()

  def _newest_whole(self, *, set_aside: bool) -> int | None:
    """The newest whole step, None without a checkpoint.

    Args:
      set_aside: whether damaged ones get another name, which nothing reads.
    """
    folders = [
      self.directory / str(step)
      for step in sorted((c.step for c in self._checkpointer.checkpoints), reverse=True)
    ]
    whole = None
    for folder in folders:
      why = _damage(folder)
      if not why:
        whole = int(folder.name)
        break
      self.damaged.append(f"the checkpoint of step {folder.name} is damaged: {why}")
    if self.damaged and whole is None:
      raise UserError(
        f"no checkpoint in {self.directory} is whole ({'; '.join(self.damaged)}); "
        "give copies of them, or train anew in another --workdir"
      )
    if set_aside:
      for folder in folders[: len(self.damaged)]:
        folder.rename(folder.with_name(_DAMAGED + folder.name))
    return whole

  def _finish(self, step: int, saved) -> None:
    saved.result()
    if processes.is_first():
      folder = self.directory / str(step)
      write_json(folder / _MANIFEST, _digests(folder))


def _digests(folder: epath.Path) -> dict[str, str]:
  """The SHA-256 of every file below, by path."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in _files(folder)
    if not path.name.startswith((_MANIFEST, _JUDGED))
  }


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  # On a bucket epath refuses a pattern for all that is below.
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _files(path)
    else:
      yield path


def _damage(folder: epath.Path) -> str | None:
  """What has changed in a checkpoint's folder since it was written, None = nothing.

  Where a kill came before the digests there is nothing to compare with.
  """
  manifest = folder / _MANIFEST
  if not manifest.exists():
    return None
  try:
    wanted = json_text.loads(manifest.read_text())
  except ValueError as error:
    return f"{_MANIFEST} is no JSON ({error})"
  if not isinstance(wanted, dict):
    return f"{_MANIFEST} is no JSON object"
  found = _digests(folder)
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
