"""Analyses a study's table of trials into findings, figures and a report."""

from collections.abc import Container, Sequence
import logging
import re
from typing import Any

from etils import epath
import polars as pl

from lightlm_jax.reporting import charts
from lightlm_jax.reporting import drawing as figure_files
from lightlm_jax.reporting import html as page_lib
from lightlm_jax.reporting.report import report as report_runs
from lightlm_jax.runtime import log
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.studies import findings, wording
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies import study_figures as figures
from lightlm_jax.studies import summary as table_lib
from lightlm_jax.studies.findings import Findings
from lightlm_jax.studies.law import Fit
from lightlm_jax.studies.points import ACCURACY, LOSS
from lightlm_jax.studies.study_figures import Drawing

logger = logging.getLogger(__name__)

REPORT, ANALYSIS, FIGURES = "report.html", "analysis.json", "figures"


def report(
  workdir: epath.PathLike,
  others: Sequence[epath.PathLike] = (),
  *,
  split_name: str = "test",
  out: epath.PathLike | None = None,
  data_dir: str | None = None,
) -> None:
  """Writes the report of runs or of a study; for a study, it also logs the findings.

  Arguments are as in `reporting.report.report`. For a study, `workdir` is its folder,
  `data_dir` is ignored, and any other argument raises a UserError.
  """
  folder = workdir_lib.absolute(workdir)
  if not any((folder / name).exists() for name in (table_lib.FILE, plan_lib.FILE)):
    report_runs(workdir, others, split_name=split_name, out=out, data_dir=data_dir)
    return
  if others or out or split_name != "test":
    raise UserError(
      f"{workdir} is a study, whose report takes no --compare, --split or --out"
    )
  atomic.check_folder(folder)
  log.set_up()
  found = analyse(workdir)
  for family in found["families"]:
    for line in family["said"]:
      logger.info(f"- {line}")
  path = epath.Path(workdir) / REPORT
  logger.info(f"written to {path}, {len(found['figures'])} figures")


def analyse(study: epath.PathLike, *, resamples: int = 300) -> dict[str, Any]:
  """Writes analysis.json, figures/ and report.html into a study's folder.

  Args:
    study: a folder with a summary.parquet; trials may still be running.
    resamples: bootstrap resamples for the intervals of the power laws.

  Returns:
    The content of analysis.json: `axes`, the names of the axes; `trials`, how many
    finished and how many failed; `families`, each with its points, its findings and
    `said`, sentences about the findings; `figures`, the paths of the figures.

  Raises:
    UserError: summary.parquet is missing or cannot be read, or matplotlib is missing.
  """
  study = workdir_lib.absolute(study)
  table = points_lib.read(study)
  reports, pages, files = [], [], {}
  with figure_files.style(charts.style()):
    families = points_lib.families(table)
    for number, family in enumerate(families):
      found = findings.find(family, resamples=resamples)
      said = wording.said(found)
      words = "-".join(map(str, family.key.values()))
      slug = f"{number}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)[:60]}-"
      drawings = []
      for drawing in draw(found):
        name = f"{FIGURES}/{slug if len(families) > 1 else ''}{drawing.name}"
        for kind in ("svg", "png"):
          files[f"{name}.{kind}"] = figure_files.content(drawing.figure, kind)
        label = f"{family.title}: {drawing.title}. {drawing.caption}"
        svg = files[f"{name}.svg"]
        svg = charts.inline(svg, f"f{number}-{drawing.name}", label)
        drawings.append(drawing._replace(figure=svg))
      reports.append(findings.as_json(found) | {"said": said})
      pages.append({"found": found, "said": said, "figures": drawings} | _tables(found))
  finished = table["state"].to_list().count("finished")
  trials = {"finished": finished, "failed": len(table) - finished}
  axes = list(points_lib.axes(table))
  result = {"axes": axes, "trials": trials, "families": reports, "figures": list(files)}
  content = {
    "title": f"Study {study.name}",
    "axes": ", ".join(axes),
    "trials": trials,
    "points": sum(len(family.points) for family in families),
    "failed": table.filter(pl.col("state") != "finished").select("trial", "reason"),
    "families": pages,
    "amount": points_lib.amount,
    "value": wording.value,
    "mean": wording.mean,
  }
  html = page_lib.render("study.html.jinja", content)
  _remove_older(study, files)
  (study / FIGURES).mkdir(exist_ok=True)
  for name, content in files.items():
    atomic.write(study / name, content)
  atomic.write(study / REPORT, html)
  atomic.write_json(study / ANALYSIS, result)
  return result


def draw(found: Findings) -> list[Drawing]:
  """Draws the figures of one family; leaves out figures that need more points."""
  family = found.family
  fits = {name: law for name, law in found.laws.items() if isinstance(law, Fit)}
  drawn: list[Drawing | None] = []
  accuracy = [measure for measure in ACCURACY if measure in found.measures]
  for measures in ([LOSS] if LOSS in found.measures else [], accuracy):
    for cost in figures.AGAINST:
      law = fits.get(cost) if measures == [LOSS] else None
      drawn.append(figures.against(family, cost, measures, law))
    drawn.append(figures.narrowing(family, found.lines, measures))
    if found.grids:
      drawn.append(figures.heat_map(family, found.grids[0], measures))
  if "both" in fits:
    drawn.append(figures.law_of_both(family, fits["both"]))
  drawn.append(figures.iso_flop(family, found.iso_flop))
  return [drawing for drawing in drawn if drawing]


def _tables(found: Findings) -> dict[str, Any]:
  """Returns the columns of the report's table of points, and the tables of pairs."""
  columns = [(m.title, m.column, m) for m in found.measures]
  # The test metrics come last; they are shown, but no decision uses them.
  columns += [
    (m.title.replace("validation", "test"), m.test, m) for m in found.measures if m.test
  ]
  compared = []
  for title, all_by in (
    ("At equal parameters: deeper minus wider", found.depth_width),
    ("Feed-forward: narrowest minus widest", found.narrowing),
  ):
    measures = [m for m in found.measures if any(by.measure is m for by in all_by)]
    pairs = {by.pair: {} for by in all_by}
    for by in all_by:
      pairs[by.pair][by.measure] = by
    if pairs:
      compared.append({"title": title, "measures": measures, "pairs": pairs})
  return {"columns": columns, "compared": compared}


def _remove_older(study: epath.Path, files: Container[str]) -> None:
  """Removes the figures of an earlier analysis that are not in `files`."""
  try:
    older = json_text.loads((study / ANALYSIS).read_text())["figures"]
  except (OSError, ValueError, KeyError, TypeError):
    return
  for name in older:
    known = re.fullmatch(rf"{FIGURES}/[A-Za-z0-9_.-]+\.(svg|png)", str(name))
    if known and name not in files:
      (study / name).unlink(missing_ok=True)
