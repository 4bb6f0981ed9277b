"""Trains what the tables of this folder compare, and writes summary.json.

  LIGHTLM_DATA_DIR=DATA python results/accuracy/run.py --workdir=runs/accuracy

runs.json has the figures of each finished run. A run that it has is not trained again;
a run that was stopped goes on. `--finished` trains nothing: it only takes up what lies
finished in the workdir. `--logs`, `--rows` and `--seeds` choose. Ensembles and fused
decoding need the workdirs of the runs that they are made of, and train those missing.
"""

import argparse
import itertools
import json
import pathlib
import re
import statistics

import jax

from lightlm_jax import config as config_lib
from lightlm_jax.runs import evaluate, train
from lightlm_jax.runtime import devices

FOLDER = pathlib.Path(__file__).parent
RUNS = FOLDER / "runs.json"  # {"LOG-ROW-SEED": what `figures` returns}
LOGS = ("toys", "beauty", "yelp", "ml-1m")
REPEATS = {"model.repeats": True, "model.calibrated": True}
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
# A row of two runs → their rows, and what is added to the seed (modulo 3) of each.
ENSEMBLES = {
  "lightlm-ensemble": (("lightlm", 0), ("partner", 0)),
  "lightlm, two seeds": (("lightlm", 0), ("lightlm", 1)),
  "partner, two seeds": (("partner", 0), ("partner", 1)),
}
FUSED = "lightlm-fused"
# What one change of `best` is worth, on Toys.
CHANGES = {
  "two books": {"ids.books": 2},
  "no items left out": {"input.item_dropout": 0.0},
  "ids by shared users": {"ids.graph": "bipartite"},
  "no repeats": {"model.repeats": False},
  "not calibrated": {"model.calibrated": False},
  "no average": {"train.average": 0.0},
  "no residual": {"model.residual": False},
  "40 epochs": {"train.steps": 5_360, "train.eval_every": 536},
  "110 clusters": {"ids.branching": 110, "decoding.beam_size": 20},
  "width 64": {"model.d_model": 64, "model.num_heads": 2},
  "dropout .5": {"model.dropout_rate": 0.5},
}
ROWS = (*MODELS, FUSED, *ENSEMBLES, *CHANGES)
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
  # Seed by seed, so that each log and row has a figure early.
  for seed, log, row in itertools.product(flags.seeds, flags.logs, flags.rows):
    if row in CHANGES and log != "toys":
      continue
    name = name_of(log, row, seed)
    finished = flags.workdir / name / "results.json"
    if name in read(RUNS) or (flags.finished and not finished.exists()):
      continue
    found = figures(results_of(flags.workdir, log, row, seed))
    # Read again: another process may have added a run since.
    write(RUNS, dict(sorted((read(RUNS) | {name: found}).items())))
  summary = summarise(read(RUNS))
  write(FOLDER / "summary.json", summary)
  for log, rows in summary.items():
    print(table(log, rows), end="\n\n")


def read(path: pathlib.Path) -> dict:
  return json.loads(path.read_text()) if path.exists() else {}


def write(path: pathlib.Path, content: dict) -> None:
  path.write_text(json.dumps(content, indent=2) + "\n")


def name_of(log: str, row: str, seed: int | str) -> str:
  return f"{log}-{row.replace(', ', '-').replace(' ', '-')}-{seed}"


def results_of(workdir: pathlib.Path, log: str, row: str, seed: int) -> dict:
  """Returns the results of a run, with the training time of all that it is made of."""
  if row == FUSED:
    of = results_of(workdir, log, "lightlm", seed)
    folder, fused = workdir / name_of(log, "lightlm", seed), {"decoding.kind": "fused"}
    validation, test = (
      evaluate.evaluate(folder, split_name=split, overrides=fused)["metrics"]
      for split in ("validation", "test")
    )
    return of | {"metrics": test, "validation": validation}
  if row not in ENSEMBLES:
    return train.train(config_of(log, row, seed), workdir / name_of(log, row, seed))
  partner = "item_decoder, repeats" if log == "ml-1m" else "sasrec, repeats"
  members = [
    (partner if member == "partner" else member, (seed + offset) % 3)
    for member, offset in ENSEMBLES[row]
  ]
  parts = [results_of(workdir, log, *member) for member in members]
  folders = [str(workdir / name_of(log, *member)) for member in members]
  fields = {"members": ",".join(folders), "baselines": (), "seed": seed}
  config = config_lib.load("ensemble", None, fields)
  results = train.train(config, workdir / name_of(log, row, seed))
  return results | {"train_seconds": sum(part["train_seconds"] for part in parts)}


def config_of(log: str, row: str, seed: int) -> config_lib.RunConfig:
  card, overrides = MODELS.get(row, (None, CHANGES.get(row)))
  own = {"data.name": log, "baselines": (), "seed": seed} | overrides
  if card is None:
    return config_lib.load(log, "best", own)
  preset = log if log in config_lib.presets(card) else None
  long = FOR_LONG.get(card, {}) if log == "ml-1m" else {}
  return config_lib.load(card, preset, long | own)


def figures(results: dict) -> dict:
  """Returns what runs.json keeps of a results.json: metrics by rule, and minutes."""

  def kept(by_rule: dict) -> dict:
    return {rule: {m: round(by_rule[rule][m], 5) for m in METRICS} for rule in RULES}

  return kept(results["metrics"]) | {
    "validation": kept(results["validation"]),
    "minutes": round(results["train_seconds"] / 60, 1),
  }


def summarise(known: dict[str, dict]) -> dict[str, dict]:
  """Returns the means over seeds of what runs.json has, by log and row."""
  summary = {}
  for log, row in itertools.product(LOGS, ROWS):
    prefix = name_of(log, row, "")
    runs = [run for name, run in known.items() if re.fullmatch(prefix + r"\d+", name)]
    if runs:
      mean = jax.tree.map(lambda *x: round(statistics.fmean(x), 5), *runs)
      summary.setdefault(log, {})[row] = {"seeds": len(runs)} | mean
  return summary


def table(log: str, rows: dict[str, dict]) -> str:
  """Returns a table of Markdown: excluded / allowed."""
  lines = [
    f"### {log}",
    "",
    "| row | seeds | validation NDCG@10 | test HR@10 | test NDCG@10 | minutes |",
    "| --- | --- | --- | --- | --- | --- |",
  ]
  for name, found in rows.items():
    cells = [
      str(found["seeds"]),
      pair(found["validation"][rule]["ndcg@10"] for rule in RULES),
    ]
    cells += [pair(found[rule][m] for rule in RULES) for m in METRICS]
    lines.append(f"| {name} | {' | '.join(cells)} | {found['minutes']:.0f} |")
  return "\n".join(lines)


def pair(values) -> str:
  return " / ".join(f"{value:.4f}".lstrip("0") for value in values)


if __name__ == "__main__":
  main()
