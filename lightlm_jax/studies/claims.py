"""Claims on trials, by which several processes and hosts share one study.

Optuna stores the trials, in a journal or in a database. It only has to keep them in one
order and to let each end once. Every process applies these rules by itself:

- Of the trials of a point the one with the highest turn counts, of equal turns the
  first. A process that holds another one ends it without running it.
- A trial that ended without a result or a reason is lost; its point gets another turn.
- A running trial on this host is alive while the lock in its folder is held, which its
  train command inherits. A trial on another host is alive while its heartbeat changes.

Optuna 5 has heartbeats, and a retry of stale trials, for databases only (RDBStorage).
The journal, which is the default here, and the gRPC proxy have neither, so this module
does the same for all three. Its lock also tells at once of a death on this host.
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
  """A trial that this process runs.

  Attributes:
    trial: the Optuna trial.
    name: the name of the point.
    point: the point.
    lock: held by this process and by the trial's process while they live.
  """

  trial: optuna.Trial
  name: str
  point: Point
  lock: Lock


class Watch:
  """When the heartbeats of other hosts' trials were last seen to change."""

  def __init__(self):
    self._seen = {}

  def stale_for(self, number: int, beat: Any) -> float:
    """Returns for how many seconds this process has seen a heartbeat unchanged."""
    before, since = self._seen.get(number, (None, None))
    if since is None or before != beat:
      since = time.monotonic()
      self._seen[number] = beat, since
    return time.monotonic() - since


def current(study: optuna.Study) -> dict[str, FrozenTrial]:
  """Returns the trial that counts of each point, by name, in order of first trials."""
  found = {}
  for trial in study.get_trials(deepcopy=False):
    about = trial.user_attrs
    if "name" not in about or about.get("void"):
      continue
    before = found.get(about["name"])
    if before is None or about["turn"] > before.user_attrs["turn"]:
      found[about["name"]] = trial
  return found


def ended(trial: FrozenTrial) -> bool:
  """Returns whether a trial has a result, or a reason why it failed."""
  return trial.state.is_finished() and not _lost(trial)


def failed(trial: FrozenTrial) -> bool:
  return "reason" in trial.user_attrs and trial.state.is_finished()


def complete(study: optuna.Study, plan: Plan) -> bool:
  """Returns whether all trials of the study have ended."""
  now = current(study)
  return len(now) >= plan.trials and all(map(ended, now.values()))


def ensure(study: optuna.Study, plan: Plan, retry: Collection[str] = ()) -> None:
  """Enqueues the missing points of a grid, and lost points again.

  Args:
    study: the study of the plan.
    plan: the plan.
    retry: names of failed points that are enqueued again too.
  """
  now = current(study)
  for point in plan.points or ():
    if axes_lib.name_of(point) not in now:
      _enqueue(study, point, turn=0)
  for name, trial in now.items():
    if _lost(trial) or (name in retry and failed(trial)):
      _enqueue(study, trial.user_attrs["point"], trial.user_attrs["turn"] + 1)


def take(study: optuna.Study, plan: Plan, workdir: pathlib.Path) -> Claim | None:
  """Claims the next trial for this process; None if none is waiting."""
  while (found := _pop(study, plan)) is not None:
    trial, name, point = found
    folder = workdir / "trials" / name
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder_lib.try_lock(folder / _LOCK)
    if lock is None:  # a lost trial still runs on this host
      _end_unrun(study, trial)
      continue
    host = _host() if lock.is_real else None
    about = {"host": host, "pid": os.getpid(), "folder": str(folder), "beat": 0}
    trial.set_user_attr("claim", about)
    return Claim(trial, name, point, lock)
  return None


def beat(claim: Claim) -> bool:
  """Renews the heartbeat of a trial; returns False if it was taken over."""
  before = claim.trial.user_attrs["claim"]
  try:
    claim.trial.set_user_attr("claim", before | {"beat": before["beat"] + 1})
  except optuna.exceptions.UpdateFinishedTrialError:
    return False
  return True


