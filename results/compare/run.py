"""LightLM and its three relatives on four logs: one trainer, one evaluator, one table.

  LIGHTLM_DATA_DIR=DATA python results/compare/run.py --workdir=runs/compare

A run that is finished is read, one that was stopped goes on, and what a run answered in
another way is kept beside it; `--finished` trains nothing and leaves out what is not
there. What an answer costs is measured anew each time, on an idle machine if it is to
mean something; --nocost leaves it out. Prints a table a log, and writes what is in it
to FILE with --report=FILE.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.inference import serve
from lightlm_jax.runs import evaluate, restore, train
from lightlm_jax.runtime import devices
from lightlm_jax.training import loop

DATASETS = ("toys", "beauty", "yelp", "ml-1m")
SYSTEMS = ("lightlm", "item_decoder", "lite_llm4rec")
# What a LightLM run is asked beside its own beam: L2D as published, and with a prior.
# Chosen on validation of Toys and Beauty.
MEMORY = {"decoding.state": "encoder", "decoding.nearest": 300}
L2D = {
  "global": {"decoding.kind": "latent_global", "decoding.prior": 0.0},
  "global, prior": {"decoding.kind": "latent_global", "decoding.prior": 16.0},
  "local, prior": {"decoding.kind": "latent_local", "decoding.prior": 16.0},
}
RULES = {"seen_excluded": "excluded", "seen_allowed": "allowed"}
METRICS = ("hr@10", "ndcg@10")
K = 10
BATCHES = (1, 256)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--datasets", nargs="*", default=DATASETS)
  parser.add_argument("--systems", nargs="*", default=SYSTEMS)
  parser.add_argument("--finished", action="store_true")
  parser.add_argument("--nocost", action="store_true")
  parser.add_argument("--report", type=pathlib.Path)
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  print(devices.describe(), flush=True)
  found = {}
  for dataset in flags.datasets:
    rows = {}
    for system in flags.systems:
      folder = flags.workdir / f"{dataset}-{system}"
      if not flags.finished:
        config = config_of(dataset, system)
        train.train(config, folder)
      elif not (folder / "results.json").exists():
        continue
      asked = {system: {}}
      if system == "lightlm":
        asked |= {f"lightlm, L2D {name}": MEMORY | how for name, how in L2D.items()}
      for name, overrides in asked.items():
        rows[name] = answers(folder, name, overrides)
        if not flags.nocost:
          rows[name] |= cost(folder, overrides)
    found[dataset] = rows
  print("\n\n".join(table(dataset, rows) for dataset, rows in found.items()))
  if flags.report:
    flags.report.write_text(json.dumps(found, indent=2) + "\n")


def config_of(dataset: str, system: str) -> config_lib.RunConfig:
  """The experiment: the preset of the log where it has one."""
  overrides = {"data.name": dataset, "baselines": ()}
  if system == "lightlm":
    own = dataset if dataset in config_lib.available() else "toys"
    return config_lib.load(own, "small", overrides)
  preset = dataset if dataset == "ml-1m" else None
  return config_lib.load(system, preset, overrides)


def answers(folder: pathlib.Path, name: str, overrides: dict) -> dict:
  """What a run found, itself or asked in another way."""
  kept = folder / "results.json"
  if overrides:
    kept = folder / f"compare-{name.replace(', ', '-').replace(' ', '-')}.json"
    if not kept.exists():
      evaluated = evaluate.evaluate(folder, overrides=overrides)
      kept.write_text(json.dumps(evaluated))
  found = json.loads(kept.read_text())
  return {
    "metrics": {
      rule: {m: found["metrics"][rule][m] for m in METRICS} for rule in RULES
    },
    "parameters": found["params"]["total"],
    "train_seconds": found["train_seconds"],
  }


def cost(folder: pathlib.Path, overrides: dict) -> dict:
  """Milliseconds a user, and what stands in memory to answer: parameters and tables."""
  run = restore.load(folder, overrides)
  milliseconds = {}
  for size in BATCHES:
    served = serve.ready(run.built, run.params, run.mesh, size)
    requests = loop.sample(run.split.test, min(4 * size, 512) if size > 1 else 48, 0)
    times = []
    for _ in range(4):  # the first compiles
      began = time.perf_counter()
      for first in range(0, len(requests), size):
        index_N = np.arange(first, min(first + size, len(requests)))
        serve.recommend(served, requests.take(index_N), k=K)
      times.append((time.perf_counter() - began) / len(requests) * 1e3)
    milliseconds[size] = statistics.median(times[1:])
  held = jax.tree.leaves((served.params, served.tables))
  return {
    "milliseconds": milliseconds,
    "megabytes": sum(leaf.nbytes for leaf in held) / 2**20,
  }


def table(dataset: str, rows: dict[str, dict]) -> str:
  """Markdown: a row a system."""
  heads = [f"{m.upper()} {name}" for name in RULES.values() for m in METRICS]
  heads += ["parameters", "training"]
  if any("milliseconds" in found for found in rows.values()):
    heads += [*(f"ms a user, {b} at once" for b in BATCHES), "MiB to answer"]
  lines = [
    f"### {dataset}",
    "",
    f"| system | {' | '.join(heads)} |",
    "| --- " * (1 + len(heads)) + "|",
  ]
  for name, found in rows.items():
    cells = [f"{found['metrics'][r][m]:.4f}" for r in RULES for m in METRICS]
    cells.append(f"{found['parameters'] / 1e6:.2f} M")
    cells.append(f"{found['train_seconds'] / 60:.0f} min")
    if "milliseconds" in found:
      cells += [f"{found['milliseconds'][size]:.2f}" for size in BATCHES]
      cells.append(f"{found['megabytes']:.1f}")
    lines.append(f"| {name} | {' | '.join(cells)} |")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
