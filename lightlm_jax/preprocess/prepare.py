"""What the command `prepare` does: `pipeline.prepare` with values of flags."""

import logging
import signal
from typing import Any

from etils import epath

from lightlm_jax.preprocess import readers
from lightlm_jax.preprocess.pipeline import Options, prepare
from lightlm_jax.runtime import log
from lightlm_jax.runtime.errors import Stopped, UserError

logger = logging.getLogger(__name__)


def run(*, input: str | None, output: str | None, **given: Any) -> dict[str, Any]:
  """Brings a log into the project's own form.

  Args:
    input: see `Options`.
    output: likewise.
    **given: further fields of `Options`, as the command line gives them.

  Raises:
    UserError: one line that says what to change.
    Stopped: SIGTERM came; temporary files are removed, as after Ctrl-C.
  """
  if not input or not output:
    raise UserError(
      "give --input=LOG and --output=DATA/NAME, such as --input=log.csv "
      "--output=data/shop; --help lists the flags"
    )
  given["delimiter"] = _delimiter(given["delimiter"])
  given["columns"] = tuple(given["columns"]) if given["columns"] else None
  signal.signal(signal.SIGTERM, _stop)
  log.set_up()
  report = prepare(Options(input=input, output=output, **given))
  target = epath.Path(output)
  logger.info(
    f"{target} is ready: --config.data.dir={target.parent} "
    f"--config.data.name={target.name}"
  )
  return report


def _stop(number: int, frame: Any) -> None:
  del frame
  raise Stopped(number)


def _delimiter(text: str | None) -> str | None:
  """One character; a tab as people write it; or MovieLens' two colons."""
  if text is None:
    return None
  text = {"\\t": "\t", "tab": "\t"}.get(text, text)
  if text == readers.COLONS:
    return text
  if len(text.encode()) != 1 or text in '"\n\r':
    raise UserError(f"--delimiter={text!r} is not one character such as , or ; or ::")
  return text
