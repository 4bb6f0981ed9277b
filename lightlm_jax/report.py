"""Writes the report of one or several runs, or of a study, as HTML.

python -m lightlm_jax.report --workdir=runs/toys
python -m lightlm_jax.report --workdir=runs/toys --compare runs/toys-sasrec runs/ease
python -m lightlm_jax.report --workdir=STUDY

Reads the runs' folders, and the log for examples; evaluates and trains nothing.
--split=validation shows nothing of the test split. The page needs no network.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.studies.analysis import report

command_line.define(
  *("split", "compare", "data_dir"),
  workdir="a run that `train` left, or a study of `sweep`",
)
flags.DEFINE_string(
  "out",
  None,
  "the file; default: RUN/report.html, of validation report-validation.html",
)


def main(argv) -> None:
  report(
    command_line.workdir(),
    [FLAGS.compare, *argv[1:]] if FLAGS.compare else [],
    split_name=FLAGS.split,
    out=FLAGS.out,
    data_dir=FLAGS.data_dir,
  )


if __name__ == "__main__":
  sys.exit(command_line.main(main, after="compare"))
