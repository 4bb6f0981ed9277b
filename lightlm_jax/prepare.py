"""Converts a log of any common format into the one that `train` reads.

python -m lightlm_jax.prepare --input=log.csv --output=DATA/shop

--duplicates=exact keeps one row per user, item and time, first and last one per user
and item, adjacent the first of rows of an item that follow each other.
"""

import sys
from typing import Any

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.preprocess import columns, files, times
from lightlm_jax.preprocess.pipeline import run
from lightlm_jax.preprocess.sequences import DUPLICATES, TIES

command_line.define("report", output="the folder to make, such as DATA/shop")
_FLAGS = [
  flags.DEFINE_string("input", None, "the log: a file, a glob, a folder"),
  flags.DEFINE_enum("format", None, files.FORMATS, "default: by the names"),
  flags.DEFINE_list("columns", None, "names of all columns, if no line has them"),
  flags.DEFINE_string("delimiter", None, "of columns; default: guessed"),
  flags.DEFINE_string("encoding", None, "of the log and --items; default: found"),
  flags.DEFINE_enum("time_unit", None, list(times.UNITS), "default: found"),
  flags.DEFINE_string("time_format", None, "of strptime, such as %d.%m.%Y"),
  flags.DEFINE_list("keep", None, "kinds of events that are kept, such as purchase"),
  flags.DEFINE_bool("yes", False, "take what the first rows propose, without asking"),
  flags.DEFINE_bool("explain", False, "say why each column was chosen"),
  flags.DEFINE_float("min_rating", None, "lower ratings are left out"),
  flags.DEFINE_enum("ties", "hash", [*TIES], "orders a user's rows of equal times"),
  flags.DEFINE_enum("duplicates", "keep", [*DUPLICATES], "which of repeated rows stay"),
  flags.DEFINE_integer("k_core", 0, "the fewest rows of a user and of an item", 0),
  flags.DEFINE_integer("min_len", 1, "users with fewer rows are left out", 1),
  flags.DEFINE_integer("max_len", 0, "last rows of a user that stay; 0 = all", 0),
  flags.DEFINE_string("items", None, "a file with a line an item: title, brand, …"),
  flags.DEFINE_string("items_id", None, "its column of raw item ids"),
  flags.DEFINE_bool("strict", False, "stop at the first row that is rejected"),
  flags.DEFINE_string("work", None, "for temporary files; default: beside the output"),
  flags.DEFINE_enum("engine", "one_machine", ["one_machine", "beam"], "runs the steps"),
  flags.DEFINE_string("beam_options", "", "of the engine: --runner=FlinkRunner …"),
]
_ROLES = {
  role: flags.DEFINE_string(role, None, f"column of the {role}; default: found")
  for role in columns.ROLES
}


def main(_) -> None:
  given: dict[str, Any] = {flag.name: flag.value for flag in _FLAGS}
  given["names"] = {role: flag.value for role, flag in _ROLES.items() if flag.value}
  command_line.write_report(run(output=FLAGS.output, **given))


if __name__ == "__main__":
  sys.exit(command_line.main(main))
