"""Writes the HTML report of runs or of a study."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import rich.console

from lightlm_jax.reporting import beams, lists, provenance, sections, tree
from lightlm_jax.reporting import html as page_lib
from lightlm_jax.reporting import run_files as runs
from lightlm_jax.reporting import state_indexes as memories
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib


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
