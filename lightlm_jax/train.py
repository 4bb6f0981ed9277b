"""Trains one system on one log and evaluates it.

python -m lightlm_jax.train --config=configs/toys.py:small --workdir=runs/toys

A run that stopped is resumed by the same command, from its latest checkpoint.
"""

import json
import sys

from absl import flags
import jax

from lightlm_jax import command_line
from lightlm_jax.runs.describe import describe, describe_elsewhere
from lightlm_jax.runs.train import train
from lightlm_jax.runtime import devices

command_line.define_config()
_WORKDIR = command_line.define_workdir(
  "where the run writes and resumes; default runs/<data>-<preset>"
)
_PLATFORM = command_line.define_platform()
_DISTRIBUTED = command_line.define_distributed()
_DRY_RUN = flags.DEFINE_bool(
  "dry_run", False, "print sizes and FLOPs as one JSON object, and train nothing"
)
_TOPOLOGY = flags.DEFINE_string(
  "topology",
  None,
  "with --dry_run: a slice of TPUs, such as v5e:16x16, to compile for without one",
)


def main(argv) -> None:
  del argv
  config = command_line.config()
  if _TOPOLOGY.value is not None:
    report = describe_elsewhere(
      config,
      _TOPOLOGY.value,
      dry_run=_DRY_RUN.value,
      platform=_PLATFORM.value,
      chosen=command_line.config_overrides(),
    )
    print(json.dumps(report, indent=2))
    return
  devices.begin(_PLATFORM.value, _DISTRIBUTED.value)
  if _DRY_RUN.value:
    print(json.dumps(describe(config), indent=2))
  else:
    train(config, _WORKDIR.value)


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main))
