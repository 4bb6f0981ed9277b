"""Rows a second and memory of `prepare`, against the size of a log.

  python results/prepare/run.py --folder=/tmp/prepare --output=prepare.jsonl

Makes a CSV of so many rows (a row: user of ten rows on average, one of 200,000 items, a
rating, seconds), prepares it in a process of its own, and removes both.
"""

import argparse
import json
import pathlib
import resource
import shutil
import subprocess
import sys
import time

import numpy as np
import polars as pl

A_USER = 10
ITEMS = 200_000
BLOCK = 1_000_000


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--folder", type=pathlib.Path, required=True)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--millions", nargs="*", type=int, default=[10, 30, 100])
  parser.add_argument("options", nargs="*", help="of prepare, behind --: --k_core=5")
  flags = parser.parse_args()
  for millions in flags.millions:
    flags.folder.mkdir(parents=True)
    try:
      line = measure(flags.folder, millions * 1_000_000, flags.options)
    finally:
      shutil.rmtree(flags.folder)
    print(json.dumps(line), flush=True)
    with open(flags.output, "a") as output:
      output.write(json.dumps(line) + "\n")


def measure(folder: pathlib.Path, rows: int, options: list[str]) -> dict:
  """Makes a log, prepares it, and says what that took."""
  log, report = folder / "log.csv", folder / "report.json"
  with open(log, "wb") as file:
    for number in range(rows // BLOCK):
      block(number, rows // A_USER).write_csv(file, include_header=not number)
  command = [sys.executable, "-m", "lightlm_jax.prepare", f"--input={log}"]
  command += [f"--output={folder / 'out'}", f"--report={report}", *options]
  before = resource.getrusage(resource.RUSAGE_CHILDREN)
  began = time.perf_counter()
  said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
  seconds = time.perf_counter() - began
  after = resource.getrusage(resource.RUSAGE_CHILDREN)
  found = json.loads(report.read_text())
  assert found["rows_in"] == rows, said
  cpu = sum(getattr(after, n) - getattr(before, n) for n in ("ru_utime", "ru_stime"))
  return {
    "rows": rows,
    "flags": options,
    "gigabytes": log.stat().st_size / 1e9,
    "seconds": seconds,
    "cpu_seconds": cpu,
    "rows_per_second": rows / seconds,
    # Of the largest child so far: sizes ascend.
    "peak_mib": after.ru_maxrss / 2**10,
    "kept": found["rows"],
    "users": found["users"],
    "items": found["items"],
    "parquet_gigabytes": sum(s["parquet"]["bytes"] for s in found["shards"]) / 1e9,
    "steps": found["seconds"],
  }


def block(number: int, users: int) -> pl.DataFrame:
  """A million rows, in the order of time, users mixed, few items often."""
  rng = np.random.default_rng(number)
  return pl.DataFrame(
    {
      "user": rng.integers(users, size=BLOCK),
      "item": (ITEMS * rng.random(BLOCK) ** 2).astype(np.int32),
      "rating": rng.integers(1, 6, size=BLOCK),
      "timestamp": 1_500_000_000
      + number * 50_000
      + np.sort(rng.integers(50_000, size=BLOCK)),
    }
  ).with_columns(
    pl.format("A{}", pl.col("user").cast(pl.String).str.zfill(10)).alias("user"),
    pl.format("B{}", pl.col("item").cast(pl.String).str.zfill(9)).alias("item"),
  )


if __name__ == "__main__":
  main()
