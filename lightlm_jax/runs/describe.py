"""Describes sizes and FLOPs of a run without training it: `train --dry_run`."""

from collections.abc import Collection
import logging
from typing import Any, cast

import jax

from lightlm_jax import config as config_lib
from lightlm_jax.config import (
  EnsembleConfig,
  LearnedConfig,
  ReadsTexts,
  RunConfig,
  WritesIds,
)
from lightlm_jax.data import datasets, splits
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.runs import context
from lightlm_jax.runtime import devices, log
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import registry
from lightlm_jax.systems.base import Built, Trainable
from lightlm_jax.training import loop, speed
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import topology as topology_lib

logger = logging.getLogger(__name__)


def describe(
  config: RunConfig, topology: str | None = None, chosen: Collection[str] = ()
) -> dict[str, Any]:
  """Returns the parameters, bytes and FLOPs per step of a run, without training it.

  `bytes` are those of one copy of parameters, optimiser state, training data and trie,
  without sharding. `flops_per_step` counts the matrix products of loss and gradient (a
  multiply-add is two FLOPs), averaged over the batches of an epoch; dropout and the
  optimiser are left out. Of systems without steps, only `mesh` and `bytes` are known.

  Args:
    config: the run's configuration.
    topology: TPUs or GPUs to compile for, such as "v5e:16x16"; None = none.
    chosen: dotted fields that the user set. With a topology, batch sizes that the user
      did not set are rounded up so that they divide evenly over the slice's devices.
  """
  log.set_up(stderr=True)  # stdout is left to the report
  config_lib.check(config)
  chips = None if topology is None else topology_lib.devices(topology)
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model, chips)
  if topology is not None:
    config = topology_lib.with_batches(config, mesh.shape["data"], chosen)
  config_lib.check_batches(config, mesh.shape["data"])
  if isinstance(config, EnsembleConfig):
    raise UserError(
      "an ensemble is not trained; see the --dry_run of its members' configs"
    )
  dataset = datasets.load(config)
  split = splits.of_run(config, dataset.log)
  book = tokens = None
  if isinstance(config, WritesIds):
    book = context.build_ids(config, dataset, split)
  if isinstance(config, ReadsTexts):
    _, tokens = texts_lib.of_run(config, dataset.texts, dataset.attributes)
  built = registry.build(config.system, config, split.train, book, tokens)
  report = _sizes(built, split, config, mesh)
  if topology is not None:
    learned = cast(LearnedConfig, config)
    report["topology"] = topology_lib.describe(built, split, learned, mesh, topology)
  return report


def describe_elsewhere(
  config: RunConfig,
  topology: str,
  *,
  dry_run: bool,
  platform: str | None = None,
  chosen: Collection[str] = (),
) -> dict[str, Any]:
  """Compiles a run for TPUs or GPUs on the CPU; returns the report of `describe`.

  `dry_run` and `platform` are the flags --dry_run and --platform of `train`.

  Raises:
    UserError: `dry_run` is false, or `platform` is neither None nor "cpu".
  """
  if not dry_run:
    raise UserError(
      f"--topology={topology} compiles for chips that are not here; it goes with "
      "--dry_run"
    )
  if platform not in (None, "cpu"):
    raise UserError(f"--topology compiles on the CPU: leave out --platform={platform}")
  devices.select("cpu")
  # Programs compiled for absent chips cannot be loaded from the cache.
  jax.config.update("jax_enable_compilation_cache", False)
  report = describe(config, topology, chosen)
  for name, compiled in report["topology"]["batches"].items():
    own = getattr(config.train, name)
    if compiled != own:
      logger.warning(
        f"config.train.{name} {own} does not divide over the "
        f"{report['mesh']['data']} devices of mesh.data; compiled with {compiled}"
      )
  return report


def _sizes(built: Built, split: splits.Split, config: RunConfig, mesh) -> dict:
  report: dict[str, Any]
  sizes: dict[str, Any] = dict.fromkeys(("parameters", "optimiser", "data", "trie"))
  report = dict.fromkeys(("parameters", "steps", "batch", "mesh", "bytes"))
  report |= {"mesh": dict(mesh.shape), "bytes": sizes, "flops_per_step": None}
  if (trie := getattr(built.tables, "trie", None)) is not None:
    sizes["trie"] = _bytes(trie)
  if isinstance(built.system, Trainable):
    assert isinstance(config, LearnedConfig)
    state = state_lib.abstract(built.system.init, state_lib.optimiser(config), mesh)
    feed, plan = loop.make_feed(built, split.train, config)
    trees = {"parameters": state.params, "optimiser": state.opt_state, "data": feed}
    sizes |= {name: _bytes(tree) for name, tree in trees.items()}
    report |= {
      "parameters": state_lib.count_parameters(state.params),
      "steps": config.train.steps,
      "batch": config.train.batch_size,
      "flops_per_step": speed.flops_per_step(built, state.params, feed, plan),
    }
  return report


def _bytes(tree: Any) -> int:
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
