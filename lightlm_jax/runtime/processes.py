"""Several processes as one run: how they find each other, and what they agree on.

Every process runs the whole program on its own devices' part of the arrays, the first
one writes. Until `join` there is one process, and nothing here asks jax for devices.
"""

from collections.abc import Iterator
import contextlib
import os

import jax
from jax.experimental import multihost_utils
import numpy as np

from lightlm_jax.runtime.errors import UserError

# A gang of many hosts is not up at once.
PATIENCE_SECONDS = 1_800
# What says that a launcher started several processes: how many, or their names.
_LAUNCHED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "TPU_WORKER_HOSTNAMES")


def join(how: str | None) -> None:
  """Makes this process one of its run's; before jax has touched a device.

  Args:
    how: "off" = alone; "auto" = as Slurm, Open MPI, Kubernetes or a Cloud TPU tells
      (jax.distributed); "host:port,N,rank" = as it says; None = alone, unless a
      launcher has started several, which is refused.

  Raises:
    UserError: not understood, or the others cannot be reached.
  """
  if how is None:
    for name in _LAUNCHED:
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
    arguments = {
      "coordinator_address": address,
      "num_processes": count,
      "process_id": rank,
    }
  # It would take SIGTERM away from Python for good, and Orbax would count with it.
  jax.config.update("jax_enable_preemption_service", False)
  try:
    jax.distributed.initialize(initialization_timeout=PATIENCE_SECONDS, **arguments)
  except (RuntimeError, ValueError) as error:
    why, *_ = str(error).strip().splitlines() or [type(error).__name__]
    if "coordinator_address" in why:
      why = "jax finds neither Slurm nor Open MPI, Kubernetes or a Cloud TPU"
    raise UserError(
      f"--distributed={how}: {why}; see launch/README.md, or give --distributed=off"
    )


def is_first() -> bool:
  """Whether this process is the one that writes."""
  return not jax.distributed.is_initialized() or jax.process_index() == 0


def several() -> bool:
  return jax.distributed.is_initialized() and jax.process_count() > 1


def place() -> tuple[int, int]:
  """This process's number, and how many there are."""
  return (jax.process_index(), jax.process_count()) if several() else (0, 1)


@contextlib.contextmanager
def together(what: str) -> Iterator[None]:
  """What may fail in one process alone: then all of them end, and none waits for it.

  Args:
    what: that cannot be done, for those in which it could.

  Raises:
    UserError: this process's own, or that another has one.
  """
  error = None
  try:
    yield
  except UserError as found:
    error = found
  if several():
    failed_P = multihost_utils.process_allgather(np.array(error is not None))
    if error is None and failed_P.any():
      error = UserError(
        f"process {np.argmax(failed_P)} could not {what}; its own line says why"
      )
  if error is not None:
    raise error


def as_the_first(number: int | None) -> int | None:
  """The first process's number, everywhere."""
  if not several():
    return number
  told = multihost_utils.broadcast_one_to_all(
    np.array(-1 if number is None else number)
  )
  return None if told < 0 else int(told)


def check_agreement(sha256: dict[str, str]) -> None:
  """Refuses to go on where processes would train on different things.

  Args:
    sha256: hex digests by what they are of, in the same order everywhere.

  Raises:
    UserError: names what differs, and the processes that differ from the first.
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
