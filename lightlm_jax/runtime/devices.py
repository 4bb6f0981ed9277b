"""Selects and checks the devices, and sets up the persistent compilation cache."""

import collections
from collections.abc import Sequence
import glob
import os
from typing import Any

import jax

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.cache import cache_root
from lightlm_jax.runtime.errors import UserError

ACCELERATOR_NODES = ("/dev/nvidia[0-9]*", "/dev/accel*")


def begin(platform: str | None, distributed: str | None) -> None:
  """Selects and checks the devices, and joins the run's other processes.

  Call it before any other use of jax. `platform` is as in `select`. `distributed`, the
  value of the flag --distributed, is passed as `how` to `processes.join`.

  Raises:
    UserError: the devices or the other processes are not available.
  """
  select(platform)
  enable_compilation_cache()
  processes.join(distributed)
  check(platform)


def select(platform: str | None) -> None:
  """Makes jax use `platform` ("cpu", "gpu", "tpu"); None leaves the choice to jax."""
  if platform:
    # "gpu" would make jax start both CUDA and ROCm, and fail if one is missing. The CPU
    # stays available beside an accelerator: ids built on it are equal everywhere.
    names = {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}
    jax.config.update("jax_platforms", names.get(platform, platform))


def visible_accelerators(nodes: Sequence[str] = ACCELERATOR_NODES) -> list[str]:
  """Returns the sorted paths of device files that match the globs `nodes`."""
  found = {path for pattern in nodes for path in glob.glob(pattern)}
  # On a laptop the folder `/dev/accel/` belongs to an NPU, which jax cannot use.
  return sorted(path for path in found if not os.path.isdir(path))


def check(
  platform: str | None = None, *, nodes: Sequence[str] = ACCELERATOR_NODES
) -> None:
  """Starts jax's backends; checks that jax does not leave an accelerator unused.

  Args:
    platform: as in `select`; "cpu" allows an accelerator to stay unused.
    nodes: globs of the accelerators' device files, such as /dev/nvidia0.

  Raises:
    UserError: an accelerator is visible but jax runs on the CPU, the requested platform
      does not start, or this is one of several processes that are not joined.
  """
  accelerators = visible_accelerators(nodes)
  is_tpu = platform == "tpu" or (
    not platform and any("accel" in os.path.basename(path) for path in accelerators)
  )
  install = f"pip install 'lightlm_jax[{'tpu' if is_tpu else 'cuda'}]'"
  why = "this jax is built without it"
  try:
    backend = jax.default_backend()
  except (RuntimeError, AssertionError) as error:  # jax without CUDA only asserts
    backend, why = None, str(error).strip() or why
  # As the CPU is allowed too, jax falls back to it without an error.
  if backend is None or (backend == "cpu" and platform not in (None, "cpu")):
    asked = f"--platform={platform}" if platform else "its platform"
    raise UserError(
      f"jax cannot start {asked}: {why}; install with {install} or give --platform=cpu"
    )
  if backend == "cpu" and platform != "cpu" and accelerators:
    raise UserError(
      f"{accelerators[0]} is an accelerator, but jax {jax.__version__} runs on the "
      f"CPU; install with {install} or give --platform=cpu"
    )
  # The hosts of a Cloud TPU slice are connected even without --distributed.
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise UserError(
      f"this is one of {jax.process_count()} processes; give --distributed=auto to "
      "make them one run"
    )


def describe() -> str:
  """Returns a line of text: backend, number and kind of devices, version of jax."""
  kinds = collections.Counter(device.device_kind for device in jax.devices())
  devices = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
  line = f"backend {jax.default_backend()}: {devices}; jax {jax.__version__}"
  if jax.process_count() > 1:
    line += f"; process {jax.process_index()} of {jax.process_count()}"
  return line


def enable_compilation_cache() -> str:
  """Makes jax store compiled programs on disk; returns the folder.

  The folder is JAX_COMPILATION_CACHE_DIR, by default `xla` under the cache root.
  """
  config: Any = jax.config  # Any: its type does not declare all attributes
  folder = config.jax_compilation_cache_dir or os.fspath(cache_root() / "xla")
  jax.config.update("jax_compilation_cache_dir", folder)
  # The programs of a small model are below jax's default thresholds.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return folder
