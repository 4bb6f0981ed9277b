"""Recommends items with a run that `train` left: raw ids in, raw ids out.

python -m lightlm_jax.recommend --workdir=runs/toys --users=A1,A2

prints what these users might want next (a file with one id in each line will do).

python -m lightlm_jax.recommend --workdir=runs/toys --history=B00X,B00Y

is for somebody new; for many of them --histories=FILE.jsonl, with lines
{"user": "anna", "history": ["B00X", "B00Y"]}, oldest first.

python -m lightlm_jax.recommend --workdir=runs/toys --all --output=recs.parquet

is for every user of the log: a row for each user and rank, with the columns user, rank,
item and score (.csv and .jsonl likewise). Started again after a kill it goes on;
several processes (--distributed) divide the users and leave a file each.

A known user's history is everything in the log, what was held out for validation and
test too: recommendations are about the future. Scores tell one user's items apart:
of systems that write ids they are log-probabilities, of others the system's own.
"""

import sys

from absl import flags
import jax

from lightlm_jax import command_line
from lightlm_jax.inference import output as output_lib
from lightlm_jax.inference import queries as questions_lib
from lightlm_jax.runs.recommend import NEW, recommend, show
from lightlm_jax.runtime import devices
from lightlm_jax.runtime.errors import UserError

command_line.define_workdir("a run that `train` left")

_USERS = command_line.define_users("of the log: A,B or a file with one in each line")

_HISTORY = flags.DEFINE_string("history", None, "of somebody new, oldest first: X,Y")

_HISTORIES = flags.DEFINE_string(
  "histories", None, 'a file of lines {"user": …, "history": […]}, oldest first'
)

_ALL = flags.DEFINE_bool("all", False, "every user of the log; with --output")

_OUTPUT = command_line.define_output(
  "FILE.parquet, .csv or .jsonl; without it a table is printed"
)

_K = command_line.define_k()

_EXCLUDE_SEEN = flags.DEFINE_bool(
  "exclude_seen", True, "keep items of a user's history from the user"
)

_ALLOW = flags.DEFINE_string(
  "allow", None, "recommend these items alone: X,Y or a file with one in each line"
)

_DENY = flags.DEFINE_string("deny", None, "do not recommend these items: likewise")

_TEXT = flags.DEFINE_bool("text", False, "the items' titles as one more column")

_DECODING = command_line.define_decoding()

_BATCH_SIZE = command_line.define_batch_size()

_DATA_DIR = command_line.define_data_dir()

_PLATFORM = command_line.define_platform()

_DISTRIBUTED = command_line.define_distributed()


def main(argv) -> None:
  del argv
  workdir = command_line.workdir()
  asked = {
    "--users": _USERS.value,
    "--history": _HISTORY.value,
    "--histories": _HISTORIES.value,
    "--all": _ALL.value or None,
  }
  given = [flag for flag, value in asked.items() if value is not None]
  if len(given) != 1:
    what = f"{' and '.join(given)} are given" if given else "nobody is asked for"
    raise UserError(f"{what}; give one of {', '.join(asked)}")
  users = histories = None
  if _USERS.value is not None:
    users = questions_lib.read_ids("users", _USERS.value)
  if _HISTORY.value is not None:
    histories = [(NEW, questions_lib.read_ids("history", _HISTORY.value))]
  if _HISTORIES.value is not None:
    histories = list(questions_lib.read_histories(_HISTORIES.value))
  allow, deny = (
    None if flag.value is None else questions_lib.read_ids(flag.name, flag.value)
    for flag in (_ALLOW, _DENY)
  )
  if _OUTPUT.value is not None:
    output_lib.check(_OUTPUT.value)
  elif _ALL.value:
    raise UserError("--all wants a place for its lists; give --output=FILE.parquet")
  devices.begin(_PLATFORM.value, _DISTRIBUTED.value)
  fields = {"data.dir": _DATA_DIR, "train.eval_batch_size": _BATCH_SIZE, **_DECODING}
  found = recommend(
    workdir,
    users=users,
    histories=histories,
    output=_OUTPUT.value,
    k=_K.value,
    exclude_seen=_EXCLUDE_SEEN.value,
    allow=allow,
    deny=deny,
    with_text=_TEXT.value,
    overrides=command_line.overrides(fields),
  )
  if found is not None:
    show(found, print)


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main))
