"""One trial as a process: what it runs, on what, how far it is, how it ended."""

from collections.abc import Mapping, Sequence
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, NamedTuple

from lightlm_jax.runtime import devices, signals
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.studies.claims import Claim

TRAIN = (sys.executable, "-m", "lightlm_jax.train")
LOG = "trial.log"
# So much memory a trial may want, on a CPU, where nobody says how many go at once.
_TRIAL_BYTES = 2 * 2**30
_TAIL = 4_096
_PR_SET_PDEATHSIG = 1


class Slot(NamedTuple):
  """What one trial at a time has for itself: cores, and perhaps a GPU."""

  cores: tuple[int, ...]
  environment: Mapping[str, str]


class Progress(NamedTuple):
  """How far a trial is, by its journal; None where it has not said."""

  step: int = 0
  loss: float | None = None
  score: float | None = None  # of its last validation
  seconds_left: float | None = None


def slots(jobs: int | None, platform: str | None) -> list[Slot]:
  """Divides cores and GPUs among the trials that go at once, touching no device.

  Several trials on one GPU share its memory. A TPU is given whole to one trial.

  Args:
    jobs: how many; None = one a GPU or TPU host, on a CPU one a core, as far as the
      memory goes.
    platform: as for `train`.

  Raises:
    UserError: there are fewer cores than jobs.
  """
  cores = _cores()
  gpus = [] if platform in ("cpu", "tpu") else _gpus()
  on_tpu = not gpus and platform != "cpu" and bool(devices.visible_accelerators())
  if jobs is None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    jobs = min(len(cores), max(1, memory // _TRIAL_BYTES))
    jobs = min(jobs, len(gpus)) if gpus else 1 if on_tpu else jobs
  if not 1 <= jobs <= len(cores):
    raise UserError(
      f"--jobs={jobs}: each trial wants a core of its own, and there are {len(cores)}"
    )
  if on_tpu and jobs > 1:
    raise UserError(f"--jobs={jobs}: one trial at a time has the TPU; leave it out")
  found = []
  for job in range(jobs):
    environment = {}
    if gpus:
      environment["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]
      sharing = len(range(job % len(gpus), jobs, len(gpus)))
      if sharing > 1:
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{0.9 / sharing:.3f}"
    found.append(Slot(tuple(cores[job::jobs]), environment))
  return found


def describe(found: Sequence[Slot]) -> str:
  """The line that says what trials run on."""
  cores = sorted({len(slot.cores) for slot in found})
  of_each = " or ".join(map(str, cores)) + (" core" if cores == [1] else " cores")
  gpus = {slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in found} - {None}
  on = f", on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else ""
  return f"{len(found)} at once, {of_each} each{on}"


def command(
  train: Sequence[str],
  base: str,
  overrides: Mapping[str, Any],
  folder: pathlib.Path,
  platform: str | None,
) -> list[str]:
  """What trains a trial; a person can type it, too."""
  return [
    *train,
    f"--config={base}",
    *(f"--config.{field}={value}" for field, value in overrides.items()),
    f"--workdir={folder}",
    # Of a launcher's several processes each may have its own trials.
    "--distributed=off",
    *([f"--platform={platform}"] if platform else []),
  ]


def start(
  claim: Claim, line: Sequence[str], folder: pathlib.Path, slot: Slot
) -> subprocess.Popen:
  """Starts a trial; what it says goes behind what its log holds already.

  It inherits the claim's lock, and dies with this process: nobody else looks after it.
  """
  library = ctypes.CDLL(None)

  def prepare():
    if hasattr(os, "sched_setaffinity"):
      os.sched_setaffinity(0, slot.cores)
    if hasattr(library, "prctl"):
      library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

  with open(folder / LOG, "ab") as log:
    return subprocess.Popen(
      list(line),
      env=os.environ | slot.environment,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      pass_fds=(claim.lock.fileno(),),
      preexec_fn=prepare,
      start_new_session=True,  # a terminal's Ctrl-C is for this process to pass on
    )


def progress(folder: pathlib.Path, steps: int) -> Progress:
  """How far the trial in a folder is.

  Args:
    folder: its workdir.
    steps: it takes in all.
  """
  found = Progress()
  for line in _tail(folder / "metrics.jsonl"):
    try:
      record = json_text.loads(line)
      found = found._replace(step=record["step"])
      if "loss" in record:
        left = record["step_seconds"]["median"] * max(steps - record["step"], 0)
        found = found._replace(loss=record["loss"], seconds_left=left)
      if "validation" in record:
        found = found._replace(score=record["validation"]["ndcg@10"])
    except (ValueError, KeyError, TypeError):
      continue  # a line that is cut off, or that another version wrote
  return found


def reason(code: int, folder: pathlib.Path) -> str:
  """Why a trial ended with an exit code other than 0, in one line."""
  if code < 0:
    name = signal.Signals(-code).name
    memory = "; is there enough memory?" if -code == signal.SIGKILL else ""
    return f"killed by {name}{memory}"
  lines = [line.strip() for line in _tail(folder / LOG) if line.strip()]
  last = lines[-1] if lines else "it said nothing"
  return f"exit code {code}: {last.removeprefix('lightlm_jax: error: ')}"


def was_told(code: int) -> bool:
  """Whether a trial ended because somebody told it to; it would go on if asked."""
  return any(code in (-number, 128 + number) for number in signals.HEARD)


def _tail(path: pathlib.Path) -> list[str]:
  """The last lines of a file, none where there is none."""
  try:
    with open(path, "rb") as file:
      end = file.seek(0, os.SEEK_END)
      file.seek(max(0, end - _TAIL))
      return file.read().decode(errors="replace").splitlines()
  except FileNotFoundError:
    return []


def _cores() -> list[int]:
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
  """Names of GPUs as CUDA_VISIBLE_DEVICES has them."""
  given = os.environ.get("CUDA_VISIBLE_DEVICES")
  if given is not None:
    return [name for name in given.split(",") if name.strip()]
  nodes = devices.visible_accelerators(["/dev/nvidia[0-9]*"])
  return [str(number) for number in range(len(nodes))]
