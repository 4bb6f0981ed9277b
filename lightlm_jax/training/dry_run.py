"""Sizes and FLOPs of a run, computed without a training step."""

from typing import Any

import jax
from jax.sharding import Mesh

from lightlm_jax.config import LearnedConfig, RunConfig
from lightlm_jax.data.splits import Split
from lightlm_jax.systems.base import Built, Trainable
from lightlm_jax.training import loop, speed
from lightlm_jax.training import state as state_lib


def describe(
  built: Built, split: Split, config: RunConfig, mesh: Mesh
) -> dict[str, Any]:
  """Returns parameters, bytes and FLOPs a step; null for fitted systems.

  Bytes are those of one copy, without sharding. `flops_per_step` counts the matrix
  products of loss and gradient (a multiply-add is two FLOPs), averaged over the batches
  of an epoch; dropout and the optimiser are left out.
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
      "trie": _bytes(getattr(built.tables, "trie", None)),
    },
    "flops_per_step": None,
  }
  system = built.system
  if not isinstance(system, Trainable):
    return report
  assert isinstance(config, LearnedConfig)
  tx = state_lib.optimiser(config)
  state = state_lib.abstract(system.init, tx, mesh)
  feed, plan = loop.make_feed(built, split.train, config)
  report["parameters"] = state_lib.count_parameters(state.params)
  report["steps"] = config.train.steps
  report["batch"] = config.train.batch_size
  report["bytes"] |= {
    "parameters": _bytes(state.params),
    "optimiser": _bytes(state.opt_state),
    "data": _bytes(feed),
  }
  report["flops_per_step"] = speed.flops_per_step(built, state.params, feed, plan)
  return report


def _bytes(tree: Any) -> int | None:
  if tree is None:
    return None
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
