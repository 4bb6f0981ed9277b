"""Tries whether anything held out, or any number of a file, reaches the ids.

python -m lightlm_jax.audit --config=configs/toys.py

Builds the ids six times, reading none that were kept, and trains nothing. Exit code 1
if something was found.
"""

import functools
import sys
import tempfile
from typing import Any

from etils import epath
import ml_collections
import rich.console

from lightlm_jax import command_line, limits
from lightlm_jax import workdir as workdir_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.errors import UserError
from lightlm_jax.evaluation import audit as audit_lib
from lightlm_jax.ids import build as ids_build

_CONFIG = command_line.define_config()
_REPORT = command_line.define_report()


def main(argv) -> int:
  del argv
  found = audit(ml_collections.FrozenConfigDict(_CONFIG.value))
  if _REPORT.value:
    workdir_lib.write_json(epath.Path(_REPORT.value), found)
  return 0 if found["passed"] else 1


def audit(config: ml_collections.FrozenConfigDict) -> dict[str, Any]:
  """Audits the ids of a configuration, prints and returns the findings.

  Raises:
    UserError: in one line, what a person can mend.
  """
  limits.check(config)
  if config.split.kind != "leave_one_out":
    raise UserError(
      f"config.split.kind is {config.split.kind!r}; the audit knows what "
      "leave_one_out holds out"
    )
  console = rich.console.Console()
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  log = datasets.load(config).log

  def build(log: Interactions, seed: int) -> audit_lib.Ids:
    train = splits.leave_one_out(log).train
    # A kept book would answer for the one that the trial wants to see built.
    with tempfile.TemporaryDirectory() as empty:
      book = ids_build.code_book(config.ids, train, seed, epath.Path(empty))
    return audit_lib.Ids(book.items_IL, book.users_UL, train.user_E, train.item_E)

  if config.ids.kind in ids_build.WARNINGS:
    say(f"warning: {ids_build.WARNINGS[config.ids.kind]}")
  say(f"{config.data.name}: {datasets.describe(log)}; ids {config.ids.kind} …")
  found = audit_lib.audit(build, log, seed=config.seed)
  for name, changed in found["exchange"].items():
    say(f"  held-out items exchanged, {name.replace('_', ' ')}: {changed}")
  for name, figures in found["renumber"].items():
    others = ", ".join(f"{value:.4f}" for value in figures["other_seeds"])
    say(
      f"  {name}: {figures['as_is']:.4f}; numbered anew {figures['renumbered']:.4f}; "
      f"other seeds {others}"
    )
  say(f"  last token and raw number in leaves: {found['spearman_last_token']:.3f}")
  say(f"  held-out interactions read: {found['held_out_edges']}")
  for line in found["failures"]:
    say(f"FOUND: {line}")
  if found["passed"]:
    say("nothing found")
  return found


if __name__ == "__main__":
  sys.exit(command_line.main(main))
