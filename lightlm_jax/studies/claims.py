"""Claims trials, so that several processes and hosts can share one study.

Optuna keeps the trials in one order and lets each end only once. Every process applies
these rules on its own, without messages to the others:

- Each trial has a turn: 0 for a point's first attempt, 1 for its next. Of a
  point's trials only one is valid: the first among those with the highest turn. A
  process that claims any other trial of the point ends it without running it.
- A trial that ended without a result or a reason for its failure is lost: its point
  gets a trial with the next turn.
- A running trial on this host is alive while the lock in its folder is held (its train
  command inherits the lock). A trial on another host is alive while its heartbeat
  changes.

Optuna 5 has heartbeats and retries stale trials only in databases (RDBStorage), not in
the journal, which is the default here, and not through the gRPC proxy. Moreover, the
lock shows at once that a process on this host has died.
"""

from collections.abc import Collection
import contextlib
import functools
import os
import pathlib
import platform
import time
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna import distributions
from optuna.trial import FrozenTrial, TrialState

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage.folder import Lock
from lightlm_jax.studies import axes as axes_lib
from lightlm_jax.studies import summary as table
from lightlm_jax.studies.axes import Point, Range, Value, Values
from lightlm_jax.studies.plan import Plan

BEAT_SECONDS = 15.0
# A trial whose heartbeat has not changed for this long is stale.
PATIENCE_SECONDS = 180.0
_LOCK = ".claim"  # in the folder of a trial
_DRAWS = 100_000  # attempts to draw a point that was not drawn before


class Claim(NamedTuple):
  """A trial that this process has claimed and runs."""

  trial: optuna.Trial
  name: str  # name of the point
  point: Point
  folder: pathlib.Path
  lock: Lock  # held while this process or the trial's process is alive


def current(study: optuna.Study) -> dict[str, FrozenTrial]:
  """Returns {point's name: trial of its latest attempt}, in order of first attempts."""
  found = {}
  for trial in study.get_trials(deepcopy=False):
    about = trial.user_attrs
    if "name" in about and not about.get("void"):
      before = found.setdefault(about["name"], trial)
      if about["turn"] > before.user_attrs["turn"]:
        found[about["name"]] = trial
  return found


def ended(trial: FrozenTrial) -> bool:
  """Returns True if a trial has ended with a result or a reason for its failure."""
  return trial.state.is_finished() and not _lost(trial)


def ensure(study: optuna.Study, plan: Plan, retry_failed: bool = False) -> None:
  """Enqueues new grid points and lost trials, and failed trials if `retry_failed`."""
  now = current(study)
  for point in plan.points or ():
    if axes_lib.name_of(point) not in now:
      _enqueue(study, point, turn=0)
  for trial in now.values():
    if _lost(trial) or (retry_failed and trial.state == TrialState.FAIL):
      _enqueue(study, trial.user_attrs["point"], trial.user_attrs["turn"] + 1)


def take(study: optuna.Study, plan: Plan, workdir: pathlib.Path) -> Claim | None:
  """Claims a study's next trial for this process; None if none is left to start."""
  while True:
    now, trials = current(study), study.get_trials(deepcopy=False)
    waits = any(trial.state == TrialState.WAITING for trial in trials)
    if not waits and (plan.points is not None or len(now) >= plan.trials):
      return None
    study.sampler = _sampler(plan, len(trials))
    trial = study.ask(_distributions(plan))
    if "name" not in trial.user_attrs:
      point = _drawn_point(plan, trial)
      name = axes_lib.name_of(point)
      # Another process took the waiting trial, or the point was drawn before.
      if plan.points is not None or name in now:
        _end_unrun(study, trial)
        if plan.points is None:
          _enqueue(study, _unseen(plan, now), turn=0)
        continue
      for key, value in (("point", point), ("turn", 0), ("name", name)):
        trial.set_user_attr(key, value)
    name, now, lock = trial.user_attrs["name"], current(study), None
    folder = workdir / "trials" / name
    if now[name].number == trial.number and list(now).index(name) < plan.trials:
      folder.mkdir(parents=True, exist_ok=True)
      lock = folder_lib.try_lock(folder / _LOCK)
    if lock is None:  # another trial counts, or a lost one still runs on this host
      _end_unrun(study, trial)
      continue
    host = _host() if lock.is_real else None
    about = {"host": host, "pid": os.getpid(), "folder": str(folder), "beat": 0}
    trial.set_user_attr("claim", about)
    return Claim(trial, name, trial.user_attrs["point"], folder, lock)


