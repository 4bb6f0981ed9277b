"""Seen items: kept out of the search, or dropped from its 20 beams afterwards.

  LIGHTLM_DATA_DIR=DATA python results/decode/filter_after.py runs/toys --users=4000

Asks a finished run of LightLM both ways on test users and prints a table.
"""

import argparse
import contextlib
import dataclasses

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.data import datasets, splits
from lightlm_jax.evaluation import evaluator
from lightlm_jax.evaluation.metrics import summarise
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.runtime import devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import registry
from lightlm_jax.systems.base import System
from lightlm_jax.training import checkpoint, loop

RULE = "seen_excluded"
LONG = (0, 20, 50)  # items of a history


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("workdir", type=epath.Path)
  parser.add_argument("--users", type=int, default=4000)
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  workdir, config = workdir_lib.read(flags.workdir)
  mesh = mesh_lib.make(1, 1)
  split = splits.SPLITS[config.split.kind](datasets.load(config).log)
  requests = loop.sample(split.test, flags.users, config.seed)
  book = codes_lib.load(workdir / "codes")
  built = registry.build(config.system, config, split.train, book)
  with contextlib.closing(
    checkpoint.Checkpoints(workdir, read_only=True)
  ) as checkpoints:
    params, _ = loop.restore_best(built.system, config, mesh, checkpoints)

  print("| seen items are | users with | HR@10 | HR@20 | items of 20 | users < 10 |")
  print("| --- " * 6 + "|")
  after = FilterAfter(
    name="dropped after", max_history=built.system.max_history, search=built.system
  )
  tables = built.tables, jnp.asarray(built.rank_I)
  dropped = built._replace(system=after, tables=tables)
  ways = {"kept out of the search": built, "dropped after": dropped}
  for name, way in ways.items():
    ranks = evaluator.evaluate(
      way,
      params,
      requests,
      num_items=split.train.num_items,
      batch_size=config.train.eval_batch_size,
      rules=[RULE],
    )[RULE]
    left_N = (ranks.items_NK >= 0).sum(axis=1)
    for fewest in LONG:
      chosen_N = requests.length_N >= fewest
      metrics = summarise(ranks.rank_N[chosen_N], ranks.ties_N[chosen_N])
      print(
        f"| {name} | {fewest} items or more: {chosen_N.sum():,} "
        f"| {metrics['hr@10']:.4f} | {metrics['hr@20']:.4f} "
        f"| {left_N[chosen_N].mean():.2f} "
        f"| {100 * np.mean(left_N[chosen_N] < 10):.1f} % |"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilterAfter(System):
  """A search without the request's exclusions, which are dropped from its list.

  Its tables are those of the search and each item's rank.
  """

  search: System

  def recommend(self, params, tables, batch, allowed, *, k):
    own, rank_I = tables
    free = allowed._replace(excluded_BE=allowed.excluded_BE[:, :0])
    found = self.search.recommend(params, own, batch, free, k=k)
    rank_BK = rank_I[jnp.maximum(found.items_BK, 0)]
    seen_BK = (rank_BK[:, :, None] == allowed.excluded_BE[:, None]).any(axis=2)
    gone_BK = seen_BK | ~found.valid_BK
    order_BK = jnp.argsort(gone_BK, axis=1, stable=True)
    left = found._replace(
      items_BK=jnp.where(gone_BK, -1, found.items_BK),
      scores_BK=jnp.where(gone_BK, -jnp.inf, found.scores_BK),
      valid_BK=~gone_BK,
    )
    return jax.tree.map(lambda x: jnp.take_along_axis(x, order_BK, axis=1), left)


if __name__ == "__main__":
  main()
