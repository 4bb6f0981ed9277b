"""Which devices a run uses, said before it starts, and programs compiled only once.

In the order in which they have to be called: `begin`, which is `select`,
`enable_compilation_cache`, `processes.join` and `check`; then `describe`.
"""

import collections
from collections.abc import Sequence
import glob
import os

import jax

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.cache import cache_root
from lightlm_jax.runtime.errors import UserError

ACCELERATOR_NODES = ("/dev/nvidia[0-9]*", "/dev/accel*")


def begin(platform: str | None, distributed: str | None) -> None:
  """All of it: this process's devices, as one of its run's processes.

  Args:
    platform: see `select`.
    distributed: see `processes.join`.

  Raises:
    UserError: there are no such devices, or no such processes.
  """
  select(platform)
  enable_compilation_cache()
  processes.join(distributed)
  check(platform)


def select(platform: str | None) -> None:
  """Makes jax use `platform` ("cpu", "gpu", "tpu"); None leaves the choice to jax.

  Works only before jax has touched a device.
  """
  if platform:
    # To jax "gpu" means CUDA and ROCm, and it fails where one of them is missing. The
    # CPU stays beside an accelerator: ids are built there, the same bytes everywhere.
    names = {"gpu": "cuda,cpu", "tpu": "tpu,cpu"}
    jax.config.update("jax_platforms", names.get(platform, platform))


def visible_accelerators(nodes: Sequence[str] = ACCELERATOR_NODES) -> list[str]:
  """The device nodes that match the globs, sorted.

  Folders do not count: `/dev/accel/` on a laptop holds an NPU, which jax cannot use,
  while a TPU is `/dev/accel0`.
  """
  found = {path for pattern in nodes for path in glob.glob(pattern)}
  return sorted(path for path in found if not os.path.isdir(path))


def check(
  platform: str | None = None, *, nodes: Sequence[str] = ACCELERATOR_NODES
) -> None:
  """Refuses to train on the CPU beside an idle accelerator. Starts jax's backends.

  Args:
    platform: what the person asked for; "cpu" is the only way to have the CPU there.
    nodes: globs of the device nodes that accelerators show themselves by.

  Raises:
    UserError: an accelerator is visible and jax runs on the CPU, or the platform
      that was asked for does not start.
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
  # With the CPU to fall back on, jax says nothing of a platform that it does not have.
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
  # A Cloud TPU's hosts know of each other without anybody's saying so.
  if jax.process_count() > 1 and not jax.distributed.is_initialized():
    raise UserError(
      f"this is one of {jax.process_count()} processes; give --distributed=auto to "
      "make them one run"
    )


def describe() -> str:
  """The line that a run starts with: backend, number and kind of devices, version."""
  kinds = collections.Counter(device.device_kind for device in jax.devices())
  devices = ", ".join(f"{count} x {kind}" for kind, count in sorted(kinds.items()))
  line = f"backend {jax.default_backend()}: {devices}; jax {jax.__version__}"
  if jax.process_count() > 1:
    line += f"; process {jax.process_index()} of {jax.process_count()}"
  return line


def enable_compilation_cache() -> str:
  """Keeps every compiled program for later processes; returns the folder.

  JAX_COMPILATION_CACHE_DIR comes first, then `xla` under the cache root.
  """
  folder = jax.config.jax_compilation_cache_dir or os.fspath(cache_root() / "xla")
  jax.config.update("jax_compilation_cache_dir", folder)
  # A small model is many small programs, each under jax's thresholds.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
  return folder
