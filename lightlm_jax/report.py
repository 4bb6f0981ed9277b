"""Writes what a run left, or several beside each other, as one HTML file.

python -m lightlm_jax.report --workdir=runs/toys

python -m lightlm_jax.report --workdir=runs/toys --compare runs/toys-sasrec runs/ease

python -m lightlm_jax.report --workdir=runs/toys --split=validation

shows what `evaluate --split=validation` left, and nothing of the test, to choose by.

python -m lightlm_jax.report --workdir=STUDY

writes the analysis of a study that `sweep` left, as `sweep` itself does at its end.

Nobody is asked again and nothing is trained: it reads the folders, and the log for the
examples. The file needs no network and no other file.
"""

from collections.abc import Sequence
import sys
from typing import Any

from absl import flags
from etils import epath
import rich.console

from lightlm_jax import command_line
from lightlm_jax import workdir as workdir_lib
from lightlm_jax.errors import UserError
from lightlm_jax.reporting import (
  beams,
  lists,
  memories,
  provenance,
  runs,
  sections,
  tree,
)
from lightlm_jax.reporting import page as page_lib
from lightlm_jax.scaling import analysis

command_line.define_workdir("a run that `train` left")
_SPLIT = command_line.define_split()
_COMPARE = command_line.define_compare()
_DATA_DIR = command_line.define_data_dir()
_OUT = flags.DEFINE_string(
  "out",
  None,
  "the file; default: RUN/report.html, of validation report-validation.html",
)


def main(argv) -> None:
  workdir = command_line.workdir()
  others = [_COMPARE.value, *argv[1:]] if _COMPARE.value else []
  if analysis.is_study(workdir):
    if others or _OUT.value or _SPLIT.value != "test":
      raise UserError(
        f"{workdir} is a study: its report takes no --compare, --split or --out"
      )
    analysis.report(workdir)
    return
  report(
    workdir,
    others,
    split_name=_SPLIT.value,
    out=_OUT.value,
    data_dir=_DATA_DIR.value,
  )


def report(
  workdir: epath.PathLike,
  others: Sequence[epath.PathLike] = (),
  *,
  split_name: str = "test",
  out: epath.PathLike | None = None,
  data_dir: str | None = None,
) -> epath.Path:
  """Reads runs, writes their report and says where it is.

  Args:
    workdir: of a run, finished or not.
    others: runs to set beside it.
    split_name: "test" or "validation".
    out: the file; None = report.html, or report-validation.html, in the workdir.
    data_dir: where the log is, in place of the run's data.dir.

  Raises:
    UserError: in one line, what a person can mend.
  """
  found = [runs.read(folder, split_name) for folder in (workdir, *others)]
  runs.check_together(found)
  console = rich.console.Console()
  log, no_log = None, None
  listed = [run for run in found if run.users is not None]
  if listed:
    try:
      log = runs.read_log(listed[0], data_dir)
    except UserError as error:
      no_log = str(error)
  html = page_lib.render("report.html.jinja", page(found, split_name, log, no_log))
  name = "report.html" if split_name == "test" else f"report-{split_name}.html"
  path = epath.Path(out) if out else found[0].workdir / name
  workdir_lib.write_whole(path, html)
  said = f"written to {path}, {len(html.encode()) / 1e3:,.0f} kB"
  console.print(said, highlight=False, soft_wrap=True, markup=False)
  return path


def page(
  found: Sequence[runs.Run],
  split_name: str,
  log: runs.Log | None,
  no_log: str | None,
) -> dict[str, Any]:
  """All that the template shows, as plain data.

  Args:
    found: one run or more of one split.
    split_name: whose answers they are.
    log: theirs; None where it cannot be read.
    no_log: why not.
  """
  names = [run.name for run in found]
  first = found[0]
  system = first.config.get("system")
  dataset = (first.config.get("data") or {}).get("name")
  title = f"{len(found)} runs on {dataset}" if found[1:] else f"{system} on {dataset}"
  if split_name != "test":
    title += f": {split_name}"
  return {
    "title": title,
    "split": split_name,
    "names": names,
    "legend_pairs": list(zip(names, range(1, 1 + len(names)))),
    "headline": sections.headline(found),
    "comparison": sections.comparison(found),
    "beams": beams.beams(found),
    "memories": memories.memories(found),
    "learning": sections.learning(found),
    "slices": sections.slices(found),
    "popularity": lists.popularity(found, log, no_log),
    "ids": tree.ids(found),
    "examples": lists.examples(found, log, no_log),
    "cost": provenance.cost(found),
    "configs": provenance.configs(found),
    "audits": provenance.audits(found),
  }


if __name__ == "__main__":
  sys.exit(command_line.main(main, after="compare"))
