"""Runs commands in forks of one process, whose imports are made once."""

import atexit
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent

# Polars is not imported before the forks: its threads would be missing in them.
SERVER = """
import gc, json, os, runpy, signal, sys, warnings
import lightlm_jax.command_line, lightlm_jax.runs.train, sklearn.cluster

assert "polars" not in sys.modules
warnings.filterwarnings("ignore", message=".*fork")
gc.freeze()
for line in sys.stdin:
  module, arguments, cwd, environment, timeout, *paths = json.loads(line)
  if not (child := os.fork()):
    signal.alarm(timeout)
    for number, path in enumerate((os.devnull, *paths)):
      os.dup2(os.open(path, os.O_CREAT | os.O_RDWR), number)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
      runpy.run_path(module, run_name="__main__")
    else:
      runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run(module, *arguments, cwd=ROOT, env=None, timeout=600):
  """Returns what `python -m MODULE ARGUMENTS` does, as a CompletedProcess of text.

  A module that ends in .py is a file, as in `python FILE ARGUMENTS`. `env` is the whole
  environment, None = this process's; of what is read at import (JAX_PLATFORMS, for
  one), the first call's holds for all.
  """
  with tempfile.TemporaryDirectory() as folder:
    paths = [os.path.join(folder, name) for name in ("stdout", "stderr")]
    environment = dict(os.environ if env is None else env)
    asked = [module, arguments, os.fspath(cwd), environment, timeout, *paths]
    server = _server()
    print(json.dumps(asked), file=server.stdin, flush=True)
    code = int(server.stdout.readline())
    said = [pathlib.Path(path).read_text() for path in paths]
  return subprocess.CompletedProcess([module, *arguments], code, *said)


@functools.cache
def _server():
  server = subprocess.Popen(
    [sys.executable, "-c", SERVER],
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )
  atexit.register(server.kill)
  return server
