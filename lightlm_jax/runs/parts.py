"""Checks that the parts of a workdir are of one run, not copied from several."""

from typing import Any

from etils import epath

from lightlm_jax import config as config_lib
from lightlm_jax.config import LearnedConfig, RunConfig
from lightlm_jax.data import texts
from lightlm_jax.data.splits import Split
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.training.checkpoint import Checkpoints

# They do not influence parameters, and people edit them.
_MAY_DIFFER = (
  *workdir_lib.MAY_DIFFER,
  *("decoding", "baselines", "data.dir", "mesh", "train.eval_batch_size"),
)
_ADVICE = "put back that of this run, or train anew in another --workdir"


def of_run(
  config: RunConfig, split: Split, book: CodeBook | None, tokens: texts.Tokens | None
) -> dict[str, Any]:
  """Returns what parameters depend on, as JSON; each checkpoint is saved with it."""
  return {
    "config": config_lib.to_tree(config),
    "split_sha256": split.sha256,
    "ids_sha256": book and book.sha256,
    "texts_sha256": tokens and tokens.sha256,
  }


def check_checkpoints(checkpoints: Checkpoints) -> None:
  """Raises a UserError if the latest checkpoint was saved by another run."""
  saved, wanted, folder = (
    checkpoints.saved_with(),
    checkpoints.run,
    checkpoints.directory,
  )
  for name in saved.keys() & wanted.keys() - {"config"}:
    if saved[name] != wanted[name]:
      what = name.removesuffix("_sha256")
      raise UserError(f"the checkpoints in {folder} are of another {what}; {_ADVICE}")
  own = config_lib.from_tree(wanted["config"])
  theirs = saved.get("config", wanted["config"])
  if different := config_lib.differences(theirs, own, ignore=_MAY_DIFFER):
    raise UserError(
      f"the checkpoints in {folder} are of another configuration "
      f"({'; '.join(different)}); {_ADVICE}"
    )


def check_results(
  workdir: epath.Path, config: RunConfig, parameters_sha256: str | None
) -> None:
  """Raises a UserError if a finished run's results are of other parameters."""
  earlier = results_lib.read_finished(workdir)
  if earlier is None or not isinstance(config, LearnedConfig):
    return
  if (earlier["steps"] or 0) < config.train.steps:
    return  # the run goes on
  known = {earlier["parameters_sha256"], parameters_sha256} - {None}
  if len(known) > 1:
    raise UserError(
      f"{workdir / results_lib.FILE} is of other parameters than the checkpoint beside "
      "it; put back that of this run, or remove it and `train` writes it anew"
    )
