"""Exports a trained run as a folder that serves without this package.

python -m lightlm_jax.export --workdir=runs/toys --output=toys-artefact --k=20

The folder holds the program (StableHLO, for the platforms given), the weights
(safetensors), the ids, a manifest with SHA-256, and a README with the program's inputs
and outputs and a loader to copy. Needs the package's extra `export`.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.inference import artefact
from lightlm_jax.runs.export import export
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError

command_line.define(
  *("k", *command_line.DECODING, "data_dir", "strict", "platform"),
  workdir="a run that `train` left",
  output="the folder to make",
)
flags.DEFINE_integer(
  "exclusions", 128, "the most items that a request may exclude", lower_bound=1
)
flags.DEFINE_integer(
  "longest", 50, "items of a history that a system reads that reads all", lower_bound=1
)
flags.DEFINE_list(
  "platforms", ["cpu", "cuda", "tpu"], f"of {', '.join(artefact.PLATFORMS)}"
)


def main(_) -> None:
  workdir = command_line.workdir()
  if FLAGS.output is None:
    raise UserError("no place for the output; give --output=FOLDER")
  devices.select(FLAGS.platform)
  devices.check(FLAGS.platform)
  names = ("k", "exclusions", "longest", "platforms", "strict")
  options = {name: getattr(FLAGS, name) for name in names}
  export(workdir, FLAGS.output, overrides=command_line.overrides(), **options)


if __name__ == "__main__":
  sys.exit(command_line.main(main))
