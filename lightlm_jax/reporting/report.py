"""Writes the HTML report of runs or of a study."""

from collections.abc import Sequence
import logging
from typing import Any

from etils import epath

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
  """Writes the report of one or several runs and prints its path.

  Args:
    workdir: a run, finished or not.
    others: further runs to compare with it.
    split_name: "test" or "validation".
    out: the file; None = report.html, or report-validation.html, in the workdir.
    data_dir: folder of the log, instead of the run's data.dir.

  Returns:
    The path of the report.

  Raises:
    UserError: the runs cannot be read or compared, or the file cannot be written.
  """
  found = [runs.read(folder, split_name) for folder in (workdir, *others)]
  runs.check_together(found)
  log_lib.set_up()
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
  atomic.write(path, html)
  logger.info(f"written to {path}, {len(html.encode()) / 1e3:,.0f} kB")
  return path


def page(
  found: Sequence[runs.Run],
  split_name: str,
  log: runs.Log | None,
  no_log: str | None,
) -> dict[str, Any]:
  """Returns the data of the template.

  Args:
    found: the runs, of one split.
    split_name: "test" or "validation".
    log: their log; None if it cannot be read.
    no_log: why it cannot be read.
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
    "runs": found,
    "rules": sections.RULES,
    "legend_pairs": list(zip(names, range(1, 1 + len(names)))),
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
