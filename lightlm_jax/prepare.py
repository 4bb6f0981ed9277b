"""Brings a log of any common form into the project's own.

python -m lightlm_jax.prepare --input=log.csv --output=DATA/shop
python -m lightlm_jax.train --config=configs/toys.py:small --config.data.dir=DATA \
  --config.data.name=shop --workdir=runs/shop

Every row that comes in is kept, or counted under the reason why it is not.
"""

import functools
import signal
import sys

from absl import flags
from etils import epath
import rich.console

from lightlm_jax import command_line
from lightlm_jax.preprocess import columns, files, pipeline, readers, times
from lightlm_jax.preprocess.sequences import DUPLICATES
from lightlm_jax.runtime.errors import Stopped, UserError
from lightlm_jax.storage import workdir as workdir_lib

_INPUT = flags.DEFINE_string(
  "input",
  None,
  "the log: a file, a glob or a folder (CSV, TSV, Parquet, JSON Lines, RecBole's "
  ".inter, MovieLens' .dat, sequences.txt; gzip too)",
)
_OUTPUT = command_line.define_output("the folder to make, such as DATA/shop")
_FORMAT = flags.DEFINE_enum("format", None, files.FORMATS, "default: by the names")
_ROLES = {
  role: flags.DEFINE_string(role, None, f"column of the {role}; default: by its name")
  for role in columns.ROLES
}
_COLUMNS = flags.DEFINE_list(
  "columns", None, "names of all columns, for files without a line of names"
)
_DELIMITER = flags.DEFINE_string("delimiter", None, "of columns; default: guessed")
_TIME_UNIT = flags.DEFINE_enum(
  "time_unit", None, list(times.UNITS), "default: guessed by the first times"
)
_MIN_RATING = flags.DEFINE_float("min_rating", None, "lower ratings are left out")
_DUPLICATES = flags.DEFINE_enum(
  "duplicates",
  "keep",
  DUPLICATES,
  "keep all, or one of each user, item and time (exact), or the first or last of each "
  "user and item",
)
_K_CORE = flags.DEFINE_integer(
  "k_core", 0, "users and items with fewer rows are left out, until none is", 0
)
_MIN_LEN = flags.DEFINE_integer("min_len", 1, "users with fewer rows are left out", 1)
_MAX_LEN = flags.DEFINE_integer(
  "max_len", 0, "rows of a user that stay, the last ones; 0 = all", 0
)
_ITEMS = flags.DEFINE_string(
  "items", None, "a file with a line for each item: title, brand, category, …"
)
_ITEMS_ID = flags.DEFINE_string("items_id", None, "its column of raw item ids")
_STRICT = flags.DEFINE_bool("strict", False, "stop at the first row that is rejected")
_WORK = flags.DEFINE_string(
  "work", None, "where to keep what is made on the way; default: beside the output"
)
_ENGINE = flags.DEFINE_enum(
  "engine", "one_machine", ["one_machine", "beam"], "what runs the steps"
)
_BEAM_OPTIONS = flags.DEFINE_string(
  "beam_options", "", "options of Beam's pipelines: --runner=FlinkRunner …"
)
_REPORT = command_line.define_report()


def main(argv) -> None:
  del argv
  if not _INPUT.value or not _OUTPUT.value:
    raise UserError(
      "give --input=LOG and --output=DATA/NAME, such as --input=log.csv "
      "--output=data/shop; --help lists the flags"
    )
  options = pipeline.Options(
    input=_INPUT.value,
    output=_OUTPUT.value,
    format=_FORMAT.value,
    names={role: flag.value for role, flag in _ROLES.items() if flag.value},
    columns=tuple(_COLUMNS.value) if _COLUMNS.value else None,
    delimiter=_delimiter(_DELIMITER.value),
    time_unit=_TIME_UNIT.value,
    min_rating=_MIN_RATING.value,
    duplicates=_DUPLICATES.value,
    k_core=_K_CORE.value,
    min_len=_MIN_LEN.value,
    max_len=_MAX_LEN.value,
    items=_ITEMS.value,
    items_id=_ITEMS_ID.value,
    strict=_STRICT.value,
    work=_WORK.value,
    engine=_ENGINE.value,
    beam_options=_BEAM_OPTIONS.value,
  )
  signal.signal(signal.SIGTERM, _stop)
  console = rich.console.Console()
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  report = pipeline.prepare(options, console, say)
  if _REPORT.value:
    workdir_lib.write_json(epath.Path(_REPORT.value), report)
  target = epath.Path(_OUTPUT.value)
  say(
    f"{target} is ready: --config.data.dir={target.parent} "
    f"--config.data.name={target.name}"
  )


def _stop(number, frame):
  """What was made on the way is removed, as after Ctrl-C."""
  del frame
  raise Stopped(number)


def _delimiter(text: str | None) -> str | None:
  """One character; a tab as people write it; or MovieLens' two colons."""
  text = {"\\t": "\t", "tab": "\t"}.get(text, text)
  if text in (None, readers.COLONS):
    return text
  if len(text.encode()) != 1 or text in '"\n\r':
    raise UserError(f"--delimiter={text!r} is not one character such as , or ; or ::")
  return text


if __name__ == "__main__":
  sys.exit(command_line.main(main))
