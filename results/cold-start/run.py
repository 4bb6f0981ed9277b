"""Items that nobody has bought yet, users of whom next to nothing is known: who helps?

  LIGHTLM_DATA_DIR=DATA python results/cold-start/run.py --workdir=runs/cold-start

A share of the items is withheld from training; LightLM gives them ids beside the
trained items that they are like (`config.ids.cold = attributes`). Asked are the test
users who bought a withheld item, among all items and among the withheld ones alone
(a shelf of new items), and the other test users as strangers: no id, and of their
history only the last two items. Seen items excluded. A run that is finished is read.
"""

import argparse
import dataclasses
import functools
import pathlib

from etils import epath
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.data.interactions import concatenate_rows
from lightlm_jax.evaluation import evaluator, metrics, uncertainty
from lightlm_jax.runs import train
from lightlm_jax.runs.context import RunContext
from lightlm_jax.runtime import devices, log
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import workdir as workdir_lib

RULE = "seen_excluded"
LAST = 2  # items that are known of a stranger


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--datasets", nargs="*", default=["toys", "beauty"])
  parser.add_argument("--shares", nargs="*", type=float, default=[0.02, 0.05])
  parser.add_argument("--systems", nargs="*", default=["lightlm", "item_knn", "ease"])
  parser.add_argument("--steps", type=int, default=4_000, help="of lightlm's `small`")
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  heads = "| data | withheld | system | asked | R@1 | R@10 | on the shelf | R@1 | R@10 "
  print(heads + "| strangers | HR@1 | HR@10 | as they are, HR@10 |")
  print("| --- " * 13 + "|", flush=True)
  for dataset in flags.datasets:
    for share in flags.shares:
      for system in flags.systems:
        print(row(flags, dataset, share, system), flush=True)


def row(flags, dataset: str, share: float, system: str) -> str:
  """A line of the table."""
  overrides = {
    "data.name": dataset,
    "system": system,
    "split.withheld": share,
    "ids.cold": "attributes",
  }
  if system == "lightlm":
    overrides |= {"train.steps": flags.steps, "train.warmup_steps": flags.steps // 20}
    # As `small` was then.
    overrides |= {"input.user": True, "train.pack": 1, "train.embedding_rate": 8.0}
  config = config_lib.load("toys", "small", overrides)
  config_lib.check(config)
  loaded = datasets.load(config)
  split = splits.make(config.split, loaded.log)
  mesh = mesh_lib.make(1, 1)
  workdir = epath.Path(flags.workdir) / f"{dataset}-{share}-{system}"
  log.set_up(stderr=True)
  with workdir_lib.claimed(workdir, config) as workdir:
    run = train.learn(RunContext(config, loaded, split, mesh, workdir))
  ask = functools.partial(
    evaluator.evaluate,
    run.built,
    run.params,
    num_items=split.train.num_items,
    batch_size=config.train.eval_batch_size,
    rules=(RULE,),
    lists=False,
  )
  new = split.test.take(np.flatnonzero(split.withheld_I[split.test.target_N]))
  others = split.test.take(np.flatnonzero(~split.withheld_I[split.test.target_N]))
  cells = [
    f"{len(new):,}",
    *hit_rates(ask(new)),
    f"{split.withheld_I.sum():,} items",
    *hit_rates(ask(new, open_I=split.withheld_I)),
    f"{len(others):,}",
    *hit_rates(ask(strangers(others))),
    hit_rates(ask(others))[1],
  ]
  return f"| {dataset} | {100 * share:.0f} % | {config.system} | {' | '.join(cells)} |"


def hit_rates(ranks: dict[str, evaluator.Ranks]) -> list[str]:
  """HR@1 and HR@10 (one target: Recall) with 95 % over users, in words."""
  found = ranks[RULE]
  cells = []
  for k in (1, 10):
    hit_N = metrics.hit_rate(found.rank_N, found.ties_N, k=k)
    low, high = uncertainty.interval(hit_N)
    cells.append(f"{hit_N.mean():.4f} ({low:.4f} – {high:.4f})")
  return cells


def strangers(requests: splits.Requests) -> splits.Requests:
  """The same questions of users without an id and with a history of two items."""
  length_N = np.minimum(requests.length_N, LAST)
  start_N = requests.offset_N1[1:] - length_N
  return dataclasses.replace(
    requests,
    user_N=np.full_like(requests.user_N, -1),
    offset_N1=np.concatenate([[0], np.cumsum(length_N)]),
    item_E=concatenate_rows(requests.item_E, start_N, length_N),
  )


if __name__ == "__main__":
  main()