def settle(study: optuna.Study, claim: Claim, row: dict[str, Any]) -> None:
  """Ends a trial with its row of the summary, see studies/summary.py."""
  value = row[table.OBJECTIVE]
  # If another process was quicker, its result stands.
  with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
    claim.trial.set_user_attr("row", row)
    if row["state"] == "finished":
      study.tell(claim.trial, value)
    else:
      claim.trial.set_user_attr("reason", row["reason"])
      study.tell(claim.trial, state=TrialState.FAIL)
  claim.lock.file.close()


def reap_stale(study: optuna.Study, own: Collection[str], watch: Watch) -> None:
  """Ends trials whose process has died, so that they are lost and run again.

  Args:
    study: the study.
    own: names of the trials that this process runs.
    watch: this process's watch.
  """
  for name, trial in current(study).items():
    if trial.state != TrialState.RUNNING or name in own:
      continue
    claim = trial.user_attrs.get("claim") or {}
    lock = None
    here = claim.get("host") == _host()
    # The folder may belong to another workdir, or be visible only in its container.
    if here and (folder := pathlib.Path(claim["folder"])).exists():
      lock = folder_lib.try_lock(folder / _LOCK)
      if lock is None:
        continue
    elif watch.stale_for(trial.number, claim.get("beat")) < PATIENCE_SECONDS:
      continue
    # It may have ended since, or another process was quicker.
    with contextlib.suppress(ValueError, optuna.exceptions.UpdateFinishedTrialError):
      study.tell(trial.number, state=TrialState.FAIL)
    if lock is not None:
      lock.file.close()


def _pop(study: optuna.Study, plan: Plan):
  """Returns a waiting trial that counts, its name and point; None if none waits."""
  while True:
    now = current(study)
    waits = any(t.state == TrialState.WAITING for t in study.get_trials(deepcopy=False))
    if not waits and (plan.points is not None or len(now) >= plan.trials):
      return None
    study.sampler = _sampler(plan, len(study.get_trials(deepcopy=False)))
    trial = study.ask(_distributions(plan))
    point = trial.user_attrs.get("point") or _drawn_point(plan, trial)
    if "name" not in trial.user_attrs:
      name = axes_lib.name_of(point)
      if plan.points is not None:  # another process took the waiting trial
        _end_unrun(study, trial)
        continue
      if name in now:
        _end_unrun(study, trial)
        _enqueue(study, _unseen(plan, now), turn=0)
        continue
      for key, value in (("point", point), ("turn", 0), ("name", name)):
        trial.set_user_attr(key, value)
    name = trial.user_attrs["name"]
    now = current(study)
    counts = now[name].number == trial.number
    if counts and list(now).index(name) < plan.trials:
      return trial, name, point
    _end_unrun(study, trial)


def _enqueue(study: optuna.Study, point: Point, turn: int) -> None:
  about = {"name": axes_lib.name_of(point), "point": point, "turn": turn}
  study.enqueue_trial(point, user_attrs=about)


def _end_unrun(study: optuna.Study, trial: optuna.Trial) -> None:
  trial.set_user_attr("void", True)
  study.tell(trial, state=TrialState.FAIL)


def _lost(trial: FrozenTrial) -> bool:
  return trial.state == TrialState.FAIL and "reason" not in trial.user_attrs


def _distributions(plan: Plan) -> dict[str, Any]:
  found = {}
  for name, values in plan.axes.items():
    if not isinstance(values, Range):
      found[name] = optuna.distributions.CategoricalDistribution(values)
    elif isinstance(values.low, int):
      low, high = int(values.low), int(values.high)
      found[name] = optuna.distributions.IntDistribution(low, high, values.log)
    else:
      found[name] = optuna.distributions.FloatDistribution(*values)
  return found


def _sampler(plan: Plan, number: int) -> optuna.samplers.BaseSampler:
  """Returns the sampler of trial `number`, the same in every process."""
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
  """Returns a random new point, in place of one that was drawn before."""
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
  """Returns the name and boot id of this machine; names alone may not be unique."""
  boot = pathlib.Path("/proc/sys/kernel/random/boot_id")
  return f"{platform.node()} {boot.read_text().strip() if boot.exists() else ''}"
