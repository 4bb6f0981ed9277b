"""Runs a scaling study: many trials of one configuration, side by side.

python -m lightlm_jax.sweep --config=configs/scaling.py --workdir=runs/scaling

What is varied stands in the config; --vary=FIELD=VALUE,VALUE adds an axis or gives one
other values. A run's own config is varied likewise:

python -m lightlm_jax.sweep --config=configs/toys.py:small --vary=model.d_ff=8,64,512 \
  --workdir=runs/d_ff

The same command again goes on where the study stands; on a disk that they share several
may go at once. Without such a disk --storage names a database that all of them reach.
At its end a study says what it found: `report --workdir=STUDY` says it again.
Exit code 1 if a trial has failed.
"""

import importlib.util
import pathlib
import sys

from absl import flags
from etils import epath
import jax
from ml_collections import config_flags

from lightlm_jax import command_line
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib

_CONFIG = command_line.define_config(studies=True)
_WORKDIR = command_line.define_workdir("the study's folder")
_PLATFORM = command_line.define_platform()
_REPORT = command_line.define_report()
_VARY = flags.DEFINE_multi_string(
  "vary", [], "FIELD=VALUE,VALUE, such as model.d_ff=8,64; FIELD= leaves an axis out"
)
_JOBS = flags.DEFINE_integer(
  "jobs",
  None,
  "trials at once; default: one a GPU, on a CPU one a core",
  lower_bound=1,
)
_STORAGE = flags.DEFINE_string(
  "storage",
  None,
  "of hosts without a common disk, whose --workdir ends in the same name: a database, "
  "postgresql://…, or grpc://host:port",
)
_RETRY_FAILED = flags.DEFINE_bool(
  "retry_failed", False, "run those again that have failed before"
)


def main(argv) -> int:
  del argv
  if _WORKDIR.value is None:
    raise UserError("no folder for the study; give --workdir=STUDY")
  if importlib.util.find_spec("optuna") is None:
    raise UserError(
      "there is no optuna; install with pip install -c constraints.txt -e '.[sweep]'"
    )
  # Of the extra `sweep`.
  from lightlm_jax.studies import analysis, claims, study  # noqa: PLC0415
  from lightlm_jax.studies import plan as plan_lib  # noqa: PLC0415, likewise

  # Devices are for the trials.
  jax.config.update("jax_platforms", "cpu")
  flag = flags.FLAGS["config"]
  if flag.parser.is_study:
    plan = plan_lib.of_study(_CONFIG.value, _VARY.value)
  else:
    overrides = config_flags.get_override_values(flag)
    plan = plan_lib.of_run(flag.parser.argument, overrides, _VARY.value)
  report = study.sweep(
    plan,
    _WORKDIR.value,
    storage=_STORAGE.value,
    jobs=_JOBS.value,
    platform=_PLATFORM.value,
    retry_failed=_RETRY_FAILED.value,
  )
  if _REPORT.value:
    workdir_lib.write_json(epath.Path(_REPORT.value), report)
  if report["finished"]:
    with claims.alone(pathlib.Path(_WORKDIR.value)):  # others end at the same time
      analysis.report(_WORKDIR.value)
  return 1 if report["failed"] else 0


if __name__ == "__main__":
  sys.exit(command_line.main(main))
