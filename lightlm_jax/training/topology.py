"""Compiles a run's programs for TPUs or GPUs that this machine does not have.

libtpu compiles for a topology without TPUs, jax's CUDA plugin for GPUs; nothing is
executed. `describe` reports the collectives and the memory per device of the compiled
programs, and for GPUs kernels and a roofline.
"""

from collections.abc import Collection
import importlib.metadata
import importlib.util
import os
import re
import time
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.config import LearnedConfig, RunConfig
from lightlm_jax.data.splits import Split
from lightlm_jax.decoding.allowed import exclusion_width
from lightlm_jax.evaluation import evaluator
from lightlm_jax.inference import batched_inference
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.systems.base import Built, SharesWork, Trainable
from lightlm_jax.training import collectives, gpus, kernels, loop, speed
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib

BATCHES = ("batch_size", "eval_batch_size")  # of config.train
_NAME = re.compile(r"[A-Za-z]\w*:(\d+(?:x\d+)+)(?:_twisted|_untwisted)?")
# Outside Google's cloud, libtpu would query a metadata server that does not exist and
# print long warnings; the values do not affect the compilation. It would also lock the
# TPU, which is not used here, and make a second process fail.
_ENVIRONMENT = {
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "TPU_LOG_DIR": "disabled",
}


def devices(name: str) -> list[Any]:
  """Returns the chips of a slice such as "v5e:16x16", or GPUs as in `gpus.devices`.

  Raises:
    UserError: the compiler is not installed, or knows no such slice.
  """
  if (found := gpus.devices(name)) is not None:
    return found
  example = "give a kind and its sides, such as v5e:16x16, or h100:8"
  sides = _NAME.fullmatch(name)
  if sides is None:
    raise UserError(f"--topology={name} names no TPUs or GPUs; {example}")
  if importlib.util.find_spec("libtpu") is None and not os.getenv("TPU_LIBRARY_PATH"):
    raise UserError(
      f"--topology={name} is compiled by libtpu, which is not installed; install with "
      "pip install 'lightlm_jax[tpu]'"
    )
  for variable, value in _ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
  # By default libtpu assumes a host of at least four chips.
  is_one = set(sides[1].split("x")) == {"1"}
  bounds = {"chips_per_host_bounds": (1, 1, 1)} if is_one else {}
  try:
    return topologies.get_topology_desc(name, platform="tpu", **bounds).devices
  except RuntimeError as error:
    raise UserError(f"--topology={name}: {first_line(error)}; {example}")


