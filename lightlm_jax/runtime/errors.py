"""Errors that the user can fix: one line on stderr and exit code 2, no traceback."""

from collections.abc import Callable, Sequence
import os
import select
import signal
import sys

EXIT_CODE = 2
INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell reports Ctrl-C and SIGPIPE


def printable(text: str) -> str:
  """Returns the text with control characters replaced: raw ids can hold any."""
  return "".join(c if c.isprintable() else "\ufffd" for c in text)


def first_line(error: BaseException) -> str:
  """The reason of an error in one line; for a file, the operating system's."""
  text = str(getattr(error, "strerror", None) or error).strip()
  return text.partition("\n")[0].rstrip() or type(error).__name__


class UserError(Exception):
  """An error that the user can fix; one printable line says what, where and how."""

  def __init__(self, message: str):
    super().__init__(printable(" ".join(message.split())))


class Stopped(BaseException):
  """A signal asked this process to stop; the exit code is 128 + its number.

  Not an Exception, so that no handler of failures catches it.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.exit_code = 128 + number


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main(argv)` and returns the exit code.

  2 after a UserError, 130 after Ctrl-C as in a shell, 143 after SIGTERM in commands
  that save before they end, 141 if the reader of stdout, such as `head`, has left;
  otherwise what `main` returns.
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
      raise  # stdout has a reader: it was another pipe
    # Python flushes once more when it exits.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED
