"""Recommends items with a trained run: raw ids in, raw ids out.

python -m lightlm_jax.recommend --workdir=runs/toys --users=A1,A2
python -m lightlm_jax.recommend --workdir=runs/toys --history=B00X,B00Y
python -m lightlm_jax.recommend --workdir=runs/toys --all --output=recs.parquet

A known user's history is everything in the log, the held-out items too. An output has
the columns user, rank, item, score; after a kill the same command resumes it.
"""

import sys

from absl import flags
import jax

from lightlm_jax import command_line
from lightlm_jax.inference.queries import read_optional_ids
from lightlm_jax.runs.recommend import read_users, recommend, show
from lightlm_jax.runtime import devices

command_line.define_workdir("a run that `train` left")
_USERS = command_line.define_users("of the log: A,B or a file with one in each line")
_HISTORY = flags.DEFINE_string("history", None, "of a new user, oldest first: X,Y")
_HISTORIES = flags.DEFINE_string(
  "histories", None, 'a file of lines {"user": …, "history": […]}, oldest first'
)
_ALL = flags.DEFINE_bool("all", False, "every user of the log; with --output")
_OUTPUT = command_line.define_output(
  "FILE.parquet, .csv or .jsonl; without it a table is printed"
)
_K = command_line.define_k()
_SEEN = flags.DEFINE_bool("exclude_seen", True, "exclude items of a user's history")
_ALLOW = flags.DEFINE_string("allow", None, "the only items: X,Y or a file of them")
_DENY = flags.DEFINE_string("deny", None, "items that are not recommended: likewise")
_TEXT = flags.DEFINE_bool("text", False, "the items' titles as one more column")
_DECODING = command_line.define_decoding()
_BATCH_SIZE = command_line.define_batch_size()
_DATA_DIR = command_line.define_data_dir()
_PLATFORM = command_line.define_platform()
_DISTRIBUTED = command_line.define_distributed()


def main(argv) -> None:
  del argv
  workdir, output, fields = command_line.workdir(), _OUTPUT.value, dict(_DECODING)
  fields |= {"data.dir": _DATA_DIR, "train.eval_batch_size": _BATCH_SIZE}
  given = _USERS.value, _HISTORY.value, _HISTORIES.value, _ALL.value
  users, histories = read_users(*given, output)
  options = {"k": _K.value, "exclude_seen": _SEEN.value, "with_text": _TEXT.value}
  for flag in (_ALLOW, _DENY):
    options[flag.name] = read_optional_ids(flag.name, flag.value)
  devices.begin(_PLATFORM.value, _DISTRIBUTED.value)
  options["overrides"] = command_line.overrides(fields)
  show(recommend(workdir, users=users, histories=histories, output=output, **options))


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main))
