"""What the command `report` does: the report of runs or of a study."""

from collections.abc import Sequence

from etils import epath

from lightlm_jax.reporting.report import report as report_runs
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import analysis


def report(
  workdir: epath.PathLike,
  others: Sequence[epath.PathLike] = (),
  *,
  split_name: str = "test",
  out: epath.PathLike | None = None,
  data_dir: str | None = None,
) -> None:
  """Writes the report of runs, see `reporting.report`, or of a study.

  Raises:
    UserError: one line that says what to change.
  """
  if not analysis.is_study(workdir):
    report_runs(workdir, others, split_name=split_name, out=out, data_dir=data_dir)
    return
  if others or out or split_name != "test":
    raise UserError(
      f"{workdir} is a study, whose report takes no --compare, --split or --out"
    )
  analysis.report(workdir)
