"""Evaluates a trained run again, and compares runs."""

from collections.abc import Sequence
import functools

from etils import epath
import rich.console

from lightlm_jax import limits
from lightlm_jax.evaluation import compare as compare_lib
from lightlm_jax.evaluation import evaluator, judge
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.runs import restore as trained
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime import devices, processes
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import registry
from lightlm_jax.training import loop


def evaluate(
  workdir: epath.PathLike,
  *,
  split_name: str = "test",
  overrides: dict | None = None,
  users: int = 0,
) -> dict:
  """Asks the best parameters of a run, and writes and returns the results.

  Args:
    workdir: of a run, finished or not.
    split_name: "test" or "validation".
    overrides: values by dotted field in place of the run's own. A
      decoding.beam_size below 20 asks for so many items alone: metrics at a larger k
      keep their names, and are those of the shorter list.
    users: requests, drawn by the run's seed; 0 = all.

  Raises:
    UserError: in one line, what a person can mend.
  """
  overrides = overrides or {}
  workdir, config, own = trained.asked(workdir, overrides)
  k = min(evaluator.K, overrides.get("decoding.beam_size", evaluator.K))
  console = rich.console.Console(quiet=not processes.is_first())
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  say(devices.describe())
  # The devices of the run are not those of today; restoring cuts the state anew.
  mesh = mesh_lib.make(-1, 1)
  limits.check_batches(config, mesh.shape["data"], ["train.eval_batch_size"])
  dataset, split = trained.log_of(workdir, config)
  requests = getattr(split, split_name)
  if requests is None:
    raise UserError(f"{workdir} holds nothing out (split.kind={config.split.kind})")
  requests = loop.sample(requests, users, config.seed)
  run = trained.restore(workdir, config, dataset, split, mesh, say)
  built, params, book = run.built, run.params, run.book

  say(f"{split_name}, {len(requests):,} users, both rules …")
  results = results_lib.describe(
    config, split, built.system, book, params, run.progress, k
  )
  found, ranks = judge.judge(
    built,
    params,
    split,
    requests,
    batch_size=config.train.eval_batch_size,
    mesh=mesh,
    code_IL=None if book is None else book.items_IL,
    k=k,
  )
  results |= found | {"split": split_name, "num_users": len(requests)}
  asked = len(requests) if users else 0
  variant = _variant(own, config, overrides, results["beam_size"])
  name = results_lib.file_name("users", results, asked, variant) + ".parquet"
  table = users_lib.table(requests, ranks, split.train, results_lib.about(results))
  users_lib.write(workdir / name, table)
  name = results_lib.file_name("results", results, asked, variant) + ".json"
  workdir_lib.write_json(workdir / name, results)
  results_lib.show(results, say)
  say(f"written to {workdir / name}")
  return results


def compare(
  workdirs: Sequence[epath.PathLike],
  *,
  split_name: str = "test",
  decoding: str | None = None,
  users: int = 0,
) -> dict:
  """Sets runs beside each other by the tables of users that they left.

  Args:
    workdirs: two runs or more, finished.
    split_name: "test" or "validation".
    decoding: of the runs that write ids; None = each run's own.
    users: as many as were asked, if not all.

  Raises:
    UserError: a run has no such table, or the runs were asked other questions.
  """
  tables = {}
  for workdir in workdirs:
    workdir, config = workdir_lib.read(workdir, {})
    kind = None
    if config.system in registry.WRITE_IDS:
      kind = decoding or config.decoding.kind
    results = {"split": split_name, "decoding": kind}
    name = results_lib.file_name("users", results, users) + ".parquet"
    compare_lib.check_names([*tables, workdir.name])
    tables[workdir.name] = users_lib.read(workdir / name)
  report = compare_lib.compare(tables)
  console = rich.console.Console()
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  _, about = next(iter(tables.values()))
  asked = len(next(iter(tables.values()))[0])
  say(f"{about['dataset']}: {split_name}, {asked:,} users, {len(tables)} runs")
  compare_lib.show(report, say)
  return report


def _variant(own, config, overrides: dict, width: int | None) -> str:
  """How a run was asked, if not in its own way: that is what `compare` looks for."""
  if width is not None:
    widest = max(own.decoding.beam_size, evaluator.K)
    return str(width) if "decoding.beam_size" in overrides and width != widest else ""
  if config.decoding.kind not in latent_decoding.DECODINGS:
    return ""
  return "-".join(
    f"{name}{config.decoding[name]}"
    for name in latent_decoding.OPTIONS
    if config.decoding[name] != own.decoding[name]
  )
