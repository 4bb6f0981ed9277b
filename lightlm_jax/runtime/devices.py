"""Choice and check of the devices, and the persistent compilation cache."""

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

  Call it first, as jax needs this order. For the arguments see `select` and
  `processes.join`.

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
    # "gpu" asks jax for both CUDA and ROCm and fails if one is missing. The CPU stays
    # available beside an accelerator: ids are built on it, the same bytes everywhere.
    names = {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}
    jax.config.update("jax_platforms", names.get(platform, platform))


def visible_accelerators(nodes: Sequence[str] = ACCELERATOR_NODES) -> list[str]:
  """Returns the device nodes that match the globs, sorted."""
  found = {path for pattern in nodes for path in glob.glob(pattern)}
  # A laptop's folder `/dev/accel/` is an NPU, which jax cannot use.
  return sorted(path for path in found if not os.path.isdir(path))


def check(
  platform: str | None = None, *, nodes: Sequence[str] = ACCELERATOR_NODES
) -> None:
  """Starts jax's backends, and checks that no accelerator is left unused.

  Args:
    platform: the value of --platform; "cpu" allows the CPU beside an accelerator.
    nodes: globs of the accelerators' device nodes.

  Raises:
    UserError: an accelerator is visible but jax runs on the CPU, or the requested
      platform does not start.
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
  # With the CPU as a fallback, jax does not report a platform that it lacks.
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
  """Returns a run's first line: backend, number and kind of devices, jax's version."""
  kinds = collections.Counter(device.device_kind for device in jax.devices())
  devices = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
  line = f"backend {jax.default_backend()}: {devices}; jax {jax.__version__}"
  if jax.process_count() > 1:
    line += f"; process {jax.process_index()} of {jax.process_count()}"
  return line


def enable_compilation_cache() -> str:
  """Makes jax store compiled programs on disk; returns the folder.

  It is JAX_COMPILATION_CACHE_DIR, by default `xla` under the cache root.
  """
  config: Any = jax.config  # has attributes that its type does not tell
  folder = config.jax_compilation_cache_dir or os.fspath(cache_root() / "xla")
  jax.config.update("jax_compilation_cache_dir", folder)
  # The programs of a small model are below jax's default thresholds.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return folder
