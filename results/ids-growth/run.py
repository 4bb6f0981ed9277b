"""Time and memory of the ids against the size of the log: SCI, and GCI's two halves.

  python results/ids-growth/run.py --output=growth.jsonl

Made logs, as many users as items, 20 interactions a user, each step in a process of its
own. `sci-hubs` is SCI of a log with items that everybody buys. `gci-epoch` is one epoch
of the GCN (of up to 60; at most 32 steps) and the judging after it; `gci-quantise` is
K-Means of its vectors and the codes. A line of JSON each.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

from lightlm_jax.config.data_groups import Gcn, Ids
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import codes, gcn_training, quantise, spectral

SIZES = (10_000, 31_623, 100_000, 316_228, 1_000_000)
STEPS = ("sci", "sci-hubs", "gci-epoch", "gci-quantise")
PER_USER = 20
PER_COMMUNITY = 200  # users, and items
LOYALTY = 0.7  # share of a user's items that are her community's
HUBS = 0.2  # of `sci-hubs`: share that is drawn by Zipf's law from the whole catalogue


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--sizes", nargs="*", type=int, default=SIZES)
  parser.add_argument("--steps", nargs="*", choices=STEPS, default=STEPS)
  parser.add_argument("--one", action="store_true", help="in this process")
  flags = parser.parse_args()
  for size in flags.sizes:
    for step in flags.steps:
      if flags.one:
        line = json.dumps(measure(step, size))
        print(line, flush=True)
        with flags.output.open("a") as file:
          file.write(line + "\n")
      else:
        command = [sys.executable, __file__, f"--output={flags.output}", "--one"]
        subprocess.run([*command, f"--sizes={size}", f"--steps={step}"], check=True)


def measure(step: str, size: int) -> dict:
  """Seconds, CPU-seconds and the most memory, made log included."""
  log = made_log(size, seed=0, hubs=HUBS if step == "sci-hubs" else 0)
  wall, cpu = time.monotonic(), time.process_time()
  if step.startswith("sci"):
    config = Ids(branching=50, leaf_size=100, levels=10, tokens="level")
    ids = spectral.spectral_ids(log, config, seed=0)
  elif step == "gci-epoch":
    gcn_training.embeddings(log, Gcn(epochs=1), seed=0)
    ids = None
  else:
    vector_ND = np.random.default_rng(0).standard_normal((2 * size, 64), np.float32)
    label_NL = quantise.product(vector_ND, 4, 256, seed=0)
    ids = quantise.codes(label_NL, size, 256, seed=0)
  seconds = time.monotonic() - wall
  found = {
    "step": step,
    "items": size,
    "users": size,
    "interactions": len(log.item_E),
    "seconds": round(seconds, 1),
    "cpu_seconds": round(time.process_time() - cpu, 1),
    "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
  }
  if ids is not None:
    book = codes.code_book(*ids, {})
    found |= {"longest": book.items_IL.shape[1], "vocab_size": book.vocab_size}
  return found


def made_log(size: int, seed: int, hubs: float) -> Interactions:
  """Users of hidden communities who mostly buy their own items, popular ones more.

  `hubs` of the purchases are of items that everybody buys, the item of rank r in
  proportion to 1 / r.
  """
  rng = np.random.default_rng(seed)
  communities = max(1, size // PER_COMMUNITY)
  home_E = np.repeat(rng.integers(communities, size=size), PER_USER)
  away_E = rng.integers(communities, size=len(home_E))
  community_E = np.where(rng.random(len(home_E)) < LOYALTY, home_E, away_E)
  # The square of a uniform number: a few items of each community are in most baskets.
  place_E = (PER_COMMUNITY * rng.random(len(home_E)) ** 2).astype(np.int64)
  item_E = (community_E * PER_COMMUNITY + place_E) % size
  rank_E = np.exp(rng.random(len(home_E)) * np.log(size)).astype(np.int64)
  # Ranks are spread over the catalogue: a hub is no community's.
  item_E = np.where(rng.random(len(home_E)) < hubs, rank_E * 7919 % size, item_E)
  return Interactions(
    offset_U1=np.arange(size + 1, dtype=np.int64) * PER_USER,
    item_E=item_E.astype(np.int32),
    user_ids=np.arange(size).astype(str),
    item_ids=np.arange(size).astype(str),
  )


if __name__ == "__main__":
  main()
