"""Positions that a CPU-second of training learns from: `best` beside `small`.

  LIGHTLM_DATA_DIR=DATA taskset -c 0 python results/accuracy/speed.py ml-1m

Both train in turns of ten steps, five turns each, in one process.
"""

from collections.abc import Callable
import sys
import time

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.config import WritesIds
from lightlm_jax.data import datasets, splits
from lightlm_jax.data.feed import Packs
from lightlm_jax.runs import context
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import registry
from lightlm_jax.systems.base import Trainable
from lightlm_jax.training import loop
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib

STEPS, TURNS = 10, 5


def trainer(log: str, preset: str) -> tuple[float, Callable[[], None]]:
  """Returns the mean number of positions of a step, and what trains `STEPS` more."""
  config = config_lib.load(log, preset)
  assert isinstance(config, WritesIds)
  dataset = datasets.load(config)
  split = splits.of_run(config, dataset.log)
  book = context.build_ids(config, dataset, split)
  built = registry.build(config.system, config, split.train, book)
  system, mesh = built.system, mesh_lib.make(1, 1)
  assert isinstance(system, Trainable)
  feed, plan = loop.make_feed(built, split.train, config)
  positions = float(config.train.batch_size)
  if isinstance(feed, Packs):
    positions *= np.mean(np.sum(feed.position_RH >= 0, axis=1))
  feed, tables = mesh_lib.put((feed, built.tables), mesh_lib.replicated(mesh))
  tx = state_lib.optimiser(config)
  abstract = loop.abstract_state(system, config, mesh)
  steps = step_lib.make_steps(system, tx, plan, mesh, config.seed, abstract)
  state = state_lib.create(system.init, tx, config.seed, abstract)
  stop, done = step_lib.stop_flags(False, mesh), 0

  def train() -> None:
    nonlocal state, done
    dispatch = step_lib.dispatch(plan, done, done + STEPS, STEPS)
    state, _ = jax.block_until_ready(steps(state, tables, feed, dispatch, stop))
    done += STEPS

  train()  # compiles
  return positions, train


def main() -> None:
  (log,) = sys.argv[1:]
  trainers = {preset: trainer(log, preset) for preset in ("best", "small")}
  for _ in range(TURNS):
    for preset, (positions, train) in trainers.items():
      began = time.process_time()
      train()
      seconds = (time.process_time() - began) / STEPS
      print(
        f"{log}:{preset}  {positions:,.0f} positions and {seconds:.4f} CPU-s a step, "
        f"{positions / seconds:,.0f} positions a CPU-second"
      )


if __name__ == "__main__":
  main()
