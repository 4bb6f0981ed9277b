"""Finds the log of an ensemble's members, and copies the members to its workdir."""

import dataclasses
import logging

from etils import epath

from lightlm_jax.config import EnsembleConfig, RunConfig
from lightlm_jax.data import parquet_logs
from lightlm_jax.data.interactions import Dataset
from lightlm_jax.runs import restore
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)


def find_log(config: EnsembleConfig) -> tuple[EnsembleConfig, Dataset, str | None]:
  """Returns the configuration with the first member's data and split, and its log.

  The third value is the log's SHA-256, see `datasets.source`; None = unknown.

  Raises:
    UserError: fewer than two members are named, or the first is no finished run.
  """
  if len(config.runs) < 2:
    raise UserError(
      "an ensemble has two members or more; give --config.members=RUN,RUN, the "
      "workdirs of finished runs on the same log"
    )
  path, own, _ = _finished(config.runs[0])
  config = dataclasses.replace(config, data=own.data, split=own.split)
  source = parquet_logs.snapshot_source(path / restore.LOG)
  return config, restore.dataset_of(path, own), source


def copy(config: EnsembleConfig, workdir: epath.Path, split_sha256: str) -> None:
  """Copies the members to the workdir of their ensemble, unless they are there.

  Raises:
    UserError: a member is no finished run, or has another split.
  """
  with processes.fail_together("copy the members"):
    copies = restore.member_folders(config, workdir)
    for given, to in zip(config.runs, copies, strict=True):
      if not processes.is_first() or to.exists():
        continue
      path, own, sha256 = _finished(given)
      if sha256 != split_sha256:
        raise UserError(
          f"{path} has another log or split than {config.runs[0]}; members of an "
          "ensemble learn from the same interactions"
        )
      logger.info(f"member {to.name}: {own.system} of {path}")
      workdir_lib.copy(path, to)


def _finished(workdir: str) -> tuple[epath.Path, RunConfig, str]:
  """Returns a finished run's folder, its configuration and the SHA-256 of its split."""
  path, config = workdir_lib.read(workdir)
  results = results_lib.read_finished(path)
  if results is None:
    raise UserError(f"{path} is not finished yet; let `train` come to its end")
  return path, config, results["split_sha256"]
