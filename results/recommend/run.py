"""Lists for files beside the evaluator's: the same users, by turns.

  LIGHTLM_DATA_DIR=DATA python results/recommend/run.py runs/toys --users=4096

The evaluator asks under one rule, seen items excluded, what `recommend --all` asks; the
latter also makes rows by raw ids, writes parts and joins them. Prints users a second.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

from etils import epath

from lightlm_jax.evaluation import evaluator
from lightlm_jax.inference import output, serve
from lightlm_jax.runs import restore
from lightlm_jax.runtime import devices
from lightlm_jax.training import loop

K = 20


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("workdir", type=epath.Path)
  parser.add_argument("--users", type=int, default=4096)
  parser.add_argument("--rounds", type=int, default=3)
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  print(devices.describe())
  run = restore.load(flags.workdir)
  config, dataset, split, mesh = run.config, run.dataset, run.split, run.mesh
  requests = loop.sample(split.test, flags.users, config.seed)
  batch_size = config.train.eval_batch_size
  served = serve.ready(run.built, run.params, mesh, batch_size)
  names = dataset.log.user_ids[requests.user_N]

  def make(index_N):
    found = serve.recommend(served, requests.take(index_N), k=K)
    return serve.table(names[index_N], *found, dataset.log.item_ids)

  def to_a_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
      path = epath.Path(pathlib.Path(folder) / "recs.parquet")
      found = output.write(
        path, {}, len(requests), make, process=(0, 1), tell=lambda number: None
      )
      assert found["rows"] == K * len(requests), found

  def evaluated() -> None:
    evaluator.evaluate(
      run.built,
      run.params,
      requests,
      num_items=dataset.log.num_items,
      batch_size=batch_size,
      k=K,
      mesh=mesh,
      rules=("seen_excluded",),
    )

  rates = {"evaluator": [], "recommend": []}
  for turn in range(1 + flags.rounds):  # the first compiles
    for name, ask in (("evaluator", evaluated), ("recommend", to_a_file)):
      began = time.monotonic()
      ask()
      if turn:
        rates[name].append(len(requests) / (time.monotonic() - began))
  for name, rate in rates.items():
    shown = ", ".join(f"{r:,.0f}" for r in rate)
    print(f"{name}: {statistics.median(rate):,.0f} users/s (median of {shown})")
  shares = [b / a for a, b in zip(*rates.values())]
  print(f"share: {statistics.median(shares):.3f} (median of the rounds)")


if __name__ == "__main__":
  main()
