"""Exports a trained run as an artefact that serves without this package."""

from collections.abc import Mapping, Sequence
import logging
from typing import Any

from etils import epath

from lightlm_jax.inference import artefact, serve
from lightlm_jax.runs import restore
from lightlm_jax.runtime import devices, log
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)


def export(
  workdir: epath.PathLike,
  output: epath.PathLike,
  *,
  k: int = 10,
  exclusions: int = 128,
  longest: int = 50,
  platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
  overrides: Mapping[str, Any] | None = None,
  strict: bool = False,
) -> dict[str, Any]:
  """Exports a run with its best parameters; returns the artefact's manifest.

  Args:
    workdir: the folder of a run, finished or not.
    output: the folder to write, which must not exist.
    k: the maximum number of items per answer; at most the catalogue's size is used.
    exclusions: the maximum number of excluded items per request.
    longest: the maximum number of history items per request, if the system sets none.
    platforms: the platforms to export for, out of artefact.PLATFORMS.
    overrides: values by dotted field that replace the run's own; None = none.
    strict: whether a damaged checkpoint is an error; see `restore.restore`.
  """
  artefact.check_installed()
  unknown = [name for name in platforms if name not in artefact.PLATFORMS]
  if unknown or not platforms:
    raise UserError(
      f"--platforms has {unknown[0] if unknown else 'nothing'!r}; choose from "
      f"{', '.join(artefact.PLATFORMS)}"
    )
  output = workdir_lib.absolute(output)
  if output.exists():
    raise UserError(f"{output} exists already; remove it, or give another --output")
  workdir, config, _ = restore.read_configs(workdir, overrides or {})
  atomic.make_folder(output.parent)
  atomic.check_folder(output.parent)
  log.set_up()
  logger.info(devices.describe())
  context = restore.find_context(workdir, config, mesh_lib.make(1, 1))
  what = "users and items of the run's own copy are exported"
  restore.warn_if_changed(workdir, config, what)
  run = restore.restore(context, strict=strict)
  served = serve.ready(run.built, run.params, run.mesh, 1)
  history = run.built.system.max_history
  exported = artefact.program(
    served,
    k=min(k, run.dataset.log.num_items),
    history=longest if history is None else history,
    exclusions=exclusions,
    platforms=platforms,
  )
  item_ids, user_ids = run.dataset.log.item_ids, run.dataset.log.user_ids
  about = restore.identity(run)
  manifest = artefact.write(output, exported, item_ids, user_ids, about)
  logger.info(
    f"{len(exported.serialized):,} bytes of program, "
    f"{sum(x.nbytes for x in exported.weights.values()):,} of weights, "
    f"{len(item_ids):,} items, {manifest['users']:,} users; for {', '.join(platforms)}"
  )
  logger.info(f"written to {output}; its README.md says how to call it")
  return manifest
