"""Runs a study: trials as processes, side by side, until every point has ended."""

from collections.abc import Sequence
import contextlib
import pathlib
import signal
import subprocess
import time
from typing import Any, NamedTuple

from etils import epath
import optuna
import rich.console

from lightlm_jax.runtime import signals as signals_lib
from lightlm_jax.runtime.errors import Stopped, UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.studies import axes as axes_lib
from lightlm_jax.studies import claims, trials, view
from lightlm_jax.studies import database as storage_lib
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies import summary as table
from lightlm_jax.studies.claims import Claim
from lightlm_jax.studies.plan import Plan
from lightlm_jax.studies.trials import Slot

_TICK_SECONDS = 0.1
_GRACE_SECONDS = 1.0  # in which who told a trial to end may tell this process, too
_LOOK_SECONDS = 1.0  # between two looks at what other processes do
_STOP_SECONDS = 60.0  # that a trial has to save where it stands


class Running(NamedTuple):
  """A trial of this process."""

  claim: Claim
  process: subprocess.Popen
  slot: Slot
  config: Any
  folder: pathlib.Path
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
  """Runs what is left of a study, and returns how it stands.

  Any number of processes may call it at once on one study: each trial is run by one of
  them, and all return when all have ended.

  Args:
    plan: what is searched.
    workdir: the study's folder: new, or one that the same plan has begun.
    storage: where Optuna keeps the trials; None = a journal in the folder.
    jobs: trials at once; see `trials.slots`.
    platform: as for `train`.
    retry_failed: runs those again that have failed before.
    train: the command of a trial, without its arguments.

  Returns:
    counts, the best row by validation and all rows: what `--report` writes.

  Raises:
    UserError: in one line, what a person can mend.
    Stopped: a signal came; the trials that ran have saved where they stand.
  """
  began = time.monotonic()
  if "://" in str(workdir):
    raise UserError(
      f"--workdir={workdir} is no folder; a study wants one for its locks"
    )
  workdir = pathlib.Path(workdir_lib.absolute(workdir))
  plan_lib.check(plan)
  free = trials.slots(jobs, platform)
  shown = view.View(rich.console.Console())
  with storage_lib.user_errors(workdir):
    study = _open(workdir, plan, storage)
    with claims.alone(workdir):
      failed = {n for n, t in claims.current(study).items() if claims.failed(t)}
      claims.ensure(study, plan, failed if retry_failed else ())
      _write_summary(workdir, study, plan)
    shown.say(
      f"study {workdir}: {plan.trials} points by {plan.search}; {trials.describe(free)}"
    )
    _run(study, plan, workdir, free, platform, train, shown)
    report = _report(study, plan, workdir) | {"seconds": time.monotonic() - began}
  _tell(report, shown.say)
  return report


def _open(workdir: pathlib.Path, plan: Plan, storage: str | None) -> optuna.Study:
  """Makes the folder this study's, or checks that it is."""
  try:
    (workdir / "trials").mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise UserError(f"cannot make {workdir}: {error.strerror or error}")
  path = workdir / plan_lib.FILE
  kept = storage and storage_lib.shown(storage)
  with claims.alone(workdir):
    if path.exists():
      try:
        old = json_text.loads(path.read_text())
        different, before = plan_lib.differences(old, plan), old["storage"]
      except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"cannot read {path}: {error}; give another --workdir")
      if before != kept:
        raise UserError(
          f"{workdir} keeps its trials in {before or 'its own journal.log'}; give "
          f"{'the same' if before else 'no'} --storage, or another --workdir"
        )
      if different:
        raise UserError(
          f"{workdir} is another study ({'; '.join(different)}); give another "
          "--workdir, or the same study to go on with it"
        )
    elif (workdir / "config.json").exists():
      raise UserError(f"{workdir} is a run's, not a study's; give another --workdir")
    study = storage_lib.open_study(workdir, plan, storage)
    definition = plan_lib.definition(plan) | {"storage": kept}
    workdir_lib.write_json(epath.Path(path), definition)
  return study


def _run(
  study: optuna.Study,
  plan: Plan,
  workdir: pathlib.Path,
  free: list[Slot],
  platform: str | None,
  train: Sequence[str],
  shown: view.View,
) -> None:
  """Starts and ends trials until the study is complete."""
  running: dict[str, Running] = {}
  watch = claims.Watch()
  looked = beaten = 0.0
  with contextlib.ExitStack() as stack:
    signals = stack.enter_context(signals_lib.heard())
    stack.enter_context(signals.held())
    stack.enter_context(shown.shown())
    stack.callback(_kill, running)
    while True:
      ended = [r for r in running.values() if r.process.poll() is not None]
      if any(trials.was_stopped(one.process.returncode) for one in ended):
        time.sleep(_GRACE_SECONDS)
      if signals.received:
        _stop(running)
        raise Stopped(signals.received)
      for one in ended:
        _settle(study, plan, workdir, one, shown)
        del running[one.claim.name]
        free.append(one.slot)
      now = time.monotonic()
      if now - beaten > claims.BEAT_SECONDS:
        beaten = now
        for one in list(running.values()):
          if not claims.beat(one.claim):
            shown.say(f"{one.claim.name}: another host has taken it over")
            _kill({"": running.pop(one.claim.name)})
            one.claim.lock.close()
            free.append(one.slot)
      if ended or now - looked > _LOOK_SECONDS:
        looked = now
        with claims.alone(workdir):
          claims.release_dead(study, running.keys(), watch)
          claims.ensure(study, plan)
          while free and (claim := claims.take(study, plan, workdir)):
            one = _start(plan, claim, workdir, free[0], platform, train)
            if isinstance(one, str):
              _refuse(study, plan, workdir, claim, one, shown)
              continue
            running[claim.name] = one
            free.pop(0)
            shown.started(claim.name, len(_rows(study, plan)), plan.trials)
        if not running and claims.complete(study, plan):
          return
        _show(study, plan, workdir, running, shown)
      time.sleep(_TICK_SECONDS)


