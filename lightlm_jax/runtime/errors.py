"""Errors that the user can fix: a line on stderr and exit code 2, without traceback."""

from collections.abc import Callable, Sequence
import os
import select
import signal
import sys

EXIT_CODE = 2
INTERRUPTED, PIPE_CLOSED = 130, 141  # exit codes in a shell after Ctrl-C and SIGPIPE


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


class Stopped(BaseException):
  """Raised if a signal asks this process to stop; `exit_code` is 128 + signal number.

  It is not an Exception, so that `except Exception` does not catch it.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.exit_code = 128 + number


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main(argv)` and returns the exit code.

  The code is 2 after a UserError, 130 after Ctrl-C, 143 after SIGTERM in commands that
  handle it, and 141 if the reader of stdout, such as `head`, has closed the pipe.
  Otherwise it is what `main` returns, with 0 for None.
  """
  try:
    code = main(argv) or 0
    sys.stdout.flush()
    return code
  except UserError as error:
    print(f"lightlm_jax: error: {error}", file=sys.stderr, flush=True)
    return EXIT_CODE
  except (KeyboardInterrupt, Stopped) as stop:
    name = str(stop) or "Ctrl-C"
    print(f"lightlm_jax: stopped by {name}; start again to resume", file=sys.stderr)
    return stop.exit_code if isinstance(stop, Stopped) else INTERRUPTED
  except BrokenPipeError:
    poll = select.poll()
    poll.register(sys.stdout, 0)
    if not poll.poll(0):
      raise  # stdout still has a reader, so another pipe was closed
    # Python flushes stdout again when it exits, which must not fail.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED
