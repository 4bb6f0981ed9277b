#!/usr/bin/env python3
"""Runs pyright and holds its errors, by folder, against a table of limits.

    .venv/bin/python .ci/typecheck.py            all folders
    .venv/bin/python .ci/typecheck.py --list     with every error, not only those over a limit

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
# No error at all in these folders of the package.
CLEAN = ("config", "runtime", "models", "decoding", "ids", "systems")
CLEAN += ("training", "evaluation", "inference", "runs")
# At most so many in all others together.
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
  over = [name for name in CLEAN if errors[name]]
  others = [name for name in errors if name not in CLEAN]
  elsewhere = sum(len(errors[name]) for name in others)
  if elsewhere > ELSEWHERE:
    over += others
  for name in sorted(errors):
    if errors[name]:
      limit = "limit 0" if name in CLEAN else "counted together"
      print(f"{len(errors[name]):5}  {name} ({limit})")
  print(f"{elsewhere:5}  outside the typed folders (limit {ELSEWHERE})")
  for name in sorted(errors if arguments.list else over):
    print(*errors[name], sep="\n")
  if over:
    print(f"over the limit: {', '.join(sorted(over))}", file=sys.stderr)
  return 1 if over else 0


if __name__ == "__main__":
  sys.exit(main())
