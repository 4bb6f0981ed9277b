"""Exports a run that `train` left as a folder that serves without this package.

python -m lightlm_jax.export --workdir=runs/toys --output=toys-artefact --k=20

The folder holds the program (StableHLO, for the platforms that are named), the weights
(safetensors), the ids, a manifest with SHA-256, and a README with the calling contract
and a loader to copy. Wants the extra `export`.
"""

from collections.abc import Sequence
import functools
import sys
from typing import Any

from absl import flags
from etils import epath
import jax
import rich.console

from lightlm_jax import command_line, devices, trained
from lightlm_jax import workdir as workdir_lib
from lightlm_jax.errors import UserError
from lightlm_jax.serving import artefact, serve
from lightlm_jax.training import mesh as mesh_lib

command_line.define_workdir("a run that `train` left")
_OUTPUT = command_line.define_output("the folder to make")
_K = command_line.define_k()
_EXCLUSIONS = flags.DEFINE_integer(
  "exclusions", 128, "the most items that a request may exclude", lower_bound=1
)
_LONGEST = flags.DEFINE_integer(
  "longest",
  50,
  "items of a history that are read, of systems that read all of it",
  lower_bound=1,
)
_PLATFORMS = flags.DEFINE_list(
  "platforms", ["cpu", "cuda", "tpu"], f"of {', '.join(artefact.PLATFORMS)}"
)
_DECODING = command_line.define_decoding()
_DATA_DIR = command_line.define_data_dir()
_PLATFORM = command_line.define_platform()


def main(argv) -> None:
  del argv
  workdir = command_line.workdir()
  if _OUTPUT.value is None:
    raise UserError("no place for the artefact; give --output=FOLDER")
  devices.select(_PLATFORM.value)
  devices.check(_PLATFORM.value)
  export(
    workdir,
    _OUTPUT.value,
    k=_K.value,
    exclusions=_EXCLUSIONS.value,
    longest=_LONGEST.value,
    platforms=_PLATFORMS.value,
    overrides=command_line.overrides({"data.dir": _DATA_DIR, **_DECODING}),
  )


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
  served = serve.ready(run.system, run.params, mesh, 1)
  history = run.system.max_history
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


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main))
