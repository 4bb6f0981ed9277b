"""Tries whether anything held out, or any number of a file, reaches the ids.

And says of the log whether its order means anything (data/sequential.py).

python -m lightlm_jax.audit --config=configs/toys.py

Builds the ids six times, reading none that were kept, and trains nothing. Exit code 1
if something was found.

python -m lightlm_jax.audit --workdir=runs/toys

audits the ids of a run and writes audit.json beside its results, for `report`. Where
the run's ids are not those that its configuration builds today, an audit of these would
say nothing of the run: it is refused, and nothing is written.
"""

import sys

from etils import epath
import ml_collections

from lightlm_jax import command_line
from lightlm_jax.runs.audit import audit, audit_run
from lightlm_jax.storage import workdir as workdir_lib

_CONFIG = command_line.define_config()

_WORKDIR = command_line.define_workdir("a run that `train` left, in place of --config")

_REPORT = command_line.define_report()


def main(argv) -> int:
  del argv
  if _WORKDIR.value is None:
    found = audit(ml_collections.FrozenConfigDict(_CONFIG.value))
  else:
    found = audit_run(_WORKDIR.value)
  if _REPORT.value:
    workdir_lib.write_json(epath.Path(_REPORT.value), found)
  return 0 if found["passed"] else 1


if __name__ == "__main__":
  sys.exit(command_line.main(main, instead="workdir"))
