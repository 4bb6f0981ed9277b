"""Saves and restores checkpoints with Orbax: the latest ones and the best.

A checkpoint is verified once before it is restored, by all processes. Damaged
checkpoints are skipped for older ones.
"""

from collections.abc import Iterator, Mapping
from concurrent import futures
import contextlib
import functools
import logging
import shutil
from typing import Any

from etils import epath
import jax
from orbax.checkpoint import v1 as ocp

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.training import manifests
from lightlm_jax.training.state import TrainState

logger = logging.getLogger(__name__)

_LONGEST = 300  # characters of one of Orbax's messages, which may be a whole pytree
_UNFINISHED = ".orbax-checkpoint-tmp"  # suffix that Orbax gives while it writes
_DAMAGED = "damaged-"  # prefix of the renamed folder of a damaged checkpoint


class _LatestAndBest:
  """Keeps the latest checkpoints, and the best step that each of them records."""

  def __init__(self, number: int):
    self._number = number

  def should_preserve(self, checkpoints, *, context):
    del context
    kept = checkpoints[-self._number :]
    best = {c.metrics["progress"]["best_step"] for c in kept}
    return [c in kept or c.step in best for c in checkpoints]


class Checkpoints:
  """The checkpoints of one workdir, opened at the newest one that is not damaged.

  Attributes:
    run: what is saved with every checkpoint to tell its run: see runs/parts.py.
    latest_step: the step of the last `save` that has not failed; before the first, of
      the newest undamaged checkpoint. None = there is no checkpoint.
    damaged: one line of text per damaged checkpoint that was skipped when the workdir
      was opened. Unless `read_only`, such checkpoints were renamed.

  Raises:
    UserError: `workdir` cannot be read or written, or all checkpoints are damaged.
  """

  def __init__(
    self,
    workdir: epath.Path,
    run: Mapping[str, Any] | None = None,
    *,
    keep: int = 2,
    goes_on: bool = False,
    read_only: bool = False,
  ):
    """Opens the checkpoints of a workdir.

    Args:
      workdir: the run's folder.
      run: see the attribute; None = nothing.
      keep: how many of the latest are kept.
      goes_on: whether a checkpoint that cannot be written is a warning, no error.
      read_only: whether nothing is written, renamed or removed.
    """
    self.directory = workdir / "checkpoints"
    self.run = run or {}
    self._read_only, self._goes_on = read_only, goes_on
    # Orbax's threads write in the background, between the calls of this class.
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    policies = ocp.training.save_decision_policies
    with _one_line("open", self.directory):
      self._checkpointer = ocp.training.Checkpointer(
        self.directory,
        save_decision_policy=policies.FixedIntervalPolicy(1),  # pyright: ignore[reportArgumentType]
        preservation_policy=_LatestAndBest(keep),
        # A reader must not delete a checkpoint that the run is still writing.
        cleanup_tmp_directories=not read_only,
      )
    self._writer = futures.ThreadPoolExecutor(1, "checkpoint")
    self._writing: futures.Future | None = None
    self._verified: set[int] = set()
    self._damaged: list[int] = []
    self.damaged: list[str] = []
    self.latest_step = self._before = self._newest_whole()
    if self.damaged and not read_only:
      self._set_damaged_aside()

  def progress(self) -> dict[str, Any]:
    """Returns the progress of the latest checkpoint, as last saved or updated."""
    judged = self.directory / str(self.latest_step) / manifests.PROGRESS
    if judged.exists():
      return json_text.read(judged, "remove it, and the run is validated again")
    return self._metrics()["progress"]

  def saved_with(self) -> dict[str, Any]:
    """Returns the `run` of the latest checkpoint; {} = none, or of an older version."""
    return {} if self.latest_step is None else self._metrics().get("run", {})

  def sha256(self, step: int) -> str | None:
    """Returns the SHA-256 of a step's manifests; None if a kill has prevented them."""
    self.wait()
    return manifests.sha256(self.directory / str(step))

  def save(self, step: int, state: TrainState, progress: dict) -> None:
    """Writes the state in the background; on return, its buffers may be donated.

    `progress` is a dict that JSON can hold; the checkpoint of its `best_step` is kept.

    Raises:
      UserError: the write cannot begin, or the previous one failed; not if `goes_on`.
    """
    self.wait()
    self._before, self.latest_step = self.latest_step, step
    with self._warns():
      with processes.fail_together("write a checkpoint"):
        _check_space(self.directory, state)
      with _one_line("write", self.directory):
        about = {"progress": progress, "run": self.run}
        saved = self._checkpointer.save_async(step, state, metrics=about)
        self._writing = self._writer.submit(self._finish, step, saved)

  def update_progress(self, progress: dict) -> None:
    """Replaces the progress of the latest checkpoint."""
    self.wait()
    atomic.write_json(
      self.directory / str(self.latest_step) / manifests.PROGRESS, progress
    )

  def wait(self) -> None:
    """Waits until the last save is complete on disk.

    Raises:
      UserError: it failed; not if `goes_on`.
    """
    writing, self._writing = self._writing, None
    if writing is not None:
      with self._warns(), _one_line("write", self.directory, "write a checkpoint"):
        writing.result()

  def check(self) -> None:
    """Raises the error of a failed save at once, where `wait` would raise it later.

    Several processes hear of it by `wait` alone, which they call together.
    """
    if self._writing is not None and self._writing.done() and not processes.several():
      self.wait()

  def require(self, step: int) -> None:
    """Raises a UserError unless the checkpoint of `step` is the latest on disk."""
    self.wait()
    if self.latest_step != step:
      raise UserError(
        f"the last state, of step {step:,}, could not be saved in {self.directory}; "
        "make room, then start again to resume"
      )

  def has(self, step: int) -> bool:
    """Returns whether there is a checkpoint of a step, damaged or not."""
    return step in {c.step for c in self._checkpointer.checkpoints}

  def restore(self, step: int, abstract_state: TrainState | None) -> TrainState:
    """Restores the state of one step onto the shardings of `abstract_state`.

    If that is None, the state is restored as nested dicts and lists, onto one device.

    Raises:
      UserError: the checkpoint is damaged, has other shapes or cannot be read.
    """
    self.wait()
    if why := self._damage(step):
      raise UserError(
        f"the checkpoint of step {step} in {self.directory} is damaged: {why}; give a "
        "copy of it, or train anew in another --workdir"
      )
    with _one_line("read", self.directory):
      if abstract_state is not None:
        self._check_shapes(step, abstract_state.params)
      return self._checkpointer.load(step, abstract_state)

  def verify(self) -> dict[int, str | None]:
    """Returns each step, ascending, and the first damage of its checkpoint or None."""
    steps = sorted(c.step for c in self._checkpointer.checkpoints)
    return {step: self._damage(step) for step in steps}

  def close(self) -> None:
    try:
      self.wait()
    finally:
      self._writer.shutdown()
      try:
        with _one_line("write", self.directory):
          self._checkpointer.close()
      finally:
        self._remove_unfinished()

  @contextlib.contextmanager
  def _warns(self) -> Iterator[None]:
    """Turns a UserError into a warning if the run goes on after a failed save."""
    try:
      yield
    except UserError as error:
      # A failed save leaves no checkpoint behind: that before it is the latest.
      self.latest_step = self._before
      if not self._goes_on:
        raise
      logger.warning(f"{error}; the run goes on without this checkpoint")
      self._remove_unfinished()

  def _metrics(self) -> dict[str, Any]:
    """Returns what the latest checkpoint was saved with."""
    metrics: Any = {c.step: c.metrics for c in self._checkpointer.checkpoints}
    return metrics[self.latest_step]

  def _remove_unfinished(self) -> None:
    """Removes what a failed write has left: on a full disk, room to go on."""
    if not self._read_only and processes.is_first():
      for folder in self.directory.glob(f"*{_UNFINISHED}"):
        with contextlib.suppress(OSError):
          folder.rmtree()

  def _newest_whole(self) -> int | None:
    """Returns the newest undamaged step, None = no checkpoint; fills `self.damaged`."""
    steps = iter(sorted((c.step for c in self._checkpointer.checkpoints), reverse=True))
    while (step := processes.broadcast_from_first(next(steps, None))) is not None:
      why = self._damage(step)
      if why is None:
        return step
      self._damaged.append(step)
      self.damaged.append(f"the checkpoint of step {step} is damaged: {why}")
    if self.damaged:
      raise UserError(
        f"no checkpoint in {self.directory} is whole ({'; '.join(self.damaged)}); "
        "give copies of them, or train anew in another --workdir"
      )
    return None

  def _set_damaged_aside(self) -> None:
    """Renames the damaged checkpoints, so that they are never read again."""
    with _one_line("write", self.directory, "set a damaged checkpoint aside"):
      if processes.is_first():
        for step in self._damaged:
          folder = self.directory / str(step)
          folder.rename(folder.with_name(f"{_DAMAGED}{step}"))
    self._checkpointer.reload()

  def _damage(self, step: int) -> str | None:
    """Returns the first damage of a step's checkpoint in words; None = undamaged.

    All processes return the same text. A checkpoint without manifests, such as a kill
    can leave, counts as undamaged.
    """
    if step in self._verified:
      return None
    with _one_line("read", self.directory, "read the checkpoints"):
      found = manifests.changed(
        self.directory / str(step), *processes.process_index_and_count()
      )
    found = processes.line_of_any(found)
    if found is None:
      self._verified.add(step)
    return found

  def _check_shapes(self, step: int, params: Any) -> None:
    """Raises a UserError if a checkpoint holds parameters of other shapes."""
    saved: Any = self._checkpointer.metadata(step).metadata
    found, wanted = both = _shapes(saved["params"]), _shapes(params)
    for name in sorted(found | wanted):
      if found.get(name) != wanted.get(name):
        have, want = (f"{name} {x[name]}" if name in x else f"no {name}" for x in both)
        raise UserError(
          f"the checkpoints in {self.directory} have {have}, this version of "
          f"lightlm_jax has {want}; go on with the version that trained the run, or "
          "train anew in another --workdir"
        )

  def _finish(self, step: int, saved) -> None:
    try:
      saved.result()
      process, _ = processes.process_index_and_count()
      manifests.write(self.directory / str(step), process)
    except Exception as error:
      if processes.several():  # the others hear of it at the next save
        logger.error(f"the checkpoint of step {step:,} failed: {first_line(error)}")
      raise


