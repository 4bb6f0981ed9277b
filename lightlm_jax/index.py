"""Builds the ids of a configuration and reports their quality.

python -m lightlm_jax.index --config=configs/toys.py --figure=ids.png

Nothing is trained.
"""

import sys

from absl import flags

from lightlm_jax import command_line
from lightlm_jax.reporting import ids_figure
from lightlm_jax.runs.index import export, index

command_line.define_config()
_EXPORT = flags.DEFINE_string(
  "export", None, "raw ids and tokens to FILE.parquet, the users to FILE.users.parquet"
)
_FIGURE = command_line.define_figure()
command_line.define_report()


def main(argv) -> None:
  del argv
  if _FIGURE.value:
    ids_figure.check()
  report, book, log = index(command_line.config())
  command_line.write_report(report)
  if _EXPORT.value:
    export(book, log, _EXPORT.value)
  if _FIGURE.value:
    ids_figure.draw(report, book, _FIGURE.value)


if __name__ == "__main__":
  sys.exit(command_line.main(main))
