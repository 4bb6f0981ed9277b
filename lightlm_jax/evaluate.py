"""Evaluates a trained run again: another decoding or split, without training.

python -m lightlm_jax.evaluate --workdir=runs/toys --decoding=exact
python -m lightlm_jax.evaluate --workdir=runs/toys --decoding=latent_local --nearest=50
python -m lightlm_jax.evaluate --workdir=runs/toys --compare runs/toys-sasrec runs/ease

Writes results-SPLIT-DECODING.json and users-SPLIT-DECODING.parquet into the workdir.
To choose between models, use the results of --split=validation, not of the test split.
With --beam_size below 20, the metrics at 20 are computed on the shorter list. --compare
reads each run's users-*.parquet, and tests the differences for significance.
"""

import sys

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.runs.evaluate import compare, evaluate, parse_users
from lightlm_jax.runtime import devices

command_line.define(
  *command_line.DECODING,
  *("split", "batch_size", "data_dir", "compare", "report", "strict"),
  *("platform", "distributed"),
  workdir="a run that `train` left",
  users="evaluate so many users, drawn by the run's seed; default: all",
)


def main(argv) -> None:
  options = {"split_name": FLAGS.split, "users": parse_users(FLAGS.users)}
  workdir, options["overrides"] = command_line.workdir(), command_line.overrides()
  if FLAGS.compare:
    results = compare([workdir, FLAGS.compare, *argv[1:]], **options)
  else:
    devices.begin(FLAGS.platform, FLAGS.distributed)
    results = evaluate(workdir, **options, strict=FLAGS.strict)
  command_line.write_report(results)


if __name__ == "__main__":
  sys.exit(command_line.main(main, after="compare"))
