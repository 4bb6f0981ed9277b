"""Sizes and FLOPs of a run, before it is trained: `train --dry_run`."""

from collections.abc import Collection
import logging
from typing import Any, cast

import jax

from lightlm_jax import config as config_lib
from lightlm_jax.config import LearnedConfig, ReadsTexts, RunConfig, WritesIds
from lightlm_jax.data import datasets, splits
from lightlm_jax.data import texts as texts_lib
from lightlm_jax.runs import context
from lightlm_jax.runtime import devices, log
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import registry
from lightlm_jax.training import dry_run
from lightlm_jax.training import topology as topology_lib

logger = logging.getLogger(__name__)


def describe(
  config: RunConfig, topology: str | None = None, chosen: Collection[str] = ()
) -> dict[str, Any]:
  """Returns sizes and FLOPs of a run (training/dry_run.py); trains nothing.

  Args:
    config: as for `train`.
    topology: a slice of TPUs to compile the programs for; see training/topology.py.
    chosen: of a topology, fields that were set by hand.
  """
  log.set_up(stderr=True)  # stdout is for the report
  config_lib.check(config)
  chips = None if topology is None else topology_lib.devices(topology)
  mesh = mesh_lib.make(config.mesh.data, config.mesh.model, chips)
  if topology is not None:
    config = topology_lib.with_batches(config, mesh.shape["data"], chosen)
  config_lib.check_batches(config, mesh.shape["data"])
  dataset = datasets.load(config)
  split = splits.of_run(config, dataset.log)
  book = tokens = None
  if isinstance(config, WritesIds):
    book = context.build_ids(config, dataset, split)
  if isinstance(config, ReadsTexts):
    _, tokens = texts_lib.of_run(config, dataset.texts, dataset.attributes)
  built = registry.build(config.system, config, split.train, book, tokens)
  report = dry_run.describe(built, split, config, mesh)
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
  """`describe` for a slice of TPUs that this machine does not have.

  Raises:
    UserError: not a dry run, or --platform is neither None nor "cpu".
  """
  if not dry_run:
    raise UserError(
      f"--topology={topology} compiles for chips that are not here; it goes with "
      "--dry_run"
    )
  if platform not in (None, "cpu"):
    raise UserError(f"--topology compiles on the CPU: leave out --platform={platform}")
  devices.select("cpu")
  # What is compiled for chips that are not here cannot be read from the cache again.
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
