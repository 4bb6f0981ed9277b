"""Every baseline on every log, by the same trainer and evaluator, as one table.

  LIGHTLM_DATA_DIR=DATA python results/baselines/run.py --workdir=runs/baselines

A run that is finished is read, one that was stopped goes on. What is fitted has one
seed; what learns has three, and beside its mean stands the seeds' sample deviation.
"""

import argparse
import pathlib

from lightlm_jax import config as config_lib
from lightlm_jax.evaluation import evaluator, uncertainty
from lightlm_jax.runs import train
from lightlm_jax.runtime import devices

DATASETS = ("toys", "beauty", "yelp")
FITTED = ("pop", "recent_pop", "item_knn", "ease")
LEARNED = (
  "bpr_mf",
  "sasrec",
  "sasrec-binary",
  "bsarec",
  "item_decoder",
  "item_decoder-binary",
)
METRICS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--datasets", nargs="*", default=DATASETS)
  parser.add_argument("--systems", nargs="*", default=[*FITTED, *LEARNED])
  parser.add_argument("--seeds", nargs="*", default=(0, 1, 2), type=int)
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  tables = []
  for dataset in flags.datasets:
    rows = {}
    for system in flags.systems:
      seeds = flags.seeds if system in LEARNED else flags.seeds[:1]
      rows[system] = [run(flags.workdir, dataset, system, seed) for seed in seeds]
    tables.append(table(dataset, rows))
  print("\n\n".join(tables))


def run(workdir: pathlib.Path, dataset: str, system: str, seed: int) -> dict:
  """The results of one run."""
  name, _, loss = system.partition("-")
  overrides = {"data.name": dataset, "seed": seed, "baselines": ()}
  if loss:
    overrides["train.loss"] = loss
  if name in FITTED:
    config = config_lib.load("toys", None, overrides | {"system": name})
  else:
    config = config_lib.load(name, None, overrides)
  folder = workdir / f"{dataset}-{system}-{seed}"
  return train.train(config, folder)


def table(dataset: str, rows: dict[str, list[dict]]) -> str:
  """Markdown: a row a system, both rules; the interval is over users, of one seed."""
  heads = " | ".join(metric.upper() for metric in METRICS)
  lines = [
    f"### {dataset}, {next(iter(rows.values()))[0]['num_users']:,} users",
    "",
    f"| seen excluded | seeds | {heads} | NDCG@10, 95 % over users |",
    "| --- " * (3 + len(METRICS)) + "|",
  ]
  for rule in evaluator.RULES:
    if rule != evaluator.RULES[0]:
      lines.append("| **seen allowed** " + "| " * (2 + len(METRICS)) + "|")
    for system, runs in rows.items():
      cells = [
        _cell([run["metrics"][rule][metric] for run in runs]) for metric in METRICS
      ]
      low, high = runs[0]["intervals"][rule]["ndcg@10"]
      lines.append(
        f"| {system} | {len(runs)} | {' | '.join(cells)} | {low:.4f} – {high:.4f} |"
      )
  return "\n".join(lines)


def _cell(values: list[float]) -> str:
  found = uncertainty.over_seeds(values)
  spread = "" if found["std"] is None else f" ± {found['std']:.4f}"
  return f"{found['mean']:.4f}{spread}"


if __name__ == "__main__":
  main()
