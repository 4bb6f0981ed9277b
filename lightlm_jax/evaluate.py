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

import sys

from etils import epath
import jax

from lightlm_jax import command_line
from lightlm_jax.runs.evaluate import compare, evaluate
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib

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


def _number_of_users(given: str | None) -> int:
  """A string flag, because `recommend` has one of that name for users by their ids."""
  if given and not (given.isascii() and given.isdecimal()):
    raise UserError(f"--users={given} is no number; give how many users to ask")
  return int(given or 0)


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main, after="compare"))
