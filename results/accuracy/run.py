"""Trains what the tables of this folder compare, and writes summary.json.

  LIGHTLM_DATA_DIR=DATA python results/accuracy/run.py --workdir=runs/accuracy

A run that is finished is read, and one that was stopped goes on; `--finished` trains
nothing and leaves out what is not there. `--logs`, `--rows` and `--seeds` choose.
"""

import argparse
import json
import pathlib
import statistics

from lightlm_jax import config as config_lib
from lightlm_jax.runs import train
from lightlm_jax.runtime import devices

LOGS = ("toys", "beauty", "yelp", "ml-1m")
REPEATS = {"model.repeats": True}
# Cards without a preset for MovieLens read its long histories as the item decoder does.
LONG = {"input.history": 200, "model.dropout_rate": 0.2}
PACKED = LONG | {"train.whole_histories": True, "train.batch_size": 16}
FOR_LONG = {"sasrec": PACKED, "bsarec": LONG}
# A row of the tables → the system's card, and what it changes.
MODELS = {
  "lightlm": (None, {}),
  "sasrec": ("sasrec", {}),
  "sasrec, repeats": ("sasrec", REPEATS),
  "bsarec": ("bsarec", {}),
  "bsarec, repeats": ("bsarec", REPEATS),
  "item_decoder": ("item_decoder", {}),
  "item_decoder, repeats": ("item_decoder", REPEATS),
}
# What one change of `best` is worth, on Toys.
CHANGES = {
  "no items left out": {"input.item_dropout": 0.0},
  "ids by shared users": {"ids.graph": "bipartite"},
  "no repeats": {"model.repeats": False},
  "no average": {"train.average": 0.0},
  "no residual": {"model.residual": False},
  "40 epochs": {"train.steps": 5_360, "train.eval_every": 536},
  "110 clusters": {"ids.branching": 110, "decoding.beam_size": 20},
  "width 64": {"model.d_model": 64, "model.num_heads": 2},
  "dropout .5": {"model.dropout_rate": 0.5},
}
ROWS = (*MODELS, *CHANGES)
METRICS, RULES = ("hr@10", "ndcg@10"), ("seen_excluded", "seen_allowed")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--logs", nargs="*", default=LOGS)
  parser.add_argument("--rows", nargs="*", default=ROWS)
  parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
  parser.add_argument("--finished", action="store_true")
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  summary = {}
  for log in flags.logs:
    for row in flags.rows:
      if row in CHANGES and log != "toys":
        continue
      found = [results(flags, log, row, seed) for seed in flags.seeds]
      found = [one for one in found if one is not None]
      if found:
        summary.setdefault(log, {})[row] = mean(found)
  path = pathlib.Path(__file__).parent / "summary.json"
  path.write_text(json.dumps(summary, indent=2) + "\n")
  for log, rows in summary.items():
    print(table(log, rows), end="\n\n")


def results(flags: argparse.Namespace, log: str, row: str, seed: int) -> dict | None:
  """Returns the results.json of one run, trained if it has to be; None without it."""
  name = row.replace(", ", "-").replace(" ", "-")
  folder = flags.workdir / f"{log}-{name}-{seed}"
  if not flags.finished:
    train.train(config_of(log, row, seed), folder)
  kept = folder / "results.json"
  return json.loads(kept.read_text()) if kept.exists() else None


def config_of(log: str, row: str, seed: int) -> config_lib.RunConfig:
  card, overrides = MODELS.get(row, (None, CHANGES.get(row)))
  own = {"data.name": log, "baselines": (), "seed": seed} | overrides
  if card is None:
    return config_lib.load(log, "best", own)
  preset = log if log in config_lib.presets(card) else None
  long = FOR_LONG.get(card, {}) if log == "ml-1m" else {}
  return config_lib.load(card, preset, long | own)


def mean(runs: list[dict]) -> dict:
  """Returns means over seeds: metrics by rule, and minutes of training."""

  def of(values):
    return round(statistics.fmean(values), 5)

  by_rule = {
    rule: {m: of(run["metrics"][rule][m] for run in runs) for m in METRICS}
    for rule in RULES
  }
  validation = {
    rule: of(run["validation"][rule]["ndcg@10"] for run in runs) for rule in RULES
  }
  minutes = of(run["train_seconds"] / 60 for run in runs)
  return {"seeds": len(runs)} | by_rule | {"validation": validation, "minutes": minutes}


def table(log: str, rows: dict[str, dict]) -> str:
  """Returns a table of Markdown: excluded / allowed."""
  lines = [
    f"### {log}",
    "",
    "| row | seeds | validation NDCG@10 | test HR@10 | test NDCG@10 | minutes |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for name, found in rows.items():
    cells = [str(found["seeds"]), pair(found["validation"][rule] for rule in RULES)]
    cells += [pair(found[rule][m] for rule in RULES) for m in METRICS]
    lines.append(f"| {name} | {' | '.join(cells)} | {found['minutes']:.0f} |")
  return "\n".join(lines)


def pair(values) -> str:
  return " / ".join(f"{value:.4f}".lstrip("0") for value in values)


if __name__ == "__main__":
  main()
