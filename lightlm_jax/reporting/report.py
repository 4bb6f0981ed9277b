"""Writes the HTML report of runs."""

from collections.abc import Sequence
import logging

from etils import epath

from lightlm_jax.evaluation import compare
from lightlm_jax.reporting import decodings, id_tree, lists, provenance, sections
from lightlm_jax.reporting import html as page_lib
from lightlm_jax.reporting import run_files as runs
from lightlm_jax.runtime import log as log_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic

logger = logging.getLogger(__name__)


def report(
  workdir: epath.PathLike,
  others: Sequence[epath.PathLike] = (),
  *,
  split_name: str = "test",
  out: epath.PathLike | None = None,
  data_dir: str | None = None,
) -> epath.Path:
  """Writes the report of one or several runs and logs its path.

  Args:
    workdir: the folder of a run, finished or not.
    others: the folders of further runs to compare it with.
    split_name: "test" or "validation".
    out: the file to write; None = report.html, or report-validation.html, in `workdir`.
    data_dir: the folder of the log, for runs without a copy; None = the run's data.dir.

  Returns:
    The path of the report.

  Raises:
    UserError: the runs cannot be read, differ in their split or users, or share a name,
      or the file cannot be written.
  """
  found = [runs.read(folder, split_name) for folder in (workdir, *others)]
  is_test, first = split_name == "test", found[0]
  name = "report.html" if is_test else f"report-{split_name}.html"
  path = epath.Path(out) if out else first.workdir / name
  atomic.check_folder(path.parent)
  names = [run.name for run in found]
  compare.check_names(names)
  finished = {run.name: run.results for run in found if run.results}
  if finished:
    compare.check_same_split(finished)
  log_lib.set_up()
  log, no_log = None, None
  listed = [run for run in found if run.users is not None]
  if listed:
    try:
      log = runs.read_log(listed[0], data_dir)
    except UserError as error:
      no_log = str(error)
      logger.warning(f"the report has no examples: {no_log}")
  subject = f"{len(found)} runs" if found[1:] else first.config.get("system")
  title = f"{subject} on {runs.at(first.config, 'data', 'name')}"
  content = {
    "title": title if is_test else f"{title}: {split_name}",
    "split": split_name,
    "names": names,
    "runs": found,
    "at": runs.at,
    "rules": sections.RULES,
    "legend_pairs": [(name, series) for series, name in enumerate(names, start=1)],
    "headline": sections.headline(found),
    "comparison": sections.comparison(found),
    "beams": decodings.beams(found),
    "state_indexes": decodings.state_indexes(found),
    "learning": sections.learning(found),
    "slices": sections.slices(found),
    "popularity": lists.popularity(found, log, no_log),
    "ids": id_tree.ids(found),
    "examples": lists.examples(found, log, no_log),
    "cost": provenance.cost(found),
    "configs": provenance.configs(found),
    "audits": provenance.audits(found),
  }
  html = page_lib.render("report.html.jinja", content)
  atomic.write(path, html)
  logger.info(f"written to {path}, {len(html.encode()) / 1e3:,.0f} kB")
  return path
