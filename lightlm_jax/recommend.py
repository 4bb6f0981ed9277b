"""Recommends items with a trained run: raw ids in, raw ids out.

python -m lightlm_jax.recommend --workdir=runs/toys --users=A1,A2
python -m lightlm_jax.recommend --workdir=runs/toys --history=B00X,B00Y
python -m lightlm_jax.recommend --workdir=runs/toys --all --output=recs.parquet

The history of a user of the log includes the held-out items. The output has the columns
user, rank, item, score. Repeat a killed command with --output to resume it.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.inference.queries import read_optional_ids
from lightlm_jax.runs.recommend import read_users, recommend, show
from lightlm_jax.runtime import devices

command_line.define(
  *("k", *command_line.DECODING, "batch_size", "data_dir", "strict"),
  *("platform", "distributed"),
  workdir="a run that `train` left",
  users="of the log: A,B or a file with one in each line",
  output="FILE.parquet, .csv or .jsonl; without it a table is printed",
)
flags.DEFINE_string("history", None, "of a new user, oldest first: X,Y")
flags.DEFINE_string(
  "histories",
  None,
  'a file of lines {"user": …, "history": […]}, oldest first, or a prepared log',
)
flags.DEFINE_bool("all", False, "every user of the log; with --output")
flags.DEFINE_bool("exclude_seen", True, "exclude items of a user's history")
flags.DEFINE_string("allow", None, "the only items: X,Y or a file of them")
flags.DEFINE_string("deny", None, "items that are not recommended: likewise")
flags.DEFINE_bool("text", False, "the items' titles as one more column")
flags.DEFINE_bool(
  "csv_safe", False, "ids like =1+2 get an apostrophe, for spreadsheets"
)


def main(_) -> None:
  f, workdir = FLAGS, command_line.workdir()
  users, histories = read_users(f.users, f.history, f.histories, f.all, f.output)
  options = {"users": users, "histories": histories, "with_text": f.text}
  options |= {name: f[name].value for name in ("output", "k", "exclude_seen")}
  options |= {name: f[name].value for name in ("strict", "csv_safe")}
  for name in ("allow", "deny"):
    options[name] = read_optional_ids(name, f[name].value)
  devices.begin(f.platform, f.distributed)
  show(recommend(workdir, overrides=command_line.overrides(), **options))


if __name__ == "__main__":
  sys.exit(command_line.main(main))
