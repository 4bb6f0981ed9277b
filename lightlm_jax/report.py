"""Writes the report of one or several runs, or of a study, as HTML.

python -m lightlm_jax.report --workdir=runs/toys
python -m lightlm_jax.report --workdir=runs/toys --compare runs/toys-sasrec runs/ease
python -m lightlm_jax.report --workdir=STUDY

Reads the folders, and the log for its examples; evaluates and trains nothing.
--split=validation shows nothing of the test. The file needs no network.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.studies.reports import report

command_line.define_workdir("a run that `train` left, or a study of `sweep`")
_SPLIT = command_line.define_split()
_COMPARE = command_line.define_compare()
_DATA_DIR = command_line.define_data_dir()
_OUT = flags.DEFINE_string(
  "out",
  None,
  "the file; default: RUN/report.html, of validation report-validation.html",
)


def main(argv) -> None:
  report(
    command_line.workdir(),
    [_COMPARE.value, *argv[1:]] if _COMPARE.value else [],
    split_name=_SPLIT.value or "test",
    out=_OUT.value,
    data_dir=_DATA_DIR.value,
  )


if __name__ == "__main__":
  sys.exit(command_line.main(main, after="compare"))
