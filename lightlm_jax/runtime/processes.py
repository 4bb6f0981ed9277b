"""Connects the processes of a run, and lets them exchange numbers and errors.

Every process runs the whole program on the part of the arrays that its devices hold.
The first process writes files. Before `join`, a process counts as the only one.
"""

from collections.abc import Iterator
import contextlib
import os

import jax
from jax.experimental import multihost_utils
import numpy as np

from lightlm_jax.runtime import liveness
from lightlm_jax.runtime.errors import UserError, first_line

# The hosts of a large job may start minutes apart.
INITIALIZATION_SECONDS = 1_800
# Environment variables of launchers: the number of processes, or a list of hosts.
_LAUNCHER_VARIABLES = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")
_LINE_BYTES = 1_024  # maximum bytes of a line that processes exchange


def join(how: str | None) -> None:
  """Connects this process to the others of its run; call it before jax starts.

  Args:
    how: the value of --distributed. "off" = run alone; "auto" = let jax.distributed
      detect Slurm, Open MPI, Kubernetes or a Cloud TPU; "host:port,N,rank" = address of
      the coordinator, number of processes, index of this one; None = run alone.

  Raises:
    UserError: `how` is malformed, or is None although a launcher started several
      processes, or the other processes cannot be reached.
  """
  if how is None:
    for name in _LAUNCHER_VARIABLES:
      value = os.environ.get(name, "")
      if (int(value) if value.isdecimal() else len(value.split(","))) > 1:
        raise UserError(
          f"{name} is {value}: this is one of several processes; give "
          "--distributed=auto to make them one run, or --distributed=off"
        )
    return
  if how == "off":
    return
  arguments = {}
  if how != "auto":
    try:
      address, count, rank = how.rsplit(",", 2)
      host, _, port = address.rpartition(":")
      count, rank, port = int(count), int(rank), int(port)
    except ValueError:
      host, count, rank = "", 0, 0
    if not host or not 0 <= rank < count:
      raise UserError(
        f"--distributed={how} is not understood; give auto, off or host:port,N,rank "
        "with rank from 0 to N - 1, such as 10.0.0.1:1234,4,0"
      )
    arguments = {"coordinator_address": address, "num_processes": count}
    arguments["process_id"] = rank
  # The service would handle SIGTERM in place of Python, and Orbax would rely on it.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(
      initialization_timeout=INITIALIZATION_SECONDS, **arguments
    )
  except (RuntimeError, ValueError) as error:
    why = first_line(error)
    if "coordinator_address" in why:
      why = "jax finds neither Slurm nor Open MPI, Kubernetes or a Cloud TPU"
    raise UserError(
      f"--distributed={how}: {why}; see launch/README.md, or give --distributed=off"
    )
  if several():
    liveness.watch(*process_index_and_count())


def is_first() -> bool:
  """Returns True in the first process, which writes the files."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def several() -> bool:
  """Returns True if the run has more than one process."""
  return jax.distributed.is_initialized() and jax.process_count() > 1


def process_index_and_count() -> tuple[int, int]:
  """Returns this process's index and the number of processes."""
  return (jax.process_index(), jax.process_count()) if several() else (0, 1)


@contextlib.contextmanager
def fail_together(action: str) -> Iterator[None]:
  """Raises a UserError in every process if the block raises one in any process.

  Otherwise the others would wait for that process in their next collective. The error
  that they raise names it and `action`, such as "write the output".
  """
  error = None
  try:
    yield
  except UserError as raised:
    error = raised
  if several():
    failed_P = multihost_utils.process_allgather(np.array(error is not None))
    if error is None and failed_P.any():
      error = UserError(
        f"process {np.argmax(failed_P)} could not {action}; its own line says why"
      )
  if error is not None:
    raise error


def broadcast_from_first(number: int | None) -> int | None:
  """Returns the first process's `number` (>= 0, or None) in every process."""
  if not several():
    return number
  sent = np.array(-1 if number is None else number)
  received = multihost_utils.broadcast_one_to_all(sent)
  return None if received < 0 else int(received)


def line_of_any(line: str | None) -> str | None:
  """Returns in every process the `line` of the first process that has one, or None."""
  if not several():
    return line
  own = (line or "").encode()[:_LINE_BYTES]
  all_PN = np.asarray(
    multihost_utils.process_allgather(
      np.frombuffer(own.ljust(_LINE_BYTES, b"\0"), np.uint8)
    )
  )
  found = [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in all_PN]
  return next(filter(None, found), None)


def check_agreement(sha256: dict[str, str]) -> None:
  """Checks that `sha256`, {name of data: SHA-256 in hex}, is equal in all processes.

  Raises:
    UserError: the hashes differ; the message names the data and the processes.
  """
  if not several():
    return
  mine = np.stack([np.frombuffer(bytes.fromhex(d), np.uint8) for d in sha256.values()])
  all_PNB = np.asarray(multihost_utils.process_allgather(mine))
  differs_PN = (all_PNB != all_PNB[:1]).any(axis=-1)
  for name, differs_P in zip(sha256, differs_PN.T):
    if differs_P.any():
      processes = ", ".join(map(str, np.flatnonzero(differs_P)))
      raise UserError(
        f"{name} of process {processes} is not that of process 0; give every process "
        "the same data, versions and kind of processor"
      )
