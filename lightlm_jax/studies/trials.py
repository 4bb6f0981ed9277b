"""Runs a trial as a process: its command, cores and GPU, progress and end."""

from collections.abc import Mapping, Sequence
import ctypes
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any, NamedTuple

from lightlm_jax.runtime import devices, stops
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.studies.claims import Claim

TRAIN = (sys.executable, "-m", "lightlm_jax.train")
LOG = "trial.log"
_PR_SET_PDEATHSIG = 1


class Slot(NamedTuple):
  """Resources for one trial at a time: cores, and environment variables for a GPU."""

  cores: tuple[int, ...]
  environment: Mapping[str, str]


class Progress(NamedTuple):
  """The progress of a trial from its metrics.jsonl; None = not known yet."""

  step: int = 0
  loss: float | None = None
  score: float | None = None  # NDCG@10 of its last validation
  seconds_left: float | None = None


def slots(jobs: int | None, platform: str | None) -> list[Slot]:
  """Divides cores and GPUs among `jobs` parallel trials, without starting jax.

  Several trials on one GPU share its memory; only one trial at a time can use a TPU.
  If `jobs` is None, one trial runs on a TPU, one on each GPU or, with neither, one on
  each core. There is at most one trial per core, and at most one per 2 GiB of memory.

  Raises:
    UserError: there are fewer cores than jobs, or several jobs for a TPU.
  """
  cores = _cores()
  gpus = [] if platform in ("cpu", "tpu") else _gpus()
  on_tpu = not gpus and platform != "cpu" and bool(devices.visible_accelerators())
  if jobs is None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    jobs = min(len(cores), max(1, memory // (2 * 2**30)))  # 2 GiB each on a CPU
    jobs = min(jobs, len(gpus)) if gpus else 1 if on_tpu else jobs
  if not 1 <= jobs <= len(cores):
    raise UserError(
      f"--jobs={jobs}: each trial needs a core, and there are {len(cores)}"
    )
  if on_tpu and jobs > 1:
    raise UserError(
      f"--jobs={jobs}: only one trial at a time can use the TPU; leave it out"
    )
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
  """Returns one line of text about the resources of the trials."""
  cores = sorted({len(slot.cores) for slot in found})
  of_each = " or ".join(map(str, cores)) + (" core" if cores == [1] else " cores")
  gpus = {slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in found} - {None}
  on = f", on {len(gpus)} GPU{'s' if len(gpus) > 1 else ''}" if gpus else ""
  return f"{len(found)} at once, {of_each} each{on}"


def start(
  claim: Claim,
  slot: Slot,
  train: Sequence[str],
  base: str,
  overrides: Mapping[str, Any],
  platform: str | None,
) -> subprocess.Popen:
  """Starts a trial's process; its output is appended to LOG in the trial's folder.

  `base` and `overrides` make the configuration; `train`, `platform` as in `sweep`.
  The process inherits the claim's lock and, on Linux, is terminated if its parent dies.
  """
  command = [
    *train,
    f"--config={base}",
    *(f"--config.{field}={value}" for field, value in overrides.items()),
    f"--workdir={claim.folder}",
    # Every process of a launcher may run trials of its own.
    "--distributed=off",
    *([f"--platform={platform}"] if platform else []),
  ]
  library = ctypes.CDLL(None)

  def prepare():
    if hasattr(os, "sched_setaffinity"):
      os.sched_setaffinity(0, slot.cores)
    if hasattr(library, "prctl"):
      library.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

  with open(claim.folder / LOG, "ab") as log:
    return subprocess.Popen(
      command,
      env=os.environ | slot.environment,
      stdin=subprocess.DEVNULL,
      stdout=log,
      stderr=subprocess.STDOUT,
      pass_fds=(claim.lock.file.fileno(),),
      preexec_fn=prepare,
      start_new_session=True,  # no Ctrl-C from the terminal: this process passes it on
    )


def progress(folder: pathlib.Path, steps: int) -> Progress:
  """Reads the progress of a trial of `steps` steps from `folder`, its workdir."""
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
      continue  # a partial line, or one of another version
  return found


def reason(code: int, folder: pathlib.Path) -> str:
  """Returns in one line the reason why a trial ended with an exit code other than 0."""
  if code < 0:
    name = signal.Signals(-code).name
    memory = "; is there enough memory?" if -code == signal.SIGKILL else ""
    return f"killed by {name}{memory}"
  lines = [text for line in _tail(folder / LOG) if (text := line.strip())]
  last = lines[-1] if lines else "no output"
  return f"exit code {code}: {last.removeprefix('lightlm_jax: error: ')}"


def was_stopped(code: int) -> bool:
  """Returns True if a signal to stop ended a trial, which can then be resumed."""
  return -code in stops.HANDLED or code - 128 in stops.HANDLED


def _tail(path: pathlib.Path) -> list[str]:
  """Returns the lines in a file's last 4 KiB; [] if it does not exist."""
  try:
    with open(path, "rb") as file:
      end = file.seek(0, os.SEEK_END)
      file.seek(max(0, end - 4_096))
      return file.read().decode(errors="replace").splitlines()
  except FileNotFoundError:
    return []


def _cores() -> list[int]:
  if hasattr(os, "sched_getaffinity"):
    return sorted(os.sched_getaffinity(0))
  return list(range(os.cpu_count() or 1))


def _gpus() -> list[str]:
  """Returns the names of visible GPUs, in the form of CUDA_VISIBLE_DEVICES."""
  given = os.environ.get("CUDA_VISIBLE_DEVICES")
  if given is not None:
    return [name for name in given.split(",") if name.strip()]
  nodes = devices.visible_accelerators(["/dev/nvidia[0-9]*"])
  return [str(number) for number in range(len(nodes))]
