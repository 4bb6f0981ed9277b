"""The package's log: plain lines on stdout, printed only by the first process.

`lightlm_jax.train`, `lightlm_jax.evaluate`, `Recommender` and all commands call
`set_up`. It adds a printing handler unless the logger "lightlm_jax" has a handler.

To silence the log:
          logging.getLogger("lightlm_jax").setLevel(logging.ERROR)
To have the lines in your program's own log instead, first call:
          logging.getLogger("lightlm_jax").addHandler(logging.NullHandler())
"""

import functools
import logging

import rich.console

from lightlm_jax.runtime import errors, processes

NAME = "lightlm_jax"


class _Handler(logging.Handler):
  """Prints messages without time or level; warnings begin with "warning: "."""

  def emit(self, record: logging.LogRecord) -> None:
    try:
      if not processes.is_first():
        return
      line = self.format(record)
      if record.levelno >= logging.WARNING:
        line = f"warning: {line}"
      # Raw ids and titles may hold control characters.
      line = "\n".join(map(errors.printable, line.split("\n")))
      console().print(line, highlight=False, soft_wrap=True, markup=False)
    except Exception:
      self.handleError(record)


def set_up(*, stderr: bool = False) -> None:
  """Starts printing the package's log on stdout, or on stderr if `stderr`.

  If the logger already has a handler, only the stream of our handler changes. Otherwise
  the logger gets a handler, and the level INFO unless a level was set before.
  """
  logger = logging.getLogger(NAME)
  console().stderr = stderr
  if logger.handlers:
    return
  logger.addHandler(_Handler())
  if logger.level == logging.NOTSET:
    logger.setLevel(logging.INFO)
  # Otherwise a handler of the root logger, such as absl's, would print lines twice.
  logger.propagate = False


@functools.cache
def console() -> rich.console.Console:
  """Returns the log's console; progress bars use it too, to stay below the log."""
  return rich.console.Console()


def shows_bars() -> bool:
  """Returns whether bars are shown: by the first process, on a terminal, at INFO."""
  return (
    console().is_terminal
    and processes.is_first()
    and logging.getLogger(NAME).isEnabledFor(logging.INFO)
  )
