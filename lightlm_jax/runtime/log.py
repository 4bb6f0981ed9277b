"""The package's log: plain lines on stdout, written by the first process alone.

Modules write to `logging.getLogger(__name__)`. The commands, `lightlm_jax.train`,
`lightlm_jax.evaluate` and `Recommender` call `set_up`, which prints the lines unless
the program that calls them has given the logger "lightlm_jax" a handler of its own.

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

  A level that was set before is kept. Calling it again changes the stream alone.

  Args:
    stderr: prints there, where stdout is for something else, such as JSON.
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
  """The terminal that the log is printed on; bars that are drawn on it stay below."""
  return rich.console.Console()


def shows_bars() -> bool:
  """Whether progress bars are drawn: on a terminal, unless the log is silenced."""
  return (
    console().is_terminal
    and processes.is_first()
    and logging.getLogger(NAME).isEnabledFor(logging.INFO)
  )
