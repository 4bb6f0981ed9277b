"""Trains the item decoder on made logs of ever larger catalogues, by both losses.

  python results/large-catalogue/run.py --items 10000 100000 1000000 > table.md

Every item is bought at least once, the rest by Zipf's law; a run of its own for each
line, so that its peak of resident memory is its own.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

STEPS = 40
MEAN_LENGTH = 10  # purchases a user


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--items", nargs="*", type=int, default=[10_000, 1_000_000])
  parser.add_argument("--losses", nargs="*", default=["full", "sampled"])
  flags = parser.parse_args()
  print("| items | interactions | loss | examples/s | ms a step | resident, MB |")
  print("| --- | --- | --- | --- | --- | --- |", flush=True)
  for items in flags.items:
    with tempfile.TemporaryDirectory() as folder:
      interactions = write_log(pathlib.Path(folder) / "made", items)
      for loss in flags.losses:
        cells = train(pathlib.Path(folder), loss)
        print(f"| {items:,} | {interactions:,} | {loss} | {cells} |", flush=True)


def write_log(folder: pathlib.Path, items: int) -> int:
  """Writes sequences.txt; returns how many purchases it has."""
  rng = np.random.default_rng(0)
  share_I = 1 / np.arange(1, items + 1)
  others = rng.choice(items, items // 2, p=share_I / share_I.sum())
  bought_E = rng.permutation(np.concatenate([np.arange(items), others]))
  folder.mkdir()
  with (folder / "sequences.txt").open("w") as file:
    for user, first in enumerate(range(0, len(bought_E), MEAN_LENGTH)):
      bought = bought_E[first : first + MEAN_LENGTH].tolist()
      file.write(f"u{user} {' '.join(map(str, bought))}\n")
  return len(bought_E)


def train(folder: pathlib.Path, loss: str) -> str:
  """Cells: what the last steps of a run say, and the run's memory."""
  command = (
    "-m lightlm_jax.train --config=item_decoder --config.data.name=made "
    f"--config.split.kind=none --config.train.loss={loss} --config.train.steps={STEPS} "
    f"--config.train.log_every={STEPS // 2} --config.train.eval_every={STEPS} "
    f"--workdir={folder / loss}"
  )
  environment = os.environ | {"LIGHTLM_DATA_DIR": str(folder)}
  # A process in between, whose only child this is.
  measured = (
    "import resource, subprocess, sys; "
    "done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=sys.stderr); "
    "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); "
    "sys.exit(done.returncode)"
  )
  done = subprocess.run(
    [sys.executable, "-c", measured, *command.split()],
    stdout=subprocess.PIPE,
    env=environment,
    check=True,
    text=True,
  )
  *_, last = (folder / loss / "metrics.jsonl").read_text().splitlines()
  record = json.loads(last)
  step = 1e3 * record["step_seconds"]["median"]
  megabytes = int(done.stdout) / 1024
  return f"{record['examples_per_second']:,.0f} | {step:,.0f} | {megabytes:,.0f}"


if __name__ == "__main__":
  main()
