"""Builds the ids of a configuration and says what they are worth, training nothing.

python -m lightlm_jax.index --config=configs/toys.py --figure=ids.png
"""

import sys

from absl import flags
from etils import epath
import ml_collections

from lightlm_jax import command_line
from lightlm_jax.reporting import drawing as figures
from lightlm_jax.runs.index import draw, export, index
from lightlm_jax.storage import workdir as workdir_lib

_CONFIG = command_line.define_config()

_EXPORT = flags.DEFINE_string(
  "export",
  None,
  "raw ids and tokens to FILE.parquet, the users to FILE.users.parquet",
)

_FIGURE = command_line.define_figure()

_REPORT = command_line.define_report()


def main(argv) -> None:
  del argv
  config = ml_collections.FrozenConfigDict(_CONFIG.value)
  if _FIGURE.value:
    figures.new(1, 1)  # what cannot be drawn is no surprise for the end
  report, book, log = index(config)
  if _REPORT.value:
    workdir_lib.write_json(epath.Path(_REPORT.value), report)
  if _EXPORT.value:
    export(book, log, epath.Path(_EXPORT.value))
  if _FIGURE.value:
    draw(report, book, epath.Path(_FIGURE.value))


if __name__ == "__main__":
  sys.exit(command_line.main(main))
