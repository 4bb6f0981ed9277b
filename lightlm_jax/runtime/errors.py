"""Errors that the user can fix: a line on stderr and exit code 2, without traceback."""

from collections.abc import Callable, Sequence
import errno
import os
import select
import signal
import sys

EXIT_CODE = 2
PIPE_CLOSED = 141  # exit code in a shell after SIGPIPE
_SHOWN = 80  # characters of a name that is too long


def printable(text: str) -> str:
  """Replaces unprintable characters (control characters in raw ids) by U+FFFD."""
  return "".join(c if c.isprintable() else "\ufffd" for c in text)


def first_line(error: BaseException) -> str:
  """Returns the first line of an error's message; for an OSError, without the path."""
  text = str(getattr(error, "strerror", None) or error).strip()
  return text.partition("\n")[0].rstrip() or type(error).__name__


class UserError(Exception):
  """An error that the user can fix; its one line says what is wrong and what to do."""

  def __init__(self, message: str):
    super().__init__(printable(" ".join(message.split())))


def signal_name(number: int) -> str:
  """Returns the name of a signal as messages have it."""
  return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def stopped_line(number: int) -> str:
  """Returns the line of a command that signal `number` has stopped."""
  return f"lightlm_jax: stopped by {signal_name(number)}; start again to resume"


class Stopped(BaseException):
  """Raised if a signal asks this process to stop; `exit_code` is 128 + signal number.

  It is not an Exception, so that `except Exception` does not catch it.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.number, self.exit_code = number, 128 + number


def _refuse(error: UserError) -> int:
  print(f"lightlm_jax: error: {error}", file=sys.stderr, flush=True)
  return EXIT_CODE


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main(argv)` and returns the exit code.

  The code is 2 after a UserError, 130 after Ctrl-C, 143 after SIGTERM, and 141 if the
  reader of stdout, such as `head`, has closed the pipe.
  Otherwise it is what `main` returns, with 0 for None.
  """
  try:
    code = main(argv) or 0
    sys.stdout.flush()
    return code
  except UserError as error:
    return _refuse(error)
  except (KeyboardInterrupt, Stopped) as stop:
    number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
    print(stopped_line(number), file=sys.stderr, flush=True)
    return 128 + number
  except BrokenPipeError:
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not poll.poll(0):
      raise  # stdout still has a reader, so another pipe was closed
    # Python flushes stdout again when it exits, which must not fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED
  except OSError as error:
    if error.errno != errno.ENAMETOOLONG:
      raise
    name = str(error.filename)[:_SHOWN]
    return _refuse(UserError(f"{name} … is too long for a name; give a shorter one"))
