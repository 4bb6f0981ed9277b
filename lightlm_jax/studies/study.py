"""Runs a study: trials as parallel processes, until every point has ended."""

from collections.abc import Collection, Sequence
import contextlib
import dataclasses
import logging
import pathlib
import signal
import subprocess
import time
from typing import Any, NamedTuple

from etils import epath
import optuna
from optuna.trial import TrialState

from lightlm_jax.runtime import log
from lightlm_jax.runtime import signals as signals_lib
from lightlm_jax.runtime.errors import Stopped, UserError
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.studies import axes as axes_lib
from lightlm_jax.studies import claims, trials, view
from lightlm_jax.studies import database as storage_lib
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies import summary as table
from lightlm_jax.studies.claims import Claim
from lightlm_jax.studies.plan import Plan
from lightlm_jax.studies.trials import Slot

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.1
_GRACE_SECONDS = 1.0  # time for a signal that ended a trial to reach this process too
_LOOK_SECONDS = 1.0  # between two checks of the other processes
_STOP_SECONDS = 60.0  # time for trials to save their state


class Running(NamedTuple):
  """A trial that this process is running."""

  claim: Claim
  process: subprocess.Popen
  slot: Slot
  began: float


def sweep(
  plan: Plan,
  workdir: str | pathlib.Path,
  *,
  storage: str | None = None,
  jobs: int | None = None,
  platform: str | None = None,
  retry_failed: bool = False,
  train: Sequence[str] = trials.TRAIN,
) -> dict[str, Any]:
  """Runs the remaining trials of a study; returns the content of the --report file.

  Several processes may run one study at once. Each trial is run by one of them, and all
  return when every trial has ended.

  Args:
    plan: the study's plan.
    workdir: the study's folder, new or begun with the same plan.
    storage: URL of a database or proxy, see `database.open_study`; None = a file.
    jobs: number of parallel trials; None = as in `trials.slots`.
    platform: "cpu", "gpu" or "tpu"; None = jax's choice.
    retry_failed: run failed trials again.
    train: command that runs a trial, without arguments.

  Raises:
    UserError: the plan, the folder or the storage cannot be used.
    Stopped: on SIGTERM or Ctrl-C; running trials get a minute to save their state.
  """
  began = time.monotonic()
  if "://" in str(workdir):
    raise UserError(
      f"--workdir={workdir} is no local folder, which a study needs for its locks"
    )
  workdir = pathlib.Path(workdir_lib.absolute(workdir))
  plan_lib.check(plan)
  free = trials.slots(jobs, platform)
  log.set_up()
  with storage_lib.user_errors(workdir):
    study = _open(workdir, plan, storage)
    found = _Sweep(study, plan, workdir, free, platform, train, view.View())
    with folder_lib.locked(workdir):
      claims.ensure(study, plan, retry_failed)
      table.write(workdir / table.FILE, found.rows(), plan)
    logger.info(
      f"study {workdir}: {plan.trials} points by {plan.search}; {trials.describe(free)}"
    )
    found.run()
    report: dict[str, Any] = found.report() | {"seconds": time.monotonic() - began}
  for row in report["trials"]:
    if row["state"] == "failed":
      logger.info(f"failed: {row['trial']}: {row['reason']}")
  counts = {name: report[name] for name in ("finished", "failed")}
  logger.info(f"{view.summary(counts, report['best'])}; {report['seconds']:.0f} s")
  if report["failed"]:
    logger.info("--retry_failed runs the failed trials again")
  logger.info(f"written to {workdir / table.FILE}")
  return report


def _open(workdir: pathlib.Path, plan: Plan, storage: str | None) -> optuna.Study:
  """Opens the study; creates its folder, or checks that it belongs to this study."""
  atomic.make_folder(epath.Path(workdir) / "trials")
  path = workdir / plan_lib.FILE
  kept = storage and storage_lib.shown(storage)
  with folder_lib.locked(workdir):
    if path.exists():
      fields = ("run", "trials", "storage")
      old = json_text.read(epath.Path(path), "give another --workdir", fields)
      different, before = plan_lib.differences(old, plan), old["storage"]
      if before != kept:
        raise UserError(
          f"{workdir} keeps its trials in {before or 'its own journal.log'}; give "
          f"{'the same' if before else 'no'} --storage, or another --workdir"
        )
      if different:
        raise UserError(
          f"{workdir} is another study ({'; '.join(different)}); give another "
          "--workdir, or the same study to resume it"
        )
    elif (workdir / "config.json").exists():
      raise UserError(f"{workdir} is a run's, not a study's; give another --workdir")
    study = storage_lib.open_study(workdir, plan, storage)
    definition = plan_lib.definition(plan) | {"storage": kept}
    atomic.write_json(epath.Path(path), definition)
  return study


