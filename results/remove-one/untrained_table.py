"""What the reference's untrained table costs: added to the encoder's input when asked.

python results/remove-one/untrained_table.py runs/remove-one/toys-prompt

The table is one more whole-word embedding, normal, std 1, as it was never trained.
"""

import sys

import jax

from lightlm_jax.data import datasets, splits
from lightlm_jax.evaluation.all_metrics import all_metrics
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.runtime import devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import registry
from lightlm_jax.training import checkpoint, loop

USERS = 5_000


def main(run: str) -> None:
  devices.enable_compilation_cache()
  workdir, config = workdir_lib.read(run)
  split = splits.leave_one_out(datasets.load(config).log)
  book = codes_lib.load(workdir / "codes")
  built = registry.build(config.system, config, split.train, book)
  mesh = mesh_lib.make(1, 1)
  checkpoints = checkpoint.Checkpoints(workdir, read_only=True)
  params, _ = loop.restore_best(built.system, config, mesh, checkpoints)
  requests = loop.sample(split.test, USERS, config.seed)
  table_WD = params["word_embedding"]
  untrained_WD = jax.random.normal(jax.random.key(0), table_WD.shape)
  for name, extra_WD in (("as trained", 0 * untrained_WD), ("untrained", untrained_WD)):
    changed = params | {"word_embedding": table_WD + extra_WD}
    found, _ = all_metrics(built, changed, split, requests, batch_size=128, mesh=mesh)
    seen_excluded = found["metrics"]["seen_excluded"]
    print(
      f"{name}: HR@10 {seen_excluded['hr@10']:.4f}, "
      f"NDCG@10 {seen_excluded['ndcg@10']:.4f}"
    )


if __name__ == "__main__":
  main(sys.argv[1])