def with_batches(
  config: RunConfig, data: int, chosen: Collection[str] = ()
) -> RunConfig:
  """Rounds batch sizes up, so that a batch divides into `data` shards of whole rows.

  Fields in `chosen`, such as "train.batch_size", were set by the user and stay.
  """
  changed = {}
  for name in BATCHES:
    unit = data * (config.examples_a_row if name == "batch_size" else 1)
    if (field := f"train.{name}") not in chosen:
      changed[field] = -(-config_lib.value_of(config, field) // unit) * unit
  return config_lib.replace(config, changed)


def describe(
  built: Built, split: Split, config: LearnedConfig, mesh: Mesh, name: str
) -> dict[str, Any]:
  """Compiles the programs of a run for the devices `name`, and returns a report.

  One program, "steps", is a dispatch of training steps on batches of any width. The
  other, "search", recommends to the widest batch of held-out requests, seen items
  excluded; it is None if nothing is held out. Its report has `flops_per_batch`,
  the FLOPs of matrix products (as in `speed.flops_per_step`) on all devices together.
  XLA's own counts, `xla_…`, count each loop body once; for GPUs there are none. The
  `collectives` and `kernels` of "steps" are of one step, at the width with the most
  bytes or kernels; see collectives.py and kernels.py. `roofline` is that of
  gpus.py.

  Raises:
    UserError: the system is not trained by gradient descent.
  """
  system = built.system
  if not isinstance(system, Trainable):
    raise UserError(
      f"config.system {system.name!r} is fitted on the host: there is no step that "
      "could be compiled for --topology"
    )
  abstract = loop.abstract_state(system, config, mesh)
  kind = mesh.devices.flat[0].device_kind
  return {
    "name": name,
    "device_kind": kind,
    "peak_flops": speed.peak_flops(kind),
    "libtpu": _version("libtpu", "libtpu-nightly"),
    "cuda_plugin": _version(gpus.PLUGIN),
    "batches": {name: getattr(config.train, name) for name in BATCHES},
    "steps": _steps(built, split, config, mesh, abstract),
    "search": _search(built, split, config, mesh, abstract.params),
  }


def _steps(built: Built, split: Split, config, mesh: Mesh, abstract) -> dict:
  system = built.system
  assert isinstance(system, Trainable)
  feed, plan = loop.make_feed(built, split.train, config)
  tx = state_lib.optimiser(config)
  steps = step_lib.make_steps(system, tx, plan, mesh, config.seed, abstract)
  K = config.train.steps_per_dispatch
  every_device = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
  everywhere = mesh_lib.replicated(mesh)
  traced = steps.trace(
    abstract,
    _placed(built.tables, everywhere),
    _placed(feed, everywhere),
    _placed(step_lib.dispatch(plan, 0, K, K), everywhere),
    jax.ShapeDtypeStruct((mesh.size,), bool, sharding=every_device),
  )
  feed = jax.eval_shape(lambda: feed)
  flops = speed.flops_of_buckets(built, abstract.params, feed, plan)
  return _compiled(traced, mesh, max(flops))


def _search(built: Built, split: Split, config, mesh: Mesh, params) -> dict | None:
  """Returns the report on the program that recommends; None if nothing is held out."""
  requests = split.validation if split.test is None else split.test
  if requests is None or not len(requests):
    return None
  everywhere = mesh_lib.replicated(mesh)
  ask, catalogue = evaluator.program(
    built, rules=("seen_excluded",), lists=False, everywhere=everywhere
  )
  # A batch of requests and its excluded items, as wide as any that occur.
  batch_size = config.train.eval_batch_size
  longest = requests.take(np.array([np.argmax(requests.length_N)]))
  (first,) = batched_inference.host_batches(built, longest, batch_size)
  _, batch, excluded_BE = first
  shape = batch_size, exclusion_width(int(longest.length_N[0]))
  excluded_BE = np.broadcast_to(excluded_BE[:, :1], shape)
  rows = mesh_lib.by_rows(mesh)
  tables = built.tables
  if isinstance(built.system, SharesWork):
    tables = jax.eval_shape(built.system.prepare, params, tables)
  traced = ask.trace(
    params,
    _placed(tables, everywhere),
    _placed(batch, rows),
    _placed(catalogue, everywhere),
    _placed(excluded_BE, rows),
  )
  flops = speed.matmul_flops(traced.jaxpr)
  return {"flops_per_batch": flops} | _compiled(traced, mesh, flops)


def _compiled(traced: jax.stages.Traced, mesh: Mesh, flops: int) -> dict[str, Any]:
  """Compiles a program whose matrix products have so many FLOPs on all devices."""
  device = mesh.devices.flat[0]
  on_gpu = device.platform == "gpu"
  began = time.monotonic()
  lowered = traced.lower()
  compiling = time.monotonic()
  compiled = lowered.compile(compiler_options=gpus.OPTIONS if on_gpu else None)
  ended = time.monotonic()
  memory: Any = compiled.memory_analysis()
  text = compiled.as_text() or ""
  sent = collectives.executed(text)
  cost: Any = compiled.cost_analysis() or {}
  bytes_per_device = {
    "arguments": memory.argument_size_in_bytes,
    "outputs": memory.output_size_in_bytes,
    "aliased": memory.alias_size_in_bytes,
    "temporaries": memory.temp_size_in_bytes,
    "code": memory.generated_code_size_in_bytes,
  }
  total = sum(bytes_per_device.values()) - 2 * memory.alias_size_in_bytes
  found = {
    "lower_seconds": round(compiling - began, 1),
    "compile_seconds": round(ended - compiling, 1),
    "bytes_per_device": bytes_per_device | {"total": total},
    "xla_flops_per_device": cost.get("flops"),
    "xla_bytes_accessed_per_device": cost.get("bytes accessed"),
    "collectives": collectives.by_kind(sent),
  }
  if on_gpu:
    started = kernels.executed(text)
    number, moved = kernels.total(started), kernels.total_bytes(started)
    found["kernels"] = {"total": number, "by_kind": kernels.by_kind(started)}
    found["bytes_moved_per_device"] = moved
    where = device, flops / mesh.size, moved, collectives.total_bytes(sent), number
    found["roofline"] = gpus.roofline(*where)
  return found


def _placed(tree: Any, sharding: NamedSharding) -> Any:
  """Returns the arrays of a tree as shapes and dtypes, all with this sharding."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
  )


def _version(*names: str) -> str | None:
  for name in names:
    try:
      return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      continue
  return None