@dataclasses.dataclass
class _Sweep:
  """The part of a study that this process runs; `platform`, `train` as in `sweep`."""

  study: optuna.Study
  plan: Plan
  workdir: pathlib.Path
  free: list[Slot]
  platform: str | None
  train: Sequence[str]
  shown: view.View
  running: dict[str, Running] = dataclasses.field(default_factory=dict)

  def run(self) -> None:
    """Starts and ends trials until the study is complete."""
    running, beats = self.running, {}
    looked = beaten = 0.0
    with contextlib.ExitStack() as stack:
      signals = stack.enter_context(signals_lib.capture_signals())
      stack.enter_context(signals.deferred())
      stack.enter_context(self.shown.shown())
      stack.callback(lambda: _kill(running.values()))
      while True:
        ended = [r for r in running.values() if r.process.poll() is not None]
        if any(trials.was_stopped(one.process.returncode) for one in ended):
          time.sleep(_GRACE_SECONDS)
        if signals.received:
          _stop(running.values())
          raise Stopped(signals.received)
        for one in ended:
          self._settle(one)
        now = time.monotonic()
        if now - beaten > claims.BEAT_SECONDS:
          beaten = now
          self._beat()
        if ended or now - looked > _LOOK_SECONDS:
          looked = now
          with folder_lib.locked(self.workdir):
            claims.reap_stale(self.study, running.keys(), beats)
            claims.ensure(self.study, self.plan)
            self._start_trials()
          counting = claims.current(self.study).values()
          done = len(counting) >= self.plan.trials and all(map(claims.ended, counting))
          if done and not running:
            return
          self._show()
        time.sleep(_TICK_SECONDS)

  def report(self) -> dict[str, Any]:
    rows = self.rows()
    counts = self._counts(rows)
    return {
      "study": str(self.workdir),
      "search": self.plan.search,
      "points": self.plan.trials,
      "finished": counts["finished"],
      "failed": counts["failed"],
      "best": _best(rows),
      "trials": rows,
    }

  def rows(self) -> list[dict[str, Any]]:
    """Returns the summary rows of ended trials, in the order of the grid or draws."""
    now, points = claims.current(self.study), self.plan.points
    names = now if points is None else map(axes_lib.name_of, points)
    ended = [now[name] for name in names if name in now and claims.ended(now[name])]
    return [trial.user_attrs["row"] for trial in ended]

  def _beat(self) -> None:
    """Renews heartbeats of running trials; kills trials that another host took over."""
    for one in list(self.running.values()):
      if not claims.beat(one.claim):
        logger.info(f"{one.claim.name}: another host has taken it over")
        _kill([one])
        one.claim.lock.file.close()
        self._release(one)

  def _release(self, one: Running) -> None:
    del self.running[one.claim.name]
    self.free.append(one.slot)

  def _start_trials(self) -> None:
    """Starts trials while there are free slots and waiting points."""
    plan = self.plan
    while self.free and (claim := claims.take(self.study, plan, self.workdir)):
      try:
        plan_lib.config_of(plan, claim.point)
      except UserError as error:  # a drawn point that cannot be trained
        row = table.row(claim.name, claim.point, plan.run, claim.folder, str(error))
        self._record(claim, row | dict.fromkeys(table.MODEL), 0)
        continue
      overrides = plan_lib.overrides(plan, claim.point)
      slot = self.free.pop(0)
      process = trials.start(
        claim, slot, self.train, plan.base, overrides, self.platform
      )
      self.running[claim.name] = Running(claim, process, slot, time.monotonic())
      self.shown.started(claim.name, len(self.rows()), plan.trials)

  def _settle(self, one: Running) -> None:
    """Records a trial whose process has ended, and frees its slot."""
    code, claim = one.process.returncode, one.claim
    why = None if code == 0 else trials.reason(code, claim.folder)
    config = plan_lib.config_of(self.plan, claim.point)
    row = table.row(claim.name, claim.point, config, claim.folder, why)
    with folder_lib.locked(self.workdir):
      self._record(claim, row, time.monotonic() - one.began)
    self._release(one)

  def _record(self, claim: Claim, row: dict[str, Any], seconds: float) -> None:
    claims.settle(self.study, claim, row)
    rows = self.rows()
    table.write(self.workdir / table.FILE, rows, self.plan)
    self.shown.ended(claim.name, row, seconds, len(rows), self.plan.trials)

  def _counts(self, rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    finished = sum(row["state"] == "finished" for row in rows)
    now = claims.current(self.study).values()
    running = sum(trial.state == TrialState.RUNNING for trial in now)
    return {
      "finished": finished,
      "failed": len(rows) - finished,
      "running": running,
      "waiting": self.plan.trials - len(rows) - running,
    }

  def _show(self) -> None:
    if not self.shown.live:
      return
    lines = []
    for name, trial in claims.current(self.study).items():
      if trial.state == TrialState.RUNNING:
        fields = plan_lib.overrides(self.plan, trial.user_attrs["point"])
        base = getattr(self.plan.run.train, "steps", 0)  # fitted systems have none
        steps = fields.get("train.steps", base)
        found = trials.progress(self.workdir / "trials" / name, steps)
        lines.append(view.Line(name, steps, found, name in self.running))
    rows = self.rows()
    self.shown.refresh(lines, self._counts(rows), _best(rows))


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
  finished = [row for row in rows if row["state"] == "finished"]
  return max(finished, key=lambda row: row[table.OBJECTIVE], default=None)


def _stop(running: Collection[Running]) -> None:
  """Sends SIGTERM to running trials, and waits a minute at most for them to end."""
  for one in running:
    one.process.send_signal(signal.SIGTERM)
  end = time.monotonic() + _STOP_SECONDS
  for one in running:
    with contextlib.suppress(subprocess.TimeoutExpired):
      one.process.wait(max(0.0, end - time.monotonic()))


def _kill(running: Collection[Running]) -> None:
  for one in running:
    if one.process.poll() is None:
      one.process.kill()
      one.process.wait()
