"""Runs and analyses a study, for the command `sweep`."""

from collections.abc import Mapping, Sequence
import importlib.util
from typing import Any

from etils import epath
import jax

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.studies import plan as plan_lib


def launch(
  workdir: str | None,
  config: Any,
  base: str,
  overrides: Mapping[str, Any],
  vary: Sequence[str],
  report_path: str | None = None,
  **options: Any,
) -> dict[str, Any]:
  """Runs the remaining trials of a study, then analyses it; returns its report.

  Args:
    workdir: the study's folder; None raises a UserError.
    config: a study's config, see `plan.of_study`; None = vary the run `base`.
    base, overrides: config of a run, and its changed fields; unused with `config`.
    vary: axes as `axis=value,value`; each replaces an axis of that name in `config`.
    report_path: JSON file for the report, see `study.sweep`; None = no file.
    **options: further arguments of `study.sweep`.
  """
  if workdir is None:
    raise UserError("no folder for the study; give --workdir=STUDY")
  if importlib.util.find_spec("optuna") is None:
    raise UserError(
      "optuna is missing; install with pip install -c constraints.txt -e '.[sweep]'"
    )
  # They need the extra `sweep`.
  from lightlm_jax.studies import analysis, study  # noqa: PLC0415

  # Only the trials use accelerators.
  jax.config.update("jax_platforms", "cpu")
  if config is not None:
    plan = plan_lib.of_study(config, vary)
  else:
    plan = plan_lib.of_run(base, overrides, vary)
  report = study.sweep(plan, workdir, **options)
  if report_path:
    atomic.write_json(epath.Path(report_path), report)
  if report["finished"]:
    with folder_lib.locked(workdir):  # other processes end at the same time
      analysis.report(workdir)
  return report
