"""Evaluates a trained run again: another decoding or split, without training.

python -m lightlm_jax.evaluate --workdir=runs/toys --decoding=exact
python -m lightlm_jax.evaluate --workdir=runs/toys --decoding=latent_local --nearest=50
python -m lightlm_jax.evaluate --workdir=runs/toys --compare runs/toys-sasrec runs/ease

Writes results-SPLIT-DECODING.json and users-SPLIT-DECODING.parquet into the workdir.
Choose a model by --split=validation, not by the test. With --beam_size below 20 the
metrics at 20 are those of the shorter list. --compare reads the tables of users that
the runs have left, and tests their differences for significance.
"""

import sys

import jax

from lightlm_jax import command_line
from lightlm_jax.runs.evaluate import compare, evaluate, parse_users
from lightlm_jax.runtime import devices

command_line.define_workdir("a run that `train` left")
_SPLIT = command_line.define_split()
_DECODING = command_line.define_decoding()
_USERS = command_line.define_users(
  "evaluate so many users, drawn by the run's seed; default: all"
)
_BATCH_SIZE = command_line.define_batch_size()
_DATA_DIR = command_line.define_data_dir()
_COMPARE = command_line.define_compare()
command_line.define_report()
_PLATFORM = command_line.define_platform()
_DISTRIBUTED = command_line.define_distributed()


def main(argv) -> None:
  users, workdir = parse_users(_USERS.value), command_line.workdir()
  fields = {"data.dir": _DATA_DIR, "train.eval_batch_size": _BATCH_SIZE, **_DECODING}
  overrides = command_line.overrides(fields)
  if _COMPARE.value:
    runs = [workdir, _COMPARE.value, *argv[1:]]
    results = compare(runs, split_name=_SPLIT.value, overrides=overrides, users=users)
  else:
    devices.begin(_PLATFORM.value, _DISTRIBUTED.value)
    results = evaluate(
      workdir, split_name=_SPLIT.value, overrides=overrides, users=users
    )
  command_line.write_report(results)


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main, after="compare"))
