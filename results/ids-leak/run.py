"""How large the reference's leak is, with no model: what cluster-mates bought.

  LIGHTLM_DATA_DIR=DATA PYTHONPATH=tests python results/ids-leak/run.py

Users are clustered by the items they have in common, in the reference's way: on the
reference's graph, which holds most of the test interactions, and on the training
interactions alone. Items are ranked by how often users of the same leaf bought them in
training.
"""

import numpy as np
import reference_ids

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.evaluation import leaks as audit
from lightlm_jax.evaluation import metrics
from lightlm_jax.ids import graph


def main() -> None:
  log = datasets.load(config_lib.load("beauty", "small")).log
  split = splits.leave_one_out(log)
  for name, read in (
    ("the reference's graph", reference_ids.leaking_log(log)),
    ("training interactions alone", split.train),
  ):
    path_UL = reference_ids.cluster_paths(
      graph.users_together(read), branching=20, leaf_size=100, seed=0
    )
    leaf_U = np.unique(path_UL, axis=0, return_inverse=True)[1].reshape(-1)
    ranks = audit.mates_ranks(leaf_U, split.train, split.test)
    print(
      f"{name}: HR@10 {metrics.hit_rate(*ranks, k=10).mean():.4f}, "
      f"NDCG@10 {metrics.ndcg(*ranks, k=10).mean():.4f}, {leaf_U.max() + 1:,} leaves"
    )


if __name__ == "__main__":
  main()
