"""LightLM `small` on Toys by every kind of ids, a sixth of its steps, three seeds.

  LIGHTLM_DATA_DIR=DATA python results/ids-ablation/run.py --workdir=runs/ids-ablation
  python results/ids-ablation/table.py runs/ids-ablation

Several processes may share the work: an arm whose folder is there is somebody's, done
or not; remove the folder to do it again.
"""

import argparse
import json
import pathlib

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.runs import evaluate, train
from lightlm_jax.runs.context import RunContext
from lightlm_jax.runtime import devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import workdir as workdir_lib

KINDS = {
  "rid": {"ids.kind": "rid"},
  "sid": {"ids.kind": "sid"},
  "sci": {"ids.kind": "sci"},
  "gci-product": {"ids.kind": "gci", "ids.quantiser": "product"},
  "gci-residual": {"ids.kind": "gci", "ids.quantiser": "residual"},
}
SEEDS = (0, 1, 2)
# `small` has 12 epochs; with two of them an arm takes ten minutes of one core or more.
STEPS = {"train.steps": 2_000, "train.warmup_steps": 100, "baselines": ()}
# `small`, when these were run.
AS_IT_WAS = {"input.user": True, "train.pack": 1, "train.embedding_rate": 8.0}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=KINDS)
  parser.add_argument("--seeds", nargs="*", default=SEEDS, type=int)
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  flags.workdir.mkdir(parents=True, exist_ok=True)
  for seed in flags.seeds:
    for kind in flags.kinds:
      folder = flags.workdir / f"{kind}-{seed}"
      try:
        folder.mkdir()
      except FileExistsError:
        continue
      run(folder, KINDS[kind] | STEPS | AS_IT_WAS | {"seed": seed})


def run(folder: pathlib.Path, overrides: dict) -> None:
  """Trains one arm and asks all test users, by both rules."""
  config = config_lib.load("toys", "small", overrides)
  dataset = datasets.load(config)
  split = splits.leave_one_out(dataset.log)
  mesh = mesh_lib.make(1, 1)
  with workdir_lib.claimed(folder, config) as workdir:
    train.learn(RunContext(config, dataset, split, mesh, workdir))
  found = evaluate.evaluate(workdir)
  (folder / "arm.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
  main()
