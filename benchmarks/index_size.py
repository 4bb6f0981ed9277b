"""Measures size, build time and peak memory of the trie.

python -m lightlm_jax.benchmarks.index_size CODES.npy VOCAB_SIZE REPEATS prints one
JSON object. Each catalogue has a process of its own, to measure its own peak memory.
"""

from collections.abc import Sequence
import json
import logging
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import numpy as np

from lightlm_jax.benchmarks import catalogue, ours, transition
from lightlm_jax.decoding import trie as trie_lib

logger = logging.getLogger(__name__)

DEPTH = 4


def run(sizes: Sequence[int], repeats: int) -> list[dict[str, Any]]:
  """Builds a random trie of each size `repeats` times; prints and returns results."""
  logger.info(f"index, depth {DEPTH}, vocabulary {transition.VOCAB_SIZE:,}")
  heads = ("items", "MB", "MB a million", "lists, MB", "build, s", "peak, MB more")
  logger.info("".join(f"{head:>15}" for head in heads))
  rows = []
  for size in sizes:
    code_IL = catalogue.random_codes(size, transition.VOCAB_SIZE, DEPTH)
    rows.append({"items": size} | _in_a_process(code_IL, repeats))
    row = rows[-1]
    cells = (
      f"{size:,}",
      f"{row['bytes'] / 1e6:,.2f}",
      f"{row['bytes_a_million'] / 1e6:,.2f}",
      f"{row['list_bytes'] / 1e6:,.2f}",
      f"{row['seconds']:,.2f}",
      f"{row['peak_bytes'] / 1e6:,.0f}",
    )
    logger.info("".join(f"{cell:>15}" for cell in cells))
  return rows


def build(code_IL: np.ndarray, vocab_size: int, repeats: int) -> dict[str, Any]:
  """Builds the trie of `code_IL` `repeats` times in this process, and measures it.

  Returns:
    bytes and bytes_a_million (per million items), list_bytes (without the masks),
    seconds of the fastest build, and peak_bytes, the growth of its peak memory.
  """
  before = _peak_rss()
  seconds = []
  for _ in range(repeats):
    began = time.perf_counter()
    trie, _ = trie_lib.build(code_IL, vocab_size, ours.TRIE_BYTES)
    seconds.append(time.perf_counter() - began)
  masks = sum(
    level.mask_NW.nbytes for level in trie.levels if level.mask_NW is not None
  )
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(trie))
  return {
    "bytes": size,
    "bytes_a_million": 1e6 * size / len(code_IL),
    "list_bytes": size - masks,
    "seconds": min(seconds),
    "peak_bytes": _peak_rss() - before,
  }


def _in_a_process(code_IL: np.ndarray, repeats: int) -> dict[str, Any]:
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / "codes.npy"
    np.save(path, code_IL)
    command = [sys.executable, "-m", "lightlm_jax.benchmarks.index_size", str(path)]
    done = subprocess.run(
      [*command, str(transition.VOCAB_SIZE), str(repeats)],
      # The calling process holds the accelerator, if any.
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
  return json.loads(done.stdout.splitlines()[-1])


def _peak_rss() -> int:
  """Returns the peak memory of this process in bytes."""
  # On Linux, getrusage would include the pages of the parent before the child's exec.
  status = pathlib.Path("/proc/self/status")
  if status.exists():
    (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return peak if sys.platform == "darwin" else 1024 * peak


if __name__ == "__main__":
  print(
    json.dumps(build(np.load(sys.argv[1], allow_pickle=False), *map(int, sys.argv[2:])))
  )
