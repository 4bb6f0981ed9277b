"""Exports a trained run as a folder that serves without this package.

python -m lightlm_jax.export --workdir=runs/toys --output=toys-artefact --k=20

The folder holds the program (StableHLO, for the platforms that are named), the weights
(safetensors), the ids, a manifest with SHA-256, and a README with the calling contract
and a loader to copy. Needs the extra `export`.
"""

import sys

from absl import flags
import jax

from lightlm_jax import command_line
from lightlm_jax.inference import artefact
from lightlm_jax.runs.export import export
from lightlm_jax.runtime import devices

command_line.define_workdir("a run that `train` left")
_OUTPUT = command_line.define_output("the folder to make")
_K = command_line.define_k()
_EXCLUSIONS = flags.DEFINE_integer(
  "exclusions", 128, "the most items that a request may exclude", lower_bound=1
)
_LONGEST = flags.DEFINE_integer(
  "longest", 50, "items of a history that a system reads that reads all", lower_bound=1
)
_PLATFORMS = flags.DEFINE_list(
  "platforms", ["cpu", "cuda", "tpu"], f"of {', '.join(artefact.PLATFORMS)}"
)
_DECODING = command_line.define_decoding()
_DATA_DIR = command_line.define_data_dir()
_PLATFORM = command_line.define_platform()


def main(argv) -> None:
  del argv
  workdir, output = command_line.workdir(), command_line.output("FOLDER")
  devices.select(_PLATFORM.value)
  devices.check(_PLATFORM.value)
  export(
    workdir,
    output,
    k=_K.value,
    exclusions=_EXCLUSIONS.value,
    longest=_LONGEST.value,
    platforms=_PLATFORMS.value,
    overrides=command_line.overrides({"data.dir": _DATA_DIR, **_DECODING}),
  )


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main))
