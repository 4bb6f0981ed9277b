"""A person's mistakes: one line on stderr, exit code 2. A traceback is for our bugs."""

from collections.abc import Callable, Sequence
import signal
import sys

EXIT_CODE = 2
INTERRUPTED = 130  # as a shell reports Ctrl-C


def printable(text: str) -> str:
  """Text that does nothing to a terminal: ids come from anywhere."""
  return "".join(c if c.isprintable() else "\ufffd" for c in text)


class UserError(Exception):
  """Something the person at the keyboard can mend: what, where, what to do.

  Always one line that can be shown, whatever names of files and columns are part of it.
  """

  def __init__(self, message: str):
    super().__init__(printable(" ".join(message.split())))


class Stopped(BaseException):
  """Somebody told this process to end. Its exit code is 128 and the signal's number.

  Not an Exception, so that nothing takes it for a failure of its own.
  """

  def __init__(self, number: int):
    super().__init__(signal.Signals(number).name)
    self.exit_code = 128 + number


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main(argv)`; returns what it does, 2 after one line, or a signal's code.

  130 after Ctrl-C, as in a shell; where the command saves before it ends, 143 after
  SIGTERM.
  """
  try:
    return main(argv) or 0
  except UserError as error:
    print(f"lightlm_jax: error: {error}", file=sys.stderr, flush=True)
    return EXIT_CODE
  except (KeyboardInterrupt, Stopped) as stop:
    name = str(stop) or "Ctrl-C"
    print(f"lightlm_jax: stopped by {name}; start again to resume", file=sys.stderr)
    return stop.exit_code if isinstance(stop, Stopped) else INTERRUPTED
