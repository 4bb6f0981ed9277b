"""What a user costs in the four arms of Lite-LLM4Rec's comparison, against k.

  LIGHTLM_DATA_DIR=DATA python results/lite/cost.py --history=50 --text_tokens=24

{hierarchical, flat} x {head, beam} on MovieLens-1M, at the shape of the configuration,
with parameters that nothing has learned: what an answer costs does not depend on them.
Milliseconds a user from requests to catalogue items, the host's part included.
"""

import argparse
import statistics
import time

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits, texts
from lightlm_jax.ids import build as ids_build
from lightlm_jax.inference import serve
from lightlm_jax.runtime import cache, devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import registry
from lightlm_jax.training import loop

ENDS = {"head": "lite_llm4rec", "beam": "lite_llm4rec_beam"}
TURNS = 5


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--history", type=int, default=50)
  parser.add_argument("--text_tokens", type=int, default=24)
  parser.add_argument("--users", nargs="*", type=int, default=[1, 64, 256])
  parser.add_argument("--k", nargs="*", type=int, default=[10, 50])
  flags = parser.parse_args()
  print(devices.describe())
  mesh = mesh_lib.make(-1, 1)
  heads = [f"{users} at once, k = {k}" for users in flags.users for k in flags.k]
  print(f"| ms a user | {' | '.join(heads)} |")
  print("| --- " * (1 + len(heads)) + "|")
  for source in ("hierarchical", "flat"):
    for end, system in ENDS.items():
      built, params, split = make(system, source, flags)
      cells = []
      for users in flags.users:
        served = serve.ready(built, params, mesh, users)
        requests = loop.sample(split.test, max(users, 24), 0)
        cells += [f"{cost(served, requests, users, k):.3f}" for k in flags.k]
      print(f"| {source}, {end} | {' | '.join(cells)} |", flush=True)


def make(system: str, source: str, flags: argparse.Namespace):
  """The system of an arm, parameters that it begins with, and the split."""
  fields = {
    "system": system,
    "model.source": source,
    "input.history": flags.history,
    "input.text_tokens": flags.text_tokens,
  }
  config = config_lib.load("lite_llm4rec", "ml-1m", fields)
  dataset = datasets.load(config)
  split = splits.make(config.split, dataset.log)
  book = None
  if isinstance(config, config_lib.WritesIds):
    folder = cache.cache_root() / "codes"
    book = ids_build.code_book(config.ids, split.train, config.seed, folder)
  _, tokens = texts.of_run(config, dataset.texts, dataset.attributes)
  built = registry.build(system, config, split.train, book, tokens)
  return built, built.system.init(jax.random.key(config.seed)), split


def cost(served: serve.Served, requests, users: int, k: int) -> float:
  """The median of some turns, in milliseconds a user; the turn that compiles apart."""
  times = []
  for _ in range(1 + TURNS):
    began = time.perf_counter()
    for first in range(0, len(requests), users):
      index_N = np.arange(first, min(first + users, len(requests)))
      serve.recommend(served, requests.take(index_N), k=k)
    times.append((time.perf_counter() - began) / len(requests) * 1e3)
  return statistics.median(times[1:])


if __name__ == "__main__":
  main()
