"""Times a training step and a search of the arms' d_ff, turn by turn in one process.

  LIGHTLM_DATA_DIR=DATA python results/remove-one/time_steps.py runs/remove-one

Prints the best of several rounds and the ratio to d_ff 16: ratios hold on a shared
machine where seconds do not.
"""

import pathlib
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data import batch as batch_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.runtime import devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import registry
from lightlm_jax.training import loop
from lightlm_jax.training import state as state_lib
from lightlm_jax.training import step as step_lib

D_FF = (16, 64, 512, 2048)
ROUNDS, STEPS = 6, 4
USERS = 128


def main(folder: pathlib.Path) -> None:
  devices.enable_compilation_cache()
  mesh = mesh_lib.make(1, 1)
  ready = {d_ff: prepare(folder / f"toys-sci-{d_ff}-0", mesh) for d_ff in D_FF}
  seconds = {d_ff: {"step": [], "search": []} for d_ff in D_FF}
  for _ in range(ROUNDS):
    for d_ff, (step, search) in ready.items():
      began = time.perf_counter()
      for _ in range(STEPS):
        step()
      seconds[d_ff]["step"].append((time.perf_counter() - began) / STEPS)
      began = time.perf_counter()
      search()
      seconds[d_ff]["search"].append((time.perf_counter() - began) / USERS)
  first = {name: min(times) for name, times in seconds[D_FF[0]].items()}
  print("| d_ff | ms a step | ratio | ms a user, beam 20 | ratio |")
  print("| --- " * 5 + "|")
  for d_ff, both in seconds.items():
    step, search = min(both["step"]), min(both["search"])
    print(
      f"| {d_ff} | {1e3 * step:.0f} | {step / first['step']:.2f} "
      f"| {1e3 * search:.2f} | {search / first['search']:.2f} |"
    )


def prepare(run: pathlib.Path, mesh: jax.sharding.Mesh):
  """A compiled training step and a compiled search of one arm, as calls that block."""
  workdir, config = workdir_lib.read(run)
  split = splits.leave_one_out(datasets.load(config).log)
  book = codes_lib.load(workdir / "codes")
  built = registry.build(config.system, config, split.train, book)
  system, tables = built.system, jax.device_put(built.tables)
  tx = state_lib.optimiser(config)
  feed, plan = loop.make_feed(built, split.train, config)
  abstract = state_lib.abstract(system.init, tx, mesh)
  steps_fn = step_lib.make_steps(system, tx, plan, mesh, config.seed, abstract)
  held = {"state": state_lib.create(system.init, tx, config.seed, abstract)}
  first = step_lib.dispatch(plan, 0, 1, 1)
  nobody = step_lib.stop_flags(False, mesh)

  def step():
    # The same batch every time, whatever the state has seen.
    state = held["state"]._replace(step=jnp.zeros((), jnp.int32))
    held["state"], report = steps_fn(state, tables, feed, first, nobody)
    jax.block_until_ready(report)

  requests = batch_lib.request_batch(
    split.test, np.arange(USERS), batch_size=USERS, width=0
  )
  num_items = split.train.num_items
  allowed = allowed_lib.Allowed(
    allowed_lib.no_shared_mask(),
    np.zeros(USERS, np.int32),
    np.full((USERS, 0), num_items, np.int32),
  )
  recommend = jax.jit(system.recommend, static_argnames="k")

  def search():
    params = held["state"].params
    jax.block_until_ready(recommend(params, tables, requests, allowed, k=20))

  step()
  search()
  return step, search


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
