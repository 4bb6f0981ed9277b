"""NVIDIA GPUs to compile for without having them.

XLA's CUDA compiler needs jax's CUDA plugin and ptxas, but no GPU and no driver. They
lie in a folder of their own, because beside jax they would make every process look for
a GPU.
"""

import importlib.metadata
import math
import os
import re
import sys
from typing import Any, NamedTuple

from jax.experimental import topologies

from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.training import speed

FOLDER = "LIGHTLM_CUDA_DIR"  # an environment variable
# Nothing can be timed here, and products that are not tuned do not compile by Triton.
OPTIONS = {"xla_gpu_autotune_level": "0", "xla_gpu_enable_triton_gemm": False}
PLUGIN = "jax-cuda12-pjrt"
_NAME = re.compile(r"(a100|h100|h200|b200):(?:([1-9]\d*)x)?([1-9]\d*)")


class Gpu(NamedTuple):
  """What XLA asks of a GPU, from NVIDIA's data sheets and programming guide."""

  name: str
  capability: int
  cores: int  # streaming multiprocessors
  clock_ghz: float
  memory: int  # bytes
  bandwidth: int  # bytes a second
  l2: int  # bytes
  shared: int  # bytes of shared memory a multiprocessor
  links: int  # NVLink, 25 GB/s each way a link up to Hopper, 50 from Blackwell on


# What a kernel costs to start, in a CUDA graph: between 1 and 3 microseconds are
# reported. It is an assumption, as nothing here runs on a GPU.
START_SECONDS = 2e-6

GPUS = {
  "a100": Gpu(
    *("NVIDIA A100-SXM4-80GB", 8, 108, 1.41, 80 << 30, 2_039 * 10**9, 40 << 20),
    *(164 << 10, 12),
  ),
  "h100": Gpu(
    *("NVIDIA H100 80GB HBM3", 9, 132, 1.98, 80 << 30, 3_352 * 10**9, 50 << 20),
    *(228 << 10, 18),
  ),
  "h200": Gpu(
    *("NVIDIA H200", 9, 132, 1.98, 141 << 30, 4_800 * 10**9, 50 << 20),
    *(228 << 10, 18),
  ),
  "b200": Gpu(
    *("NVIDIA B200", 10, 148, 1.965, 180 << 30, 8_000 * 10**9, 126 << 20),
    *(228 << 10, 18),
  ),
}


def devices(name: str) -> list[Any] | None:
  """Returns GPUs such as "h100:8" or, on two hosts, "h100:2x8"; None = another name.

  Raises:
    UserError: the compiler is not there, or is not of jax's version.
  """
  if (found := _NAME.fullmatch(name)) is None:
    return None
  kind, hosts, gpus = found[1], found[2] or 1, found[3]
  _find_compiler(name)
  try:
    return topologies.get_topology_desc(
      platform="cuda",
      target_config=_description(GPUS[kind]),
      topology=f"1x{hosts}x{gpus}",
    ).devices
  except (RuntimeError, NotImplementedError) as error:
    raise UserError(f"--topology={name}: {first_line(error)}")


def roofline(
  device: Any, flops: float, moved: int, sent: int, kernels: int
) -> dict[str, Any]:
  """Returns lower bounds of a program's milliseconds on one GPU, and which one binds.

  Args:
    device: one of `devices`.
    flops: of the program's matrix products, on this device.
    moved, sent: bytes that its kernels read and write, and that collectives send.
    kernels: how many it starts, one after the other.

  Returns:
    Milliseconds by "compute" (bfloat16 peak), "memory", "network" (NVLink) and "starts"
    (`START_SECONDS` each); "bound", the name of the largest; "mfu", the largest share
    of the peak FLOP/s that it leaves.
  """
  (gpu,) = (each for each in GPUS.values() if each.name == device.device_kind)
  link = (50e9 if gpu.capability > 9 else 25e9) * gpu.links
  seconds = {
    "compute": flops / (speed.peak_flops(gpu.name) or math.inf),
    "memory": moved / gpu.bandwidth,
    "network": sent / link,
    "starts": kernels * START_SECONDS,
  }
  bound = max(seconds, key=lambda name: seconds[name])
  found = {name: round(1e3 * value, 4) for name, value in seconds.items()}
  mfu = seconds["compute"] / seconds[bound]
  return {"milliseconds": found, "bound": bound, "mfu": round(mfu, 4)}


def _find_compiler(name: str) -> None:
  """Shows jax the plugin in the folder that LIGHTLM_CUDA_DIR names."""
  wanted = importlib.metadata.version("jaxlib")
  if (folder := os.environ.get(FOLDER)) and folder not in sys.path:
    sys.path.append(folder)
  advice = (
    f"pip install --no-deps --target=FOLDER {PLUGIN}=={wanted} nvidia-cuda-nvcc-cu12, "
    f"and set {FOLDER}=FOLDER"
  )
  try:
    version = importlib.metadata.version(PLUGIN)
  except importlib.metadata.PackageNotFoundError:
    raise UserError(
      f"--topology={name} is compiled by jax's CUDA plugin, not there; {advice}"
    )
  if version != wanted:
    raise UserError(f"the CUDA plugin is {version}, jaxlib {wanted}; {advice}")


def _description(gpu: Gpu) -> str:
  """Returns XLA's description of a GPU, a GpuTargetConfigProto as text."""
  feature = " feature_extension: ACCELERATED_FEATURES" if gpu.capability > 8 else ""
  return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: {48 << 10}
  shared_memory_per_core: {gpu.shared}
  threads_per_core_limit: 2048
  core_count: {gpu.cores}
  fpus_per_core: {64 if gpu.capability == 8 else 128}
  block_dim_limit_x: {2**31 - 1}
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {gpu.bandwidth}
  l2_cache_size: {gpu.l2}
  clock_rate_ghz: {gpu.clock_ghz}
  device_memory_size: {gpu.memory}
  shared_memory_per_block_optin: {gpu.shared - 1024}
  cuda_compute_capability {{ major: {gpu.capability}{feature} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  thread_dim_limit_x: 1024
  thread_dim_limit_y: 1024
  thread_dim_limit_z: 64
  device_vendor: "NVIDIA Corporation"
  device_address_bits: 64
  name: "{gpu.name}"
  driver_version: "12.9.0"
  runtime_version: "12.9.0"
  compile_time_toolkit_version: "12.9.0"
  dnn_version: "9.10.0"
  device_interconnect_info {{ active_links: {gpu.links} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{gpu.name}"
"""
