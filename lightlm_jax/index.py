"""Builds the ids of a configuration and reports their quality.

python -m lightlm_jax.index --config=configs/toys.py --figure=ids.png

Nothing is trained, except the GCN of GCI ids.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.command_line import FLAGS
from lightlm_jax.reporting import drawing, ids_figure
from lightlm_jax.runs.index import export, index

command_line.define_config()
flags.DEFINE_string(
  "export", None, "raw ids and tokens to FILE.parquet, the users to FILE.users.parquet"
)
command_line.define("figure", "report")


def main(_) -> None:
  if FLAGS.figure:
    drawing.new(1, 1)  # fails now if there is no matplotlib
  report, book, log = index(command_line.config())
  command_line.write_report(report)
  if FLAGS.export:
    export(book, log, FLAGS.export)
  if FLAGS.figure:
    ids_figure.draw(report, book, FLAGS.figure)


if __name__ == "__main__":
  sys.exit(command_line.main(main))
