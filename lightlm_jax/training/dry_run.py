"""What a run would take, found without taking a step: sizes and arithmetic."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh
import ml_collections
import numpy as np

from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.splits import Split
from lightlm_jax.systems.base import System
from lightlm_jax.training import loop
from lightlm_jax.training import state as state_lib


def describe(
  system: System, split: Split, config: ml_collections.ConfigDict, mesh: Mesh
) -> dict[str, Any]:
  """Parameters, bytes and FLOPs a step; null for systems that are fitted.

  Bytes are of one whole copy, whatever the mesh does with it.

  `flops_per_step` counts the matrix products of the loss and its gradient, a
  multiplication and an addition as two, dropout's cost and the optimiser's left out;
  the mean over the batches of an epoch.
  """
  report = {
    "parameters": None,
    "steps": None,
    "batch": None,
    "mesh": dict(mesh.shape),
    "bytes": {
      "parameters": None,
      "optimiser": None,
      "data": None,
      "trie": _bytes(getattr(system.tables, "trie", None)),
    },
    "flops_per_step": None,
  }
  if system.loss is None:
    return report
  tx = state_lib.optimiser(config)
  state = state_lib.abstract(system.init, tx, mesh)
  feed, plan = loop.make_feed(system, split.train, config)
  report["parameters"] = state_lib.count_parameters(state.params)
  report["steps"] = config.train.steps
  report["batch"] = config.train.batch_size
  report["bytes"] |= {
    "parameters": _bytes(state.params),
    "optimiser": _bytes(state.opt_state),
    "data": _bytes(feed),
  }
  report["flops_per_step"] = _flops_per_step(system, state.params, feed, plan)
  return report


def matmul_flops(jaxpr: Any) -> int:
  """FLOPs of a (closed) jaxpr's matrix products, loops of known length unrolled."""
  total = 0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    if equation.primitive.name == "dot_general":
      (contracted, _), _ = equation.params["dimension_numbers"]
      left = equation.invars[0].aval.shape
      inner = 1
      for axis in contracted:
        inner *= left[axis]
      total += 2 * equation.outvars[0].aval.size * inner
      continue
    times = equation.params.get("length", 1)  # of a scan
    for value in jax.tree.leaves(equation.params, is_leaf=_is_jaxpr):
      if _is_jaxpr(value):
        total += times * matmul_flops(value)
  return total


def _is_jaxpr(value: Any) -> bool:
  return hasattr(value, "eqns") or hasattr(value, "jaxpr")


def _flops_per_step(system: System, params, feed, plan: feed_lib.Plan) -> int:
  total = 0
  for bucket, batches in enumerate(plan.batches):
    gather = functools.partial(feed_lib.gather, plan=plan, bucket=bucket)
    batch = jax.eval_shape(gather, feed, np.uint32(0), np.uint32(0))
    gradient = jax.grad(system.loss, has_aux=True)
    rng = jax.eval_shape(lambda: jax.random.key(0))
    traced = jax.make_jaxpr(gradient)(params, system.tables, batch, rng)
    total += batches * matmul_flops(traced)
  return round(total / plan.steps_per_epoch)


def _bytes(tree: Any) -> int | None:
  if tree is None:
    return None
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
