"""The package's log: plain lines on stdout, written by the first process alone.

The commands, `lightlm_jax.train`, `lightlm_jax.evaluate` and `Recommender` call
`set_up`, which prints the lines unless the logger "lightlm_jax" has a handler already.

Silence:  logging.getLogger("lightlm_jax").setLevel(logging.ERROR)
Lines in the program's own log instead of on stdout, before the first call:
          logging.getLogger("lightlm_jax").addHandler(logging.NullHandler())
"""

import functools
import logging

import rich.console

from lightlm_jax.runtime import processes

NAME = "lightlm_jax"


class _Handler(logging.Handler):
  """Prints the message alone; a warning is marked as one."""

  def emit(self, record: logging.LogRecord) -> None:
    try:
      if not processes.is_first():
        return
      line = self.format(record)
      if record.levelno >= logging.WARNING:
        line = f"warning: {line}"
      console().print(line, highlight=False, soft_wrap=True, markup=False)
    except Exception:
      self.handleError(record)


def set_up(*, stderr: bool = False) -> None:
  """Prints the package's log, unless its logger already has a handler.

  A level that was set before is kept. A second call changes only the stream.
  """
  logger = logging.getLogger(NAME)
  console().stderr = stderr
  if logger.handlers:
    return
  logger.addHandler(_Handler())
  if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)
  # Or a handler of the root logger, such as absl's, prints every line again.
  logger.propagate = False


@functools.cache
def console() -> rich.console.Console:
  """The terminal of the log; progress bars on it stay below its lines."""
  return rich.console.Console()


def shows_bars() -> bool:
  """Whether progress bars are drawn: on a terminal, unless the log is silenced."""
  return (
    console().is_terminal
    and processes.is_first()
    and logging.getLogger(NAME).isEnabledFor(logging.INFO)
  )
