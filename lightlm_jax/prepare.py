"""Converts a log of any common format into the one that `train` reads.

python -m lightlm_jax.prepare --input=log.csv --output=DATA/shop

Rows that are left out are counted by reason. --duplicates=exact keeps one row per user,
item and time; `first` and `last` keep one per user and item.
"""

import sys
from typing import Any

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.preprocess import columns, files, times
from lightlm_jax.preprocess.pipeline import run
from lightlm_jax.preprocess.sequences import DUPLICATES

command_line.define("report", output="the folder to make, such as DATA/shop")
_FLAGS = [
  flags.DEFINE_string(
    "input",
    None,
    "the log: a file, a glob or a folder, with its NAME=VALUE folders (CSV, TSV, "
    "Parquet, JSON Lines, .inter, .dat, sequences.txt; .gz, .bz2, .zst, .zip too)",
  ),
  flags.DEFINE_enum("format", None, files.FORMATS, "default: by the names"),
  flags.DEFINE_list("columns", None, "names of all columns, if no line has them"),
  flags.DEFINE_string("delimiter", None, "of columns; default: guessed"),
  flags.DEFINE_string("encoding", None, "of the log and --items; default: guessed"),
  flags.DEFINE_enum("time_unit", None, list(times.UNITS), "default: guessed"),
  flags.DEFINE_float("min_rating", None, "lower ratings are left out"),
  flags.DEFINE_enum("duplicates", "keep", [*DUPLICATES], "rows that are kept"),
  flags.DEFINE_integer(
    "k_core", 0, "users and items with fewer rows are left out, until none is", 0
  ),
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
  role: flags.DEFINE_string(role, None, f"column of the {role}; default: by its name")
  for role in columns.ROLES
}


def main(_) -> None:
  given: dict[str, Any] = {flag.name: flag.value for flag in _FLAGS}
  given["names"] = {role: flag.value for role, flag in _ROLES.items() if flag.value}
  command_line.write_report(run(output=FLAGS.output, **given))


if __name__ == "__main__":
  sys.exit(command_line.main(main))
