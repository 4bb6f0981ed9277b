"""Exports a trained run as an artefact that serves without this package."""

from collections.abc import Sequence
import functools
from typing import Any

from etils import epath
import rich.console

from lightlm_jax.inference import artefact, serve
from lightlm_jax.runs import restore as trained
from lightlm_jax.runtime import devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib


def export(
  workdir: epath.PathLike,
  output: epath.PathLike,
  *,
  k: int = 10,
  exclusions: int = 128,
  longest: int = 50,
  platforms: Sequence[str] = ("cpu", "cuda", "tpu"),
  overrides: dict | None = None,
) -> dict[str, Any]:
  """Writes the artefact of a run's best parameters, and returns its manifest.

  Args:
    workdir: of a run, finished or not.
    output: a folder that does not exist.
    k: the most items that a request gets; of the whole catalogue at most.
    exclusions: the most items that a request may exclude.
    longest: items of a history that are read, where the system has no limit itself.
    platforms: of artefact.PLATFORMS.
    overrides: values by dotted field in place of the run's own.

  Raises:
    UserError: in one line, what a person can mend.
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
  workdir, config, _ = trained.asked(workdir, overrides or {})
  console = rich.console.Console()
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  say(devices.describe())
  mesh = mesh_lib.make(1, 1)
  dataset, split = trained.log_of(workdir, config)
  run = trained.restore(workdir, config, dataset, split, mesh, say)
  served = serve.ready(run.built, run.params, mesh, 1)
  history = run.built.system.max_history
  exported = artefact.program(
    served,
    k=min(k, dataset.log.num_items),
    history=longest if history is None else history,
    exclusions=exclusions,
    platforms=platforms,
  )
  log = dataset.log
  about = trained.identity(run)
  manifest = artefact.write(output, exported, log.item_ids, log.user_ids, about)
  say(
    f"{len(exported.serialized):,} bytes of program, "
    f"{sum(x.nbytes for x in exported.weights.values()):,} of weights, "
    f"{log.num_items:,} items, {manifest['users']:,} users; for {', '.join(platforms)}"
  )
  say(f"written to {output}; its README.md says how to call it")
  return manifest
