"""The console script `lightlm`: `lightlm train` runs lightlm_jax/train.py."""

import ast
import difflib
import pathlib
import runpy
import sys

from lightlm_jax import __version__
from lightlm_jax.runtime import stops
from lightlm_jax.runtime.errors import EXIT_CODE

COMMANDS = (
  *("train", "evaluate", "recommend", "report", "export"),
  *("prepare", "index", "audit", "sweep", "bench", "doctor"),
)
_CONFIG = "Prints every field of a configuration: lightlm config toys:small."


def main() -> int:
  """Runs the command named in sys.argv and returns its exit code."""
  stops.exit_at_once()
  name, *rest = sys.argv[1:] or [""]
  if name in ("help", "--help", "-h"):
    print(_usage())
  elif name == "--version":
    print(__version__)
  elif name == "config":
    # Any command with --config has --help-config; `index` is one.
    named = [f"--config={rest[0]}", *rest[1:]] if rest else []
    _run("index", [*named, "--help-config"])
  elif name in COMMANDS:
    _run(name, rest)
  else:
    close = difflib.get_close_matches(name, [*COMMANDS, "config"], 1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    what = f"there is no command {name!r}{guess}" if name else "no command"
    print(f"lightlm: error: {what}; lightlm --help lists them", file=sys.stderr)
    return EXIT_CODE
  return 0


def _run(name: str, arguments: list[str]) -> None:
  sys.argv[1:] = arguments
  # Not imported: the submodule would shadow the function lightlm_jax.train.
  runpy.run_module(f"lightlm_jax.{name}", run_name="__main__", alter_sys=True)


def _usage() -> str:
  lines = ["Trains generative recommenders in JAX: lightlm COMMAND --flag=value …", ""]
  about = {name: _about(name) for name in COMMANDS} | {"config": _CONFIG}
  lines += [f"  {name:10} {text}" for name, text in about.items()]
  return "\n".join([*lines, "", "lightlm COMMAND --help lists a command's flags."])


def _about(name: str) -> str:
  """Returns the first line of a command's docstring, without importing the command."""
  text = pathlib.Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")
  return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]


if __name__ == "__main__":
  sys.exit(main())
