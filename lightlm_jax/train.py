"""Trains one system on one log and judges it.

python -m lightlm_jax.train --config=configs/toys.py:small --workdir=runs/toys

Where a run starts: the workdir's latest checkpoint, otherwise from scratch.
"""

import json
import sys

from absl import flags
import jax
import ml_collections
from ml_collections import config_flags

from lightlm_jax import command_line
from lightlm_jax.runs.train import describe, train
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError

_CONFIG = command_line.define_config()

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
  config = _CONFIG.value
  if _TOPOLOGY.value is not None:
    _dry_run_elsewhere(ml_collections.FrozenConfigDict(config), _TOPOLOGY.value)
    return
  devices.begin(_PLATFORM.value, _DISTRIBUTED.value)
  system = "" if config.system == "lightlm" else f"-{config.system}"
  default = f"runs/{config.data.name}{system}-{config.preset}"
  config = ml_collections.FrozenConfigDict(config)
  if _DRY_RUN.value:
    print(json.dumps(describe(config), indent=2))
  else:
    train(config, _WORKDIR.value or default)


def _dry_run_elsewhere(config, topology: str) -> None:
  """Prints what `describe` finds for a slice of TPUs, whatever this machine has."""
  if not _DRY_RUN.value:
    raise UserError(
      f"--topology={topology} compiles for chips that are not here; it goes with "
      "--dry_run"
    )
  if _PLATFORM.value not in (None, "cpu"):
    raise UserError(
      f"--topology compiles on the CPU: leave out --platform={_PLATFORM.value}"
    )
  devices.select("cpu")
  # What is compiled for chips that are not here cannot be read from the cache again.
  jax.config.update("jax_enable_compilation_cache", False)
  chosen = config_flags.get_override_values(flags.FLAGS["config"])
  report = describe(config, topology, chosen)
  for name, compiled in report["topology"]["batches"].items():
    if compiled != config.train[name]:
      print(
        f"warning: config.train.{name} {config.train[name]} does not divide over the "
        f"{report['mesh']['data']} devices of mesh.data; compiled with {compiled}",
        file=sys.stderr,
      )
  print(json.dumps(report, indent=2))


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main))