def _start(
  plan: Plan,
  claim: Claim,
  workdir: pathlib.Path,
  slot: Slot,
  platform: str | None,
  train: Sequence[str],
) -> Running | str:
  """Starts a trial, or says why what was drawn cannot be trained."""
  folder = workdir / "trials" / claim.name
  try:
    config = plan_lib.config_of(plan, claim.point)
  except UserError as error:
    return str(error)
  overrides = plan_lib.overrides(plan, claim.point)
  line = trials.command(train, plan.base, overrides, folder, platform)
  process = trials.start(claim, line, folder, slot)
  return Running(claim, process, slot, config, folder, time.monotonic())


def _refuse(
  study: optuna.Study,
  plan: Plan,
  workdir: pathlib.Path,
  claim: Claim,
  why: str,
  shown: view.View,
) -> None:
  """Writes down that a point failed before it was a model."""
  folder = workdir / "trials" / claim.name
  row = table.row(claim.name, claim.point, plan.run, folder, why)
  row |= dict.fromkeys(table.MODEL)
  claims.settle(study, claim, row)
  shown.ended(claim.name, row, 0, _write_summary(workdir, study, plan), plan.trials)


def _settle(
  study: optuna.Study,
  plan: Plan,
  workdir: pathlib.Path,
  one: Running,
  shown: view.View,
) -> None:
  """Writes down how a trial ended."""
  code = one.process.returncode
  why = None if code == 0 else trials.reason(code, one.folder)
  row = table.row(one.claim.name, one.claim.point, one.config, one.folder, why)
  with claims.alone(workdir):
    claims.settle(study, one.claim, row)
    number = _write_summary(workdir, study, plan)
  seconds = time.monotonic() - one.began
  shown.ended(one.claim.name, row, seconds, number, plan.trials)


def _rows(study: optuna.Study, plan: Plan) -> list[dict[str, Any]]:
  """Of the trials that ended, in the grid's order; drawn ones in their own."""
  now = claims.current(study)
  names = now
  if plan.points is not None:
    names = [axes_lib.name_of(point) for point in plan.points]
  ended = [now[name] for name in names if name in now and claims.ended(now[name])]
  return [trial.user_attrs["row"] for trial in ended if "row" in trial.user_attrs]


def _write_summary(workdir: pathlib.Path, study: optuna.Study, plan: Plan) -> int:
  rows = _rows(study, plan)
  table.write(workdir / table.FILE, rows, plan)
  return len(rows)


def _best(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
  finished = [row for row in rows if row["state"] == "finished"]
  return max(finished, key=lambda row: row[table.OBJECTIVE], default=None)


def _counts(study: optuna.Study, plan: Plan) -> dict[str, int]:
  trials_now = claims.current(study).values()
  ended = [trial for trial in trials_now if claims.ended(trial)]
  failed = sum(map(claims.failed, ended))
  running = sum(t.state == optuna.trial.TrialState.RUNNING for t in trials_now)
  return {
    "finished": len(ended) - failed,
    "failed": failed,
    "running": running,
    "waiting": plan.trials - len(ended) - running,
  }


def _show(
  study: optuna.Study,
  plan: Plan,
  workdir: pathlib.Path,
  running: dict[str, Running],
  shown: view.View,
) -> None:
  if not shown.live:
    return
  lines = []
  for name, trial in claims.current(study).items():
    if trial.state == optuna.trial.TrialState.RUNNING:
      fields = plan_lib.overrides(plan, trial.user_attrs["point"])
      steps = fields.get("train.steps", plan.run.train.steps)
      found = trials.progress(workdir / "trials" / name, steps)
      lines.append(view.Line(name, steps, found, name in running))
  shown.refresh(lines, _counts(study, plan), _best(_rows(study, plan)))


def _stop(running: dict[str, Running]) -> None:
  """Lets the trials save where they stand; what they are told they take up again."""
  for one in running.values():
    one.process.send_signal(signal.SIGTERM)
  end = time.monotonic() + _STOP_SECONDS
  for one in running.values():
    with contextlib.suppress(subprocess.TimeoutExpired):
      one.process.wait(max(0.0, end - time.monotonic()))


def _kill(running: dict[str, Running]) -> None:
  for one in running.values():
    if one.process.poll() is None:
      one.process.kill()
      one.process.wait()


def _report(study: optuna.Study, plan: Plan, workdir: pathlib.Path) -> dict[str, Any]:
  rows = _rows(study, plan)
  counts = _counts(study, plan)
  return {
    "study": str(workdir),
    "search": plan.search,
    "points": plan.trials,
    "finished": counts["finished"],
    "failed": counts["failed"],
    "best": _best(rows),
    "trials": rows,
  }


def _tell(report: dict[str, Any], say) -> None:
  """Says how the study ended."""
  for row in report["trials"]:
    if row["state"] == "failed":
      say(f"failed: {row['trial']}: {row['reason']}")
  counts = {name: report[name] for name in ("finished", "failed")}
  say(f"{view.summary(counts, report['best'])}; {report['seconds']:.0f} s")
  if report["failed"]:
    say("--retry_failed runs the failed ones again")
  say(f"written to {pathlib.Path(report['study']) / table.FILE}")
