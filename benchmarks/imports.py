"""Times the import of Recommender against that of the libraries it needs.

    python benchmarks/imports.py [ROUNDS]

The two imports alternate, each in a process of its own; the first round, which fills
the disk cache and writes bytecode, does not count. Prints one JSON object: the medians
in seconds and their ratio.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LIBRARIES = "import jax, flax, optax, polars"
RECOMMENDER = "from lightlm_jax import Recommender"


def seconds(statement: str) -> float:
  """Returns the wall time in seconds of a process that runs one statement."""
  path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
  environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
  start = time.perf_counter()
  subprocess.run([sys.executable, "-c", statement], env=environment, check=True)
  return time.perf_counter() - start


def measure(rounds: int) -> dict[str, float | int]:
  """Returns the medians over `rounds` rounds of both imports, and their ratio."""
  libraries, recommender = [], []
  for _ in range(rounds + 1):
    libraries.append(seconds(LIBRARIES))
    recommender.append(seconds(RECOMMENDER))
  base = statistics.median(libraries[1:])
  ours = statistics.median(recommender[1:])
  return {
    "rounds": rounds,
    "libraries_seconds": round(base, 3),
    "recommender_seconds": round(ours, 3),
    "ratio": round(ours / base, 3),
  }


if __name__ == "__main__":
  print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 5)))
