"""LightLM with one thing changed at a time, with the trie and without.

  LIGHTLM_DATA_DIR=DATA python results/remove-one/run.py --workdir=runs/remove-one
  python results/remove-one/table.py runs/remove-one

The paper's task (the user alone in, an item out) with the paper's kind of ids, at the
shape of the preset `small`, one epoch. Several processes may share the work: an arm
whose folder is there is somebody's, done or not; remove the folder to do it again.
"""

import argparse
import contextlib
import json
import pathlib

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.runs import evaluate, train
from lightlm_jax.runs.context import RunContext
from lightlm_jax.runtime import devices
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.storage import workdir as workdir_lib

BATCH = 128
USERS = 5_000  # test users asked, the same for every arm of a log and seed
# Yelp is there for its rate of hallucination.
GRID = [("yelp", kind, 16, 0) for kind in ("sci", "rid")] + [
  (data, kind, d_ff, seed)
  for seed in (0, 1)
  for data in ("toys", "beauty")
  for d_ff in (16, 2048, 64, 512)
  for kind in ("sci", "rid")
]
# What else differs between this project and the paper's recipe: Toys, SCI, d_ff 16.
DIFFERENCES = {
  "prompt": {"input.prompt": True},
  "range": {"model.id_range": 10.0, "train.embedding_rate": 1.0},
  "rate": {"train.embedding_rate": 1.0},
  "node": {"ids.tokens": "node"},
  "small_ids": {
    "ids.branching": 128,
    "ids.leaf_size": 20,
    "ids.levels": 1,
    "ids.tokens": "node",
  },
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  workdir = parser.parse_args().workdir
  devices.enable_compilation_cache()
  workdir.mkdir(parents=True, exist_ok=True)
  arms = {
    f"{data}-{kind}-{d_ff}-{seed}": (
      data,
      {"ids.kind": kind, "model.d_ff": d_ff, "seed": seed},
    )
    for data, kind, d_ff, seed in GRID
  }
  arms |= {f"toys-{name}": ("toys", change) for name, change in DIFFERENCES.items()}
  for name, (data, change) in arms.items():
    with contextlib.suppress(FileExistsError):
      (workdir / name).mkdir()
      run(workdir / name, data, change)


def run(folder: pathlib.Path, data: str, change: dict) -> None:
  """Trains one arm and asks it with the trie and without."""
  dataset = datasets.load(config_lib.load(data, "small"))
  split = splits.leave_one_out(dataset.log)
  steps = -(-len(split.train.item_E) // BATCH)
  overrides = {
    "input.user": True,
    "input.history": 0,
    "input.user_dropout": 0.0,
    "ids.branching": 50,
    "ids.leaf_size": 100,
    "ids.levels": 10,
    "ids.tokens": "level",
    "train.batch_size": BATCH,
    "train.steps": steps,
    "train.warmup_steps": steps // 20,
    "train.eval_every": steps,
    "train.eval_users": 64,
    "train.embedding_rate": 8.0,  # as `small` was then
    "decoding.length_penalty": 1.0,
  }
  config = config_lib.load(data, "small", overrides | change)
  mesh = mesh_lib.make(1, 1)
  with workdir_lib.claimed(folder, config) as workdir:
    train.learn(RunContext(config, dataset, split, mesh, workdir))
  found = {
    decoding: evaluate.evaluate(
      workdir, overrides={"decoding.kind": decoding}, users=USERS
    )
    for decoding in ("beam", "unconstrained")
  }
  (folder / "arm.json").write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
  main()
