#!/usr/bin/env python3
"""Runs pyright and holds its errors, by folder, against a table of limits.

    .venv/bin/python .ci/typecheck.py            the folders over their limit
    .venv/bin/python .ci/typecheck.py --list     every error

Exit code 1 where a folder has more errors than its limit. `pip install '.[test]'`
brings pyright and the Node.js that it runs on; no other network is asked.
"""

import argparse
import collections
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
# The most errors in a folder of the package.
LIMITS = {
  "config": 0,
  "runtime": 0,
  "models": 0,
  "decoding": 0,
  "ids": 0,
  "systems": 0,
  "training": 0,
  "evaluation": 0,
  "inference": 0,
  "runs": 0,
}
# The most in all others together.
ELSEWHERE = 60


def pyright(python: str) -> list[dict]:
  """The errors that pyright reports under pyproject.toml's [tool.pyright]."""
  command = [python, "-m", "pyright", "--outputjson", "--pythonpath", python]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  try:
    report = json.loads(done.stdout)
  except ValueError:
    sys.exit(f"pyright did not run: {done.stdout}{done.stderr}")
  if not report["summary"]["filesAnalyzed"]:
    sys.exit("pyright found no file: is `include` of [tool.pyright] right?")
  return [d for d in report["generalDiagnostics"] if d["severity"] == "error"]


def folder(file: str) -> str:
  """The folder of the package that a file is in; files of the root have none."""
  parts = pathlib.Path(file).resolve().relative_to(ROOT).parts
  if parts[0] != "lightlm_jax":
    return parts[0]
  return parts[1] if len(parts) > 2 else "lightlm_jax"


def line(error: dict) -> str:
  """One error as file:line: message."""
  file = pathlib.Path(error["file"]).resolve().relative_to(ROOT)
  number = error["range"]["start"]["line"] + 1
  return f"{file}:{number}: {error['message'].splitlines()[0]}"


def main() -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--list", action="store_true", help="print every error")
  arguments = parser.parse_args()
  errors = collections.defaultdict(list)
  for error in pyright(sys.executable):
    errors[folder(error["file"])].append(line(error))
  over = [name for name, limit in LIMITS.items() if len(errors[name]) > limit]
  others = [name for name in errors if name not in LIMITS]
  elsewhere = sum(len(errors[name]) for name in others)
  if elsewhere > ELSEWHERE:
    over += others
  for name in sorted(errors):
    limit = LIMITS.get(name, "shared")
    print(f"{len(errors[name]):5}  {name} (limit {limit})")
  print(f"{elsewhere:5}  in all folders that share a limit (limit {ELSEWHERE})")
  for name in sorted(errors if arguments.list else over):
    print(*errors[name], sep="\n")
  if over:
    print(f"over the limit: {', '.join(sorted(over))}", file=sys.stderr)
  return 1 if over else 0


if __name__ == "__main__":
  sys.exit(main())
