"""Evaluates trained runs again, and compares runs."""

from collections.abc import Mapping, Sequence
import logging
from typing import Any

from etils import epath

from lightlm_jax.config import RunConfig, WritesIds
from lightlm_jax.data.splits import Requests
from lightlm_jax.evaluation import compare as compare_lib
from lightlm_jax.evaluation import evaluator
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.evaluation.all_metrics import all_metrics
from lightlm_jax.evaluation.evaluator import Ranks
from lightlm_jax.inference import state_index
from lightlm_jax.runs import restore
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runs.context import Run, RunContext
from lightlm_jax.runs.results import Results
from lightlm_jax.runtime import devices, log
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import atomic
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.training import loop

logger = logging.getLogger(__name__)


def evaluate(
  workdir: epath.PathLike,
  *,
  split_name: str = "test",
  overrides: Mapping[str, Any] | None = None,
  users: int = 0,
  strict: bool = False,
) -> Results:
  """Evaluates a run with its best parameters; writes and returns the results.

  Args:
    workdir: the folder of a run, finished or not.
    split_name: "test" or "validation".
    overrides: values by dotted field that replace the run's own; None = none. With a
      decoding.beam_size below 20, lists have that length, and metrics at a larger k
      are those of the shorter list.
    users: number of requests, drawn at random by the run's seed; 0 = all.
    strict: whether a damaged checkpoint is an error; see `restore.restore`.
  """
  overrides = overrides or {}
  workdir, config, own = restore.read_configs(workdir, overrides)
  atomic.check_folder(workdir)
  log.set_up()
  logger.info(devices.describe())
  context = restore.find_context(workdir, config)
  restore.warn_if_changed(workdir, config, "the run is evaluated on its own copy")
  requests = _requests(context, split_name, users)
  run = restore.restore(context, strict=strict)
  k = min(evaluator.K, overrides.get("decoding.beam_size", evaluator.K))
  results = results_lib.describe(run, k)
  variant = _variant(own, config, overrides, results["beam_size"])
  users = len(requests) if users else 0
  return _evaluate(run, results, split_name, requests, k, users=users, variant=variant)


def evaluate_run(run: Run, split_name: str = "test") -> Results:
  """Evaluates a restored run with its own decoding; see `evaluate`."""
  log.set_up()
  requests = _requests(run, split_name, 0)
  return _evaluate(run, results_lib.describe(run), split_name, requests)


def measure(
  run: Run, requests: Requests, k: int = evaluator.K
) -> tuple[dict[str, Any], dict[str, Ranks]]:
  """Evaluates lists of `k` items; returns fields of `Results`, and {rule: `Ranks`}."""
  return all_metrics(
    run.built,
    run.params,
    run.split,
    requests,
    batch_size=run.config.train.eval_batch_size,
    mesh=run.mesh,
    code_IL=None if run.book is None else run.book.items_IL,
    k=k,
  )


def write_users(
  run: Run, results: Results, requests: Requests, ranks: dict[str, Ranks], **way: Any
) -> None:
  """Writes each user's ranks for `compare`; `way` is passed to `results.file_name`."""
  table = users_lib.table(requests, ranks, run.split.train, results_lib.about(results))
  name = results_lib.file_name("users", results, **way)
  users_lib.write(run.workdir / f"{name}.parquet", table)


def _requests(context: RunContext, split_name: str, users: int) -> Requests:
  requests = getattr(context.split, split_name)
  if requests is None:
    kind = context.config.split.kind
    raise UserError(f"{context.workdir} holds nothing out (split.kind={kind})")
  return loop.sample(requests, users, context.config.seed) or requests


def _evaluate(
  run: Run,
  results: Results,
  split_name: str,
  requests: Requests,
  k: int = evaluator.K,
  **way: Any,
) -> Results:
  """Evaluates `requests`; writes and returns `results` with the metrics added.

  `way` holds the optional arguments of `results.file_name`.
  """
  logger.info(f"{split_name}, {len(requests):,} users, both rules …")
  found, ranks = measure(run, requests, k)
  found |= {"split": split_name, "num_users": len(requests)}
  results = results_lib.with_fields(results, found)
  write_users(run, results, requests, ranks, **way)
  name = results_lib.file_name("results", results, **way) + ".json"
  results = results_lib.sealed(results)
  atomic.write_json(run.workdir / name, results)
  results_lib.show(results)
  logger.info(f"written to {run.workdir / name}")
  return results


def compare(
  workdirs: Sequence[epath.PathLike],
  *,
  split_name: str = "test",
  overrides: Mapping[str, Any] | None = None,
  users: int = 0,
) -> dict[str, Any]:
  """Compares the tables that `write_users` wrote for runs; logs and returns a report.

  Args:
    workdirs: the folders of at least two finished runs.
    split_name: "test" or "validation".
    overrides: for runs that generate ids, "decoding.kind" is the decoding whose tables
      are read (by default, each run's own decoding). "decoding.beam_size" is refused.
    users: the number of users to which `evaluate` was restricted; 0 = all.

  Raises:
    UserError: a run lacks its table, runs' requests differ, or a beam size is given.
  """
  overrides = overrides or {}
  if "decoding.beam_size" in overrides:
    raise UserError(
      "--compare reads the tables of the runs' own widths; leave out --beam_size "
      "(`report` sets the widths of a run beside each other)"
    )
  tables = {}
  for workdir in workdirs:
    workdir, config = workdir_lib.read(workdir)
    kind = None
    if isinstance(config, WritesIds):
      kind = overrides.get("decoding.kind", config.decoding.kind)
    results = {"split": split_name, "decoding": kind}
    name = results_lib.file_name("users", results, users) + ".parquet"
    compare_lib.check_names([*tables, workdir.name])
    found = tables[workdir.name] = users_lib.read(workdir / name)
    if not results_lib.same_run(found[1], results_lib.read_finished(workdir) or {}):
      raise UserError(f"{workdir / name} {results_lib.OTHER_RUN}")
  report = compare_lib.compare(tables)
  log.set_up()
  first, about = next(iter(tables.values()))
  logger.info(
    f"{about['dataset']}: {split_name}, {len(first):,} users, {len(tables)} runs"
  )
  for line in compare_lib.lines(report):
    logger.info(line)
  return report


def parse_users(given: str | None) -> int:
  """Parses --users as the number of users to evaluate, 0 = all.

  The flag is a string because in `recommend` it holds ids.

  Raises:
    UserError: `given` is not a number.
  """
  if given and not (given.isascii() and given.isdecimal()):
    raise UserError(f"--users={given} is no number; give how many users to evaluate")
  return int(given or 0)


def _variant(
  own: RunConfig, config: RunConfig, overrides: Mapping[str, Any], width: int | None
) -> str:
  """Returns the decoding options that differ from the run's, for file names; "" = none.

  `config` is `own` with `overrides`; `width` is the beam size, None = no beam.
  """
  if not isinstance(own, WritesIds) or not isinstance(config, WritesIds):
    return ""
  parts, asked, usual = [], config.decoding, own.decoding
  if width is not None and "decoding.beam_size" in overrides:
    parts += [str(width)] * (width != max(usual.beam_size, evaluator.K))
  if asked.kind in state_index.DECODINGS:
    parts += [
      f"{name}{getattr(asked, name)}"
      for name in state_index.OPTIONS
      if getattr(asked, name) != getattr(usual, name)
    ]
  return "-".join(parts)