def beat(claim: Claim) -> bool:
  """Renews a trial's heartbeat; returns False if another process ended the trial."""
  before = claim.trial.user_attrs["claim"]
  try:
    claim.trial.set_user_attr("claim", before | {"beat": before["beat"] + 1})
  except optuna.exceptions.UpdateFinishedTrialError:
    return False
  return True


def settle(study: optuna.Study, claim: Claim, row: dict[str, Any]) -> None:
  """Ends a claimed trial and stores `row`, its summary row (see studies/summary.py)."""
  # If another process has ended the trial already, that result stays.
  with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
    claim.trial.set_user_attr("row", row)
    if row["state"] == "finished":
      study.tell(claim.trial, row[table.OBJECTIVE])
    else:
      claim.trial.set_user_attr("reason", row["reason"])
      study.tell(claim.trial, state=TrialState.FAIL)
  claim.lock.file.close()


def reap_stale(
  study: optuna.Study, own: Collection[str], beats: dict[int, tuple[Any, float]]
) -> None:
  """Ends trials whose process has died: they count as lost and are run again.

  Args:
    study: the study.
    own: names of the trials that this process runs.
    beats: {trial number: (last heartbeat, time when this process first saw it)} of
      other hosts' trials; the caller must pass the same dict to every call.
  """
  for name, trial in current(study).items():
    if trial.state != TrialState.RUNNING or name in own:
      continue
    claim = trial.user_attrs.get("claim") or {}
    lock = None
    here = claim.get("host") == _host()
    # The folder may belong to another workdir, or exist only in another container.
    if here and (folder := pathlib.Path(claim["folder"])).exists():
      lock = folder_lib.try_lock(folder / _LOCK)
      if lock is None:
        continue
    else:
      number, beat, now = trial.number, claim.get("beat"), time.monotonic()
      if number not in beats or beats[number][0] != beat:
        beats[number] = beat, now
      if now - beats[number][1] < PATIENCE_SECONDS:
        continue
    # It may have ended in the meantime, or another process may have ended it.
    with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
      study.tell(trial.number, state=TrialState.FAIL)
    if lock is not None:
      lock.file.close()


def _enqueue(study: optuna.Study, point: Point, turn: int) -> None:
  about = {"name": axes_lib.name_of(point), "point": point, "turn": turn}
  study.enqueue_trial(point, user_attrs=about)


def _end_unrun(study: optuna.Study, trial: optuna.Trial) -> None:
  trial.set_user_attr("void", True)
  study.tell(trial, state=TrialState.FAIL)


def _lost(trial: FrozenTrial) -> bool:
  return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def _distributions(plan: Plan) -> dict[str, Any]:
  kinds = {int: distributions.IntDistribution, float: distributions.FloatDistribution}
  return {
    name: kinds[type(values.low)](*values)
    if isinstance(values, Range)
    else distributions.CategoricalDistribution(values)
    for name, values in plan.axes.items()
  }


def _sampler(plan: Plan, number: int) -> optuna.samplers.BaseSampler:
  """Returns the sampler of trial number `number`, seeded alike in every process."""
  seed = int(np.random.SeedSequence([plan.search_seed, number]).generate_state(1)[0])
  if plan.search == "tpe":
    return optuna.samplers.TPESampler(seed=seed)
  return optuna.samplers.RandomSampler(seed=seed)


def _drawn_point(plan: Plan, trial: optuna.Trial) -> Point:
  return {
    name: values.rounded(trial.params[name])
    if isinstance(values, Range)
    else trial.params[name]
    for name, values in plan.axes.items()
  }


def _unseen(plan: Plan, now: Collection[str]) -> Point:
  """Draws a random point whose name is not in `now`, or raises a UserError."""
  rng = np.random.default_rng([plan.search_seed, len(now)])
  for _ in range(_DRAWS):
    point = {name: _any_of(values, rng) for name, values in plan.axes.items()}
    if axes_lib.name_of(point) not in now:
      return point
  raise UserError(
    f"{len(now)} of {plan.trials} points are drawn and no other is found; widen the "
    f"ranges, or give --config.trials={len(now)}"
  )


def _any_of(values: Values, rng: np.random.Generator) -> Value:
  if not isinstance(values, Range):
    return values[rng.integers(len(values))]
  if isinstance(values.low, int):
    return int(rng.integers(values.low, int(values.high), endpoint=True))
  return values.rounded(float(rng.uniform(values.low, values.high)))


@functools.cache
def _host() -> str:
  """Returns this machine's name and boot id, since two machines may share a name."""
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
  return f"{platform.node()} {boot.read_text().strip() if boot.exists() else ''}"
