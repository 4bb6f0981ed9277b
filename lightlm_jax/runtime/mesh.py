"""The device mesh `data` × `model`, and the sharding rules of parameters.

`model` shards attention heads and the rows of embedding tables. `data` shards batches.
If wanted, `data` also shards the optimiser's moments (twice the bytes of the weights),
as the first stage of ZeRO does (Rajbhandari et al. 2020).
"""

from collections.abc import Sequence
import functools
import logging
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lightlm_jax.runtime.errors import UserError

logger = logging.getLogger(__name__)

# Sharding rules (regex of parameter path, mesh axis of each dimension). The first one
# that matches path and number of dimensions applies. Parameters that match none, and
# dimensions that the mesh axis does not divide, are replicated.
RULES = (
  (r"(^|/)(embedding|output|user|item)$", ("model", None)),
  (r"(query|key|value|cross_query|cross_key|cross_value)/", (None, None, "model")),
  (r"(output|self_output|cross_output|out)/", (None, "model", None)),
  (r"(query|key|value|gate|inner)/kernel$", (None, "model")),
  (r"(output|outer)/kernel$", ("model", None)),
)
# Parameters that are replicated on purpose: norm scales, biases and position tables are
# small, and LightLM's feed-forward layers are so narrow that an all-reduce in each
# would cost more than sharding saves.
REPLICATED = (
  r"/scale$",
  r"(^|[/_])bias(/table)?$",
  r"(^|/)(position|word_embedding)$",
  r"coder/feed_forward/(inner|outer)/kernel$",
)
# Number of elements above which an accidentally replicated parameter gets a warning.
LARGE = 2**20


def make(data: int, model: int, devices: Sequence[Any] | None = None) -> Mesh:
  """Builds a mesh of `data` × `model` devices.

  Args:
    data: number of shards of a batch; -1 = as many as the devices allow.
    model: number of shards of the weights.
    devices: the devices to choose from; None = all that jax sees.

  Raises:
    UserError: there are too few devices, or the TPU's network has no such rectangle.
  """
  devices = jax.devices() if devices is None else devices
  available = len(devices)
  if data == -1:
    data = available // model
  if data < 1 or model < 1 or data * model > available:
    raise UserError(
      f"mesh.data {data} × mesh.model {model} does not fit {available} devices; "
      "choose two numbers whose product they hold"
    )
  chosen, axis_types = list(devices[: data * model]), (AxisType.Auto,) * 2
  shape, names = (data, model), ("data", "model")
  try:
    return jax.make_mesh(shape, names, axis_types=axis_types, devices=chosen)
  except AssertionError:  # jax lays the mesh out on the TPUs' network
    advice = "choose sides that divide the slice's"
    if any(device.core_on_chip for device in devices):
      advice = "it wants one device a chip, as other kinds have"
    raise UserError(
      f"jax finds no place for mesh.data {data} × mesh.model {model} on {available} × "
      f"{devices[0].device_kind}; {advice}"
    )


def shardings(tree, mesh: Mesh, *, over_data: bool = False, warn: bool = True):
  """Returns the sharding of each leaf of a (possibly abstract) pytree of parameters.

  The same rules apply to the optimiser's moments, whose paths end in the paths of their
  parameters.

  Args:
    tree: parameters or the optimiser's state.
    mesh: a mesh with the axes "data" and "model".
    over_data: also shard each leaf over `data`, along its longest dimension that `data`
      divides and that is not sharded over `model`.
    warn: warn of leaves of >= LARGE elements that match neither RULES nor REPLICATED.
  """

  def place(path, leaf) -> NamedSharding:
    name = path_name(path)
    rule = rule_of(name, leaf.ndim)
    if warn and rule is None and leaf.size >= LARGE and not is_replicated(name):
      _warn_replicated(name, leaf.shape)
    axes = [
      axis if axis and size % mesh.shape[axis] == 0 else None
      for axis, size in zip(rule or (None,) * leaf.ndim, leaf.shape)
    ]
    if over_data:
      free = [
        (size, -n)
        for n, (axis, size) in enumerate(zip(axes, leaf.shape))
        if axis is None and size % mesh.shape["data"] == 0
      ]
      if free:
        axes[-max(free)[1]] = "data"
    while axes and axes[-1] is None:
      axes.pop()
    return NamedSharding(mesh, PartitionSpec(*axes))

  return jax.tree_util.tree_map_with_path(place, tree)


def path_name(path) -> str:
  """Returns a pytree leaf's key path as text, such as "encoder/query/kernel"."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def rule_of(name: str, ndim: int) -> tuple[str | None, ...] | None:
  """Returns the mesh axis of each dimension of a parameter; None if no rule fits it."""
  for pattern, axes in RULES:
    if re.search(pattern, name) and len(axes) == ndim:
      return axes
  return None


def is_replicated(name: str) -> bool:
  """Returns True if the parameter with the path `name` is replicated on purpose."""
  return any(re.search(pattern, name) for pattern in REPLICATED)


@functools.cache
def _warn_replicated(name: str, shape: tuple[int, ...]) -> None:
  """Warns, once per parameter, that no rule shards it and each device holds a copy."""
  logger.warning(
    f"no sharding rule for {name} of shape {list(shape)}: every device holds a copy; "
    "add its path to RULES or REPLICATED in lightlm_jax/runtime/mesh.py"
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Returns the sharding that puts a whole copy of an array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Copies a pytree of arrays from the host or one device to the devices of `sharding`.

  All processes must hold the same arrays. Each one copies to its own devices only.
  """

  def place(x) -> jax.Array:
    parts = [
      jax.device_put(x[index], device)
      for device, index in sharding.addressable_devices_indices_map(x.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

  return jax.tree.map(place, tree)


def by_rows(mesh: Mesh) -> NamedSharding:
  """Returns the sharding of arrays whose rows are divided over the axis `data`."""
  return NamedSharding(mesh, PartitionSpec("data"))
