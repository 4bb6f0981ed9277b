"""Analyses a study's table: findings, figures and report; nothing is trained."""

from collections.abc import Container
import logging
import re
from typing import Any

from etils import epath

from lightlm_jax.reporting import charts
from lightlm_jax.reporting import drawing as figure_files
from lightlm_jax.reporting import html as page_lib
from lightlm_jax.runtime import log
from lightlm_jax.storage import atomic, json_text
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.studies import findings, wording
from lightlm_jax.studies import plan as plan_lib
from lightlm_jax.studies import points as points_lib
from lightlm_jax.studies import study_figures as figures
from lightlm_jax.studies import study_page as page
from lightlm_jax.studies import summary as table_lib
from lightlm_jax.studies.findings import Findings
from lightlm_jax.studies.law import Fit
from lightlm_jax.studies.panels import Drawing
from lightlm_jax.studies.points import ACCURACY, LOSS

logger = logging.getLogger(__name__)

REPORT = "report.html"
ANALYSIS = "analysis.json"
FIGURES = "figures"


def is_study(folder: epath.PathLike) -> bool:
  folder = workdir_lib.absolute(folder)
  return any((folder / name).exists() for name in (table_lib.FILE, plan_lib.FILE))


def analyse(study: epath.PathLike, *, resamples: int = 300) -> dict[str, Any]:
  """Writes analysis.json, figures/ and report.html into a study's folder.

  Args:
    study: a folder with a summary.parquet; trials may still be running.
    resamples: bootstrap resamples for the intervals of the power laws.

  Returns:
    The content of analysis.json: axes; trials {finished, failed}; families, each with
    its points, its findings and, as `said`, the findings in sentences; figures, as
    paths.

  Raises:
    UserError: summary.parquet or matplotlib is missing, or the table cannot be read.
  """
  study = workdir_lib.absolute(study)
  table = points_lib.read(study)
  with figure_files.style(charts.style()):
    found = [findings.find(f, resamples=resamples) for f in points_lib.families(table)]
    drawings = [
      [(drawing, figure_files.content(drawing.figure, "svg")) for drawing in draw(one)]
      for one in found
    ]
    files = {}
    for number, pairs in enumerate(drawings):
      start = f"{_slug(found[number], number)}-" if len(found) > 1 else ""
      for drawing, svg in pairs:
        name = f"{FIGURES}/{start}{drawing.name}"
        files[f"{name}.svg"] = svg
        files[f"{name}.png"] = figure_files.content(drawing.figure, "png")
  states = table["state"].to_list()
  report = {
    "axes": list(points_lib.axes(table)),
    "trials": {
      "finished": states.count("finished"),
      "failed": len(states) - states.count("finished"),
    },
    "families": [findings.as_json(one) | {"said": wording.said(one)} for one in found],
    "figures": list(files),
  }
  html = page_lib.render(
    "study.html.jinja", page.content(study.name, table, found, drawings)
  )
  _remove_older(study, files)
  (study / FIGURES).mkdir(exist_ok=True)
  for name, content in files.items():
    atomic.write(study / name, content)
  atomic.write(study / REPORT, html)
  atomic.write_json(study / ANALYSIS, report)
  return report


def report(study: epath.PathLike) -> dict[str, Any]:
  """Runs `analyse` and prints the findings and where they are."""
  log.set_up()
  found = analyse(study)
  for family in found["families"]:
    for line in family["said"]:
      logger.info(f"- {line}")
  path = epath.Path(study) / REPORT
  logger.info(f"written to {path}, {len(found['figures'])} figures")
  return found


def draw(found: Findings) -> list[Drawing]:
  """Returns the figures that a family's points support."""
  family = found.family
  drawn_so_far: list[Drawing | None] = []
  accuracy = [measure for measure in ACCURACY if measure in found.measures]
  for measures in ([LOSS] if LOSS in found.measures else [], accuracy):
    for cost in figures.AGAINST:
      law = found.laws.get(cost) if measures == [LOSS] else None
      law = law if isinstance(law, Fit) else None
      drawn_so_far.append(figures.against(family, cost, measures, law))
    drawn_so_far.append(figures.narrowing(family, found.lines, measures))
    if found.grids:
      drawn_so_far.append(figures.heat_map(family, found.grids[0], measures))
  if isinstance(found.laws["both"], Fit):
    drawn_so_far.append(figures.law_of_both(family, found.laws["both"]))
  drawn_so_far.append(figures.iso_flop(family, found.iso_flop))
  return [drawing for drawing in drawn_so_far if drawing]


def _slug(found: Findings, number: int) -> str:
  words = "-".join(str(value) for value in found.family.key.values())
  return f"{number}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', words)[:60]}"


def _remove_older(study: epath.Path, files: Container[str]) -> None:
  """Removes figures of an earlier analysis that this one does not make."""
  try:
    older = json_text.loads((study / ANALYSIS).read_text())["figures"]
  except (OSError, ValueError, KeyError, TypeError):
    return
  for name in older:
    known = re.fullmatch(rf"{FIGURES}/[A-Za-z0-9_.-]+\.(svg|png)", str(name))
    if known and name not in files:
      (study / name).unlink(missing_ok=True)
