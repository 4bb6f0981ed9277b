"""A person's mistakes: one line on stderr, exit code 2. A traceback is for our bugs."""

from collections.abc import Callable, Sequence
import sys

EXIT_CODE = 2
INTERRUPTED = 130  # as a shell reports Ctrl-C


class UserError(Exception):
  """Something the person at the keyboard can mend: what, where, what to do."""


def run(main: Callable[[Sequence[str]], int | None], argv: Sequence[str]) -> int:
  """Calls `main(argv)`; returns what it does, 2 after one line, or 130 on Ctrl-C."""
  try:
    return main(argv) or 0
  except UserError as error:
    message = " ".join(str(error).split())
    print(f"lightlm_jax: error: {message}", file=sys.stderr, flush=True)
    return EXIT_CODE
  except KeyboardInterrupt:
    print("lightlm_jax: interrupted; start again to resume", file=sys.stderr)
    return INTERRUPTED
