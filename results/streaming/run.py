"""A log that grows to ten times its size on disk: does memory stay, does speed?

  python results/streaming/run.py --folder=/tmp/rows --output=streaming.jsonl

A made log of 20,000 items, 10 interactions a user, is written block by block into rows
of SASRec (packs of 50) and trained on from there, each in a process of its own, whose
most resident memory is told. The smallest is trained from the device too, in turns with
the disk, for the ratio. Folders that are there are not written again.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import time

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data import shards, stream
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import registry
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib

ITEMS, A_USER, BLOCK = 20_000, 10, 100_000  # users of a block
K = 10  # steps a dispatch


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--sizes", nargs="*", type=int, default=[10**7, 10**8])
  parser.add_argument("--dispatches", type=int, default=20)
  parser.add_argument("--part", choices=PARTS)  # of a process of its own
  flags = parser.parse_args()
  if flags.part:
    (size,) = flags.sizes
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = PARTS[flags.part](flags.folder / str(size), size, flags.dispatches)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    found["imports_mib"] = memory / 1024
    print(json.dumps({"part": flags.part, "interactions": size} | found))
    return
  with flags.output.open("a") as output:
    for size in flags.sizes:
      for part in PARTS:
        done = (flags.folder / str(size)).exists()
        if (part == "write" and done) or (part == "ratio" and size > min(flags.sizes)):
          continue
        options = [f"--part={part}", "--sizes", str(size)]
        options += [f"--dispatches={flags.dispatches}", f"--output={flags.output}"]
        command = [sys.executable, __file__, f"--folder={flags.folder}", *options]
        said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        line = said.stdout.splitlines()[-1]
        print(line, flush=True)
        output.write(line + "\n")


def block(number: int) -> Interactions:
  """A hundred thousand users of the log, and what each bought."""
  rng = np.random.default_rng(number)
  length_U = rng.geometric(1 / (A_USER - 2), BLOCK) + 2
  item_E = (ITEMS * rng.random(length_U.sum()) ** 2).astype(np.int32)
  return Interactions(
    offset_U1=np.concatenate([[0], np.cumsum(length_U)]),
    item_E=item_E,
    user_ids=np.arange(BLOCK),
    item_ids=np.arange(ITEMS),
  )


def write(folder: pathlib.Path, size: int, dispatches: int) -> dict:
  del dispatches
  config = settings()
  began = time.perf_counter()
  blocks = (block(n) for n in range(size // (A_USER * BLOCK)))
  about = shards.write(folder, (feed_of(config, log) for log in blocks))
  seconds = time.perf_counter() - began
  gigabytes = sum(file["bytes"] for file in about["files"]) / 1e9
  return {"rows": about["rows"], "gigabytes": gigabytes, "seconds": seconds}


def train(folder: pathlib.Path, size: int, dispatches: int) -> dict:
  del size
  rows = shards.Shards(folder)
  config = settings()
  plan = rows.plan(config.seed, config.train.batch_size)
  go = trainer(config, plan, stream.reader(rows, plan, mesh(), start=0, most=K))
  go(2)
  seconds = go(dispatches)
  return {"rows_per_second": dispatches * K * plan.batch_size / seconds}


def ratio(folder: pathlib.Path, size: int, dispatches: int) -> dict:
  """The disk's and the device's rows a second, by turns, on rows of as many."""
  config = settings()
  rows = shards.Shards(folder)
  plan = rows.plan(config.seed, config.train.batch_size)
  logs = [block(n) for n in range(size // (A_USER * BLOCK))]
  whole = Interactions(
    offset_U1=np.concatenate([[0], np.cumsum([log.length_U for log in logs])]),
    item_E=np.concatenate([log.item_E for log in logs]),
    user_ids=np.arange(BLOCK * len(logs)),
    item_ids=np.arange(ITEMS),
  )
  feed, own_plan = feed_of(config, whole)
  feed = jax.device_put(feed)
  ways = {
    "device": trainer(config, own_plan, lambda number: feed),
    "disk": trainer(config, plan, stream.reader(rows, plan, mesh(), start=0, most=K)),
  }
  seconds = dict.fromkeys(ways, 0.0)
  for turn in range(dispatches + 1):
    for name, go in ways.items():
      took = go(1)
      seconds[name] += took if turn else 0.0
  work = dispatches * K * plan.batch_size
  found = {f"{name}_rows_per_second": work / s for name, s in seconds.items()}
  return found | {"ratio": seconds["device"] / seconds["disk"]}


def settings() -> config_lib.RunConfig:
  return config_lib.load("sasrec")


def mesh() -> jax.sharding.Mesh:
  return mesh_lib.make(1, 1)


def feed_of(config, log: Interactions):
  return feed_lib.packs(
    log,
    seed=config.seed,
    batch_size=config.train.batch_size,
    width=config.input.history,
  )


def trainer(config, plan: feed_lib.Plan, read):
  """Takes so many dispatches and says how many seconds they took."""
  log = Interactions(np.zeros(1, int), np.zeros(0, np.int32), [], np.arange(ITEMS))
  system = registry.build(config.system, config, log, None).system
  tx = state_lib.optimiser(config)
  abstract = state_lib.abstract(system.init, tx, mesh())
  steps = step_lib.make_steps(system, tx, plan, mesh(), config.seed, abstract)
  state = state_lib.create(system.init, tx, config.seed, abstract)
  stop_requested_D = step_lib.stop_flags(False, mesh())
  step = 0

  def go(dispatches: int) -> float:
    nonlocal state, step
    began = time.perf_counter()
    for _ in range(dispatches):
      what = step_lib.dispatch(plan, step, step + K, K)
      state, report = steps(state, (), read(K), what, stop_requested_D)
      step += K
    jax.block_until_ready(report)
    return time.perf_counter() - began

  return go


PARTS = {"write": write, "train": train, "ratio": ratio}


if __name__ == "__main__":
  main()
