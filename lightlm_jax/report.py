"""Writes the report of one or several runs, or of a study, as one HTML file.

python -m lightlm_jax.report --workdir=runs/toys
python -m lightlm_jax.report --workdir=runs/toys --compare runs/toys-sasrec runs/ease
python -m lightlm_jax.report --workdir=runs/toys --split=validation
python -m lightlm_jax.report --workdir=STUDY

With --split=validation it shows the results of `evaluate --split=validation`, and
nothing of the test split, to choose models by. Of a study it repeats the analysis that
`sweep` writes at its end.

It trains and evaluates nothing: it reads the folders, and the log for the examples. The
HTML file needs no network and no other file.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.reporting.report import report
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import analysis

command_line.define_workdir("a run of `train`, or a study of `sweep`")
_SPLIT = command_line.define_split()
_COMPARE = command_line.define_compare()
_DATA_DIR = command_line.define_data_dir()
_OUT = flags.DEFINE_string(
  "out",
  None,
  "the file; default: RUN/report.html, or report-validation.html",
)


def main(argv) -> None:
  workdir = command_line.workdir()
  others = [_COMPARE.value, *argv[1:]] if _COMPARE.value else []
  if analysis.is_study(workdir):
    if others or _OUT.value or _SPLIT.value != "test":
      raise UserError(
        f"{workdir} is a study, whose report takes no --compare, --split or --out"
      )
    analysis.report(workdir)
    return
  report(
    workdir,
    others,
    split_name=_SPLIT.value or "test",
    out=_OUT.value,
    data_dir=_DATA_DIR.value,
  )


if __name__ == "__main__":
  sys.exit(command_line.main(main, after="compare"))
