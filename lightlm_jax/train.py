"""Trains one system on one log and evaluates it.

python -m lightlm_jax.train --config=configs/toys.py:small --workdir=runs/toys

A run that stopped is resumed by the same command, from its latest checkpoint.
"""

import json
import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.runs.describe import describe, describe_elsewhere
from lightlm_jax.runs.train import train
from lightlm_jax.runtime import devices

command_line.define_config()
command_line.define(
  *("platform", "distributed"),
  workdir="where the run writes and resumes; default runs/<data>-<preset>",
)
flags.DEFINE_bool(
  "dry_run", False, "print sizes and FLOPs as one JSON object, and train nothing"
)
flags.DEFINE_string(
  "topology",
  None,
  "with --dry_run: TPUs or GPUs to compile for without them: v5e:16x16, h100:8",
)


def main(_) -> None:
  config = command_line.config()
  if FLAGS.topology is not None:
    report = describe_elsewhere(
      config,
      FLAGS.topology,
      dry_run=FLAGS.dry_run,
      platform=FLAGS.platform,
      chosen=command_line.config_overrides(),
    )
    print(json.dumps(report, indent=2))
    return
  devices.begin(FLAGS.platform, FLAGS.distributed)
  if FLAGS.dry_run:
    print(json.dumps(describe(config), indent=2))
  else:
    train(config, FLAGS.workdir)


if __name__ == "__main__":
  sys.exit(command_line.main(main))
