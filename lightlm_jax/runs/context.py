"""Defines RunContext and Run: a run's configuration, data, devices, folder, system."""

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

from etils import epath
import jax

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig, WritesIds
from lightlm_jax.data.interactions import Dataset
from lightlm_jax.data.splits import Split
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runtime import cache, log
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import Built

if TYPE_CHECKING:  # slow to import, and not needed by `index`
  from lightlm_jax.training.loop import Progress

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class RunContext:
  """A run before its system is built."""

  config: RunConfig  # its decoding may differ from that of the training run
  dataset: Dataset  # the log, the items' texts and attributes
  split: Split  # of the log, by `config.split`
  mesh: jax.sharding.Mesh
  workdir: epath.Path


@dataclasses.dataclass(frozen=True)
class Run(RunContext):
  """A run whose system is trained or fitted."""

  book: CodeBook | None  # the ids; None if the system writes none
  built: Built  # the system, its tables on the mesh
  params: Any  # of the best validation, on the mesh
  progress: "Progress | None"  # of the training; None if the system is fitted
  step: int | None  # of the parameters; None if the system is fitted
  calibration_sha256: str | None = None  # None = the parameters are as trained
  parameters_sha256: str | None = None  # of the checkpoint; None = of an older version
  members: tuple["Run", ...] = ()  # of an ensemble


def check_writes_ids(config: RunConfig) -> WritesIds:
  """Returns `config` after checking that its ids can be built; sets up logging.

  Raises:
    UserError: its system writes no ids, or a value is invalid.
  """
  if not isinstance(config, WritesIds):
    raise UserError(
      f"config.system {config.system} writes no ids; give a config of lightlm, such as "
      "--config=toys"
    )
  config_lib.check(config)
  log.set_up()
  return config


def build_ids(config: WritesIds, dataset: Dataset, split: Split) -> CodeBook:
  """Returns the ids of a run, built or read from the cache."""
  root = cache.cache_root() / "codes"
  book = ids_build.book_of_run(
    config.ids, split.train, dataset.attributes, config.seed, root
  )
  if config.ids.kind in ids_build.WARNINGS:
    logger.warning(ids_build.WARNINGS[config.ids.kind])
  return book
