"""Devices as a mesh of `data` × `model`, and the axes along which arrays are cut.

`model` divides heads and the rows of embedding tables; `data` divides batches, and if
wanted what the optimiser keeps of each weight (its moments, twice the weights' bytes),
as ZeRO's first stage does (Rajbhandari et al. 2020).
"""

from collections.abc import Sequence
import re
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from lightlm_jax.runtime.errors import UserError

# Parameter path → axes. The first rule that matches counts; what none matches, and
# what an axis does not divide, is copied to every device.
RULES = (
  (r"(^|/)(embedding|output)$", ("model", None)),
  (r"(query|key|value|cross_query|cross_key|cross_value)/", (None, None, "model")),
  (r"(output|self_output|cross_output)/", (None, "model", None)),
  (r"(query|key|value|gate|inner)/kernel$", (None, "model")),
  (r"(output|outer)/kernel$", ("model", None)),
)


def make(data: int, model: int, devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of devices; `data = -1` takes all that `model` leaves.

  Args:
    data: devices that share a batch.
    model: devices that share the weights.
    devices: to choose from; None = those that jax sees.

  Raises:
    UserError: there are not as many devices as asked for, or the chips' network has no
      such rectangle.
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
  axis_types = (AxisType.Auto, AxisType.Auto)
  try:
    return jax.make_mesh(
      (data, model),
      ("data", "model"),
      axis_types=axis_types,
      devices=list(devices[: data * model]),
    )
  except AssertionError:  # of TPUs, which jax places by their network
    two_cores = any(device.core_on_chip for device in devices)
    advice = (
      "it wants one device a chip, as other kinds have"
      if two_cores
      else "choose sides that divide the slice's"
    )
    raise UserError(
      f"jax finds no place for mesh.data {data} × mesh.model {model} on {available} × "
      f"{devices[0].device_kind}; {advice}"
    )


def shardings(tree, mesh: Mesh, *, over_data: bool = False):
  """The sharding of each leaf of a (possibly abstract) pytree of parameters.

  The optimiser's moments have their parameters' names in their paths, and follow them.

  Args:
    over_data: also cut each leaf over `data`, along its longest axis that this divides
      and no rule has cut.
  """

  def place(path, leaf) -> NamedSharding:
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    axes = [None] * leaf.ndim
    for pattern, wanted in RULES:
      if re.search(pattern, name) and len(wanted) == leaf.ndim:
        axes = [
          axis if axis and size % mesh.shape[axis] == 0 else None
          for axis, size in zip(wanted, leaf.shape)
        ]
        break
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


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, PartitionSpec())


def put(tree: Any, sharding: NamedSharding) -> Any:
  """Host arrays (or those of one device) on the devices of a mesh.

  Of several processes, all of which hold the same arrays, each hands over its own
  devices' part.
  """

  def place(x) -> jax.Array:
    parts = [
      jax.device_put(x[index], device)
      for device, index in sharding.addressable_devices_indices_map(x.shape).items()
    ]
    return jax.make_array_from_single_device_arrays(x.shape, sharding, parts)

  return jax.tree.map(place, tree)


def by_rows(mesh: Mesh) -> NamedSharding:
  """Rows of a batch divided over `data`."""
  return NamedSharding(mesh, PartitionSpec("data"))
