"""Judges a trained run again: another decoding, another split, without training.

python -m lightlm_jax.evaluate --workdir=runs/toys --decoding=exact

Writes results-SPLIT-DECODING.json and users-SPLIT-DECODING.parquet into the workdir
(with the width of a beam that is not the run's own, and the number of users where only
some were asked). Choose by --split=validation: a test that is looked at chooses.

python -m lightlm_jax.evaluate --workdir=runs/toys --beam_size=10

asks for as many items as the beam is wide, 20 at most, so that one of 10 finds what it
would find at work; its metrics at 20 are those of a list of 10.

python -m lightlm_jax.evaluate --workdir=runs/toys --decoding=latent_local --nearest=50

decodes in the space of hidden states (L2D): the first time it goes through the training
log and leaves what it found in RUN/latent.

python -m lightlm_jax.evaluate --workdir=runs/toys --compare runs/toys-sasrec runs/ease

asks nobody again: it reads the tables of users that the runs have left, and says which
differences chance explains.
"""

from collections.abc import Sequence
import functools
import sys

from etils import epath
import jax
import rich.console

from lightlm_jax import command_line, devices, limits, processes, trained
from lightlm_jax import results as results_lib
from lightlm_jax import workdir as workdir_lib
from lightlm_jax.errors import UserError
from lightlm_jax.evaluation import compare as compare_lib
from lightlm_jax.evaluation import evaluator, judge
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.systems import latent_decoding, registry
from lightlm_jax.training import loop
from lightlm_jax.training import mesh as mesh_lib

command_line.define_workdir("a run that `train` left")
_SPLIT = command_line.define_split()
_DECODING = command_line.define_decoding()
_USERS = command_line.define_users(
  "ask so many users, drawn by the run's seed; default: all"
)
_BATCH_SIZE = command_line.define_batch_size()
_DATA_DIR = command_line.define_data_dir()
_COMPARE = command_line.define_compare()
_REPORT = command_line.define_report()
_PLATFORM = command_line.define_platform()
_DISTRIBUTED = command_line.define_distributed()


def main(argv) -> None:
  users = _number_of_users(_USERS.value)
  workdir = command_line.workdir()
  if _COMPARE.value:
    if _DECODING["decoding.beam_size"].value:
      raise UserError(
        "--compare reads the tables of the runs' own widths; leave out --beam_size "
        "(`report` sets the widths of a run beside each other)"
      )
    results = compare(
      [workdir, _COMPARE.value, *argv[1:]],
      split_name=_SPLIT.value,
      decoding=_DECODING["decoding.kind"].value,
      users=users,
    )
    if _REPORT.value:
      workdir_lib.write_json(epath.Path(_REPORT.value), results)
    return
  devices.begin(_PLATFORM.value, _DISTRIBUTED.value)
  fields = {"data.dir": _DATA_DIR, "train.eval_batch_size": _BATCH_SIZE, **_DECODING}
  results = evaluate(
    workdir,
    split_name=_SPLIT.value,
    overrides=command_line.overrides(fields),
    users=users,
  )
  if _REPORT.value:
    workdir_lib.write_json(epath.Path(_REPORT.value), results)


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
  system, params, book = run.system, run.params, run.book

  say(f"{split_name}, {len(requests):,} users, both rules …")
  results = results_lib.describe(config, split, system, book, params, run.progress, k)
  found, ranks = judge.judge(
    system,
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


def _number_of_users(given: str | None) -> int:
  """A string flag, because `recommend` has one of that name for users by their ids."""
  if given and not (given.isascii() and given.isdecimal()):
    raise UserError(f"--users={given} is no number; give how many users to ask")
  return int(given or 0)


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


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main, after="compare"))
