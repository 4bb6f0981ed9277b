"""Compiles runs for NVIDIA GPUs on a machine without one, and tabulates what came out.

  LIGHTLM_DATA_DIR=DATA LIGHTLM_CUDA_DIR=CUDA python results/gpu-compiled/run.py

docs/machines.md says what CUDA holds. compiled.json keeps what was compiled by a
version of jax; it is not compiled again. `--again` compiles all anew and says what
differs.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys

import jax

FOLDER = pathlib.Path(__file__).parent
COMPILED = FOLDER / "compiled.json"  # {jax's version: {"CONFIG TOPOLOGY": row}}
CONFIGS = (
  *("toys:best", "toys:small", "toys:paper", "toys"),
  *("item_decoder", "sasrec"),
)
TOPOLOGIES = ("h100:1", "h100:8")
PROGRAMS = ("steps", "search")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--configs", nargs="*", default=CONFIGS)
  parser.add_argument("--topologies", nargs="*", default=TOPOLOGIES)
  parser.add_argument("--again", action="store_true")
  flags = parser.parse_args()
  known = json.loads(COMPILED.read_text()) if COMPILED.exists() else {}
  here = known.setdefault(jax.__version__, {})
  for config, topology in itertools.product(flags.configs, flags.topologies):
    name = f"{config} {topology}"
    if name in here and not flags.again:
      continue
    row = compiled(config, topology)
    for program in PROGRAMS if name in here else ():
      changed = [
        field
        for field, value in row[program].items()
        if field != "compile_seconds" and here[name][program][field] != value
      ]
      print(f"{name} {program}: {', '.join(changed) or 'nothing'} changed")
    here[name] = row
    COMPILED.write_text(json.dumps(known, indent=1) + "\n")
  for version, rows in known.items():
    print(f"### jax {version}\n\n{table(rows)}\n")


def compiled(config: str, topology: str) -> dict:
  """Returns what the table says of a run's two programs."""
  command = [sys.executable, "-m", "lightlm_jax.train", f"--config={config}"]
  command += ["--config.data.name=toys", "--dry_run", f"--topology={topology}"]
  done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
  report = json.loads(done.stdout)["topology"]
  row = {"batches": report["batches"]}
  for program in PROGRAMS:
    found = report[program]
    row[program] = {
      "megabytes": round(found["bytes_per_device"]["total"] / 1e6, 1),
      "moved_megabytes": round(found["bytes_moved_per_device"] / 1e6, 1),
      "collectives": found["collectives"],
      "kernels": found["kernels"],
      "roofline": found["roofline"],
      "compile_seconds": found["compile_seconds"],
    }
  return row


def table(rows: dict[str, dict]) -> str:
  """Returns a table of Markdown, a row a program."""
  lines = [
    "| config, GPUs | program | batch | MB held | MB moved | kernels | libraries | "
    "collectives, MB | bound by | ms at least | MFU at most | compiled, s |",
    f"|{' --- |' * 12}",
  ]
  for (name, row), program in itertools.product(sorted(rows.items()), PROGRAMS):
    found, roofline = row[program], row[program]["roofline"]
    kinds = found["kernels"]["by_kind"]
    sent = ", ".join(
      f"{each['count']} {each['kind']} {each['bytes'] / 1e6:.2f}"
      for each in found["collectives"]
    )
    cells = [
      *(name, program),
      row["batches"]["batch_size" if program == "steps" else "eval_batch_size"],
      *(found["megabytes"], found["moved_megabytes"], found["kernels"]["total"]),
      sum(count for kind, count in kinds.items() if kind.startswith("__cu")),
      *(sent or "–", roofline["bound"]),
      f"{roofline['milliseconds'][roofline['bound']]:.2f}",
      f"{roofline['mfu']:.3f}",
      found["compile_seconds"],
    ]
    lines.append(f"| {' | '.join(map(str, cells))} |")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
