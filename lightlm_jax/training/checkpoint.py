"""Saves and restores checkpoints with Orbax: the latest two and the best.

Each process writes a manifest with the SHA-256 of the files that it wrote. A checkpoint
is verified once before it is restored, by all processes, each of which reads a share of
the files. Damaged checkpoints are skipped for older ones.
"""

from collections.abc import Iterator, Mapping
from concurrent import futures
import contextlib
import functools
import hashlib
import json
import logging
import re
from typing import Any

from etils import epath
import jax
from orbax.checkpoint import v1 as ocp

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.training.state import TrainState

# Manifest of the first process; that of process N is sha256.process_N.json. In older
# versions it covers all processes.
_MANIFEST = "sha256.json"
_JUDGED = "progress.json"  # progress that replaces the one saved with the state
_LONGEST = 300  # characters of one of Orbax's messages, which may be a whole pytree
_UNFINISHED = ".orbax-checkpoint-tmp"  # suffix that Orbax gives while it writes
_DAMAGED = "damaged-"  # prefix of the renamed folder of a damaged checkpoint


class _LatestAndBest:
  """Keeps the latest two checkpoints, and the best step that each of them records."""

  def should_preserve(self, checkpoints, *, context):
    del context
    kept = checkpoints[-2:]
    best = {c.metrics["progress"]["best_step"] for c in kept}
    return [c in kept or c.step in best for c in checkpoints]


class Checkpoints:
  """The checkpoints of one workdir, opened at the newest one that is not damaged.

  Attributes:
    run: what is saved with every checkpoint to tell its run: see runs/parts.py.
    latest_step: the step of the last `save`; before the first, of the newest
      undamaged checkpoint. None = there is no checkpoint.
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
    read_only: bool = False,
  ):
    self.directory = workdir / "checkpoints"
    self.run = run or {}
    self._read_only = read_only
    # Orbax's threads write in the background, between the calls of this class.
    logging.getLogger("absl").addFilter(_is_not_of_orbax)
    policies = ocp.training.save_decision_policies
    with _one_line("open", self.directory):
      self._checkpointer = ocp.training.Checkpointer(
        self.directory,
        save_decision_policy=policies.FixedIntervalPolicy(1),  # pyright: ignore[reportArgumentType]
        preservation_policy=_LatestAndBest(),
        # A reader must not delete a checkpoint that the run is still writing.
        cleanup_tmp_directories=not read_only,
      )
    self._writer = futures.ThreadPoolExecutor(1, "checkpoint")
    self._writing: futures.Future | None = None
    self._verified: set[int] = set()
    self._damaged: list[int] = []
    self.damaged: list[str] = []
    self.latest_step = self._newest_whole()
    if self.damaged and not read_only:
      self._set_damaged_aside()

  def progress(self) -> dict[str, Any]:
    """Returns the progress of the latest checkpoint, as last saved or updated."""
    judged = self.directory / str(self.latest_step) / _JUDGED
    if judged.exists():
      return json_text.read(judged, "remove it, and the run is validated again")
    return self._metrics()["progress"]

  def saved_with(self) -> dict[str, Any]:
    """Returns the `run` of the latest checkpoint; {} = none, or of an older version."""
    return {} if self.latest_step is None else self._metrics().get("run", {})

  def sha256(self, step: int) -> str | None:
    """Returns the SHA-256 of a step's manifests; None if a kill has prevented them."""
    self.wait()
    manifests = sorted((self.directory / str(step)).glob("sha256.*json"))
    content = b"".join(path.read_bytes() for path in manifests)
    return hashlib.sha256(content).hexdigest() if content else None

  def save(self, step: int, state: TrainState, progress: dict) -> None:
    """Writes the state in the background; on return, its buffers may be donated.

    `progress` is a dict that JSON can hold; the checkpoint of its `best_step` is kept.

    Raises:
      UserError: the write cannot begin, or the previous one failed.
    """
    self.wait()
    with _one_line("write", self.directory):
      about = {"progress": progress, "run": self.run}
      saved = self._checkpointer.save_async(step, state, metrics=about)
      self._writing = self._writer.submit(self._finish, step, saved)
    self.latest_step = step

  def update_progress(self, progress: dict) -> None:
    """Replaces the progress of the latest checkpoint."""
    self.wait()
    atomic.write_json(self.directory / str(self.latest_step) / _JUDGED, progress)

  def wait(self) -> None:
    """Waits until the last save is complete on disk; raises UserError if it failed."""
    writing, self._writing = self._writing, None
    if writing is not None:
      with _one_line("write", self.directory, "write a checkpoint"):
        writing.result()

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
      found = _changed(self.directory / str(step), *processes.process_index_and_count())
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
    saved.result()
    _write_manifest(self.directory / str(step), processes.process_index_and_count()[0])


def _shapes(params: Any) -> dict[str, list[int]]:
  """Returns the shape of each parameter by its path."""
  leaves = jax.tree_util.tree_leaves_with_path(params)
  name_of = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
  return {name_of(path): list(leaf.shape) for path, leaf in leaves}


def _write_manifest(folder: epath.Path, process: int) -> None:
  """Writes the manifest: SHA-256, by path, of the files that this process wrote."""
  digests = {
    str(path.relative_to(folder)): folder_lib.sha256(path)
    for path in _files(folder)
    if _writer_of(path.relative_to(folder)) == process
  }
  name = f"sha256.process_{process}.json" if process else _MANIFEST
  atomic.write_own(folder / name, json.dumps(digests, indent=2) + "\n")


def _writer_of(path: epath.Path) -> int:
  """Returns the process that a file's path names as its writer; 0 if it names none."""
  named = re.search(r"(?:^|[/.])process_(\d+)(?:/|$)", str(path))
  return int(named[1]) if named else 0


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  """Yields all files in `folder` and below, except those that this module writes."""
  # On a bucket epath does not support recursive patterns.
  for path in sorted(folder.iterdir()):
    if path.is_dir():
      yield from _files(path)
    elif not path.name.startswith(("sha256.", _JUDGED)):
      yield path


def _changed(folder: epath.Path, process: int, count: int) -> str | None:
  """Checks one of `count` shares of the files; returns the first damage or None."""
  wanted = {}
  for manifest in sorted(folder.glob("sha256.*json")):
    try:
      wanted |= json_text.loads(manifest.read_text())
    except (ValueError, TypeError) as error:
      return f"{manifest.name} is no JSON object ({first_line(error)})"
  for name in sorted(wanted)[process::count]:
    path = folder / name
    if not path.exists():
      return f"{name} is gone"
    if folder_lib.sha256(path) != wanted[name]:
      return f"{name} is not what was written"
  return None


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