def _check_space(directory: epath.Path, state: Any) -> None:
  """Raises a UserError if there is no room for a state; only disks can be asked."""
  if "://" in str(directory) or not processes.is_first():
    return
  needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
  free = shutil.disk_usage(directory).free
  if needed > free:
    raise UserError(
      f"a checkpoint in {directory} needs up to {needed / 1e6:,.1f} MB and "
      f"{free / 1e6:,.1f} MB are free; make room, then start again to resume"
    )


def _shapes(params: Any) -> dict[str, list[int]]:
  """Returns the shape of each parameter by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  name_of = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return {name_of(path): list(leaf.shape) for path, leaf in leaves}


@contextlib.contextmanager
def _one_line(verb: str, directory: epath.Path, together: str | None = None):
  """Turns Orbax's errors, such as a full or read-only disk, into one-line UserErrors.

  `verb` is what Orbax does, such as "read"; `together` describes the same in words. If
  it is given, all processes fail if one does (see `processes.fail_together`).
  """
  with processes.fail_together(together) if together else contextlib.nullcontext():
    try:
      yield
    except UserError:
      raise
    except Exception as error:
      why = first_line(error)
      why = why if len(why) < _LONGEST else why[:_LONGEST] + " …"
      raise UserError(
        f"cannot {verb} checkpoints in {directory}: {why}; check free space, limits "
        "and permissions, then start again to resume"
      )


def _is_not_of_orbax(record: logging.LogRecord) -> bool:
  """Filters Orbax's lines, which repeat with a traceback what it also raises."""
  return "orbax" not in record.pathname or record.levelno >= logging.CRITICAL
