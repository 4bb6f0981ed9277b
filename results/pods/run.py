"""What a step and a beam search would be on 1, 8, 64 and 256 chips, without a chip.

  LIGHTLM_DATA_DIR=DATA python results/pods/run.py --output=pods.jsonl
  python results/pods/run.py --output=pods.jsonl --table

Each line is what `train --dry_run --topology` prints for Toys, compiled by libtpu (the
extra `tpu`); what is in the file already is not compiled again. Histories have one
width, the widest, so that a program is compiled once and not four times.
"""

import argparse
import json
import pathlib
import subprocess
import sys

PRESETS = (":small", "")
# Slice, batch of the whole slice, chips that share the weights. A batch of more rows a
# chip takes longer to compile: those come last.
CELLS = (
  ("v5e:16x16", 256, 1),
  ("v5e:16x16", 256, 4),
  ("v5e:8x8", 256, 1),
  ("v5e:2x4", 256, 1),
  ("v5e:1x1", 32, 1),
  ("v5e:16x16", 8_192, 1),
  ("v5e:1x1", 256, 1),
)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--output", type=pathlib.Path, required=True)
  parser.add_argument("--table", action="store_true", help="print what is there")
  flags = parser.parse_args()
  lines = flags.output.read_text().splitlines() if flags.output.exists() else []
  found = [json.loads(line) for line in lines]
  if flags.table:
    print("\n".join(table(found)))
    return
  known = {tuple(report["cell"]) for report in found}
  for cell in CELLS:
    for preset in PRESETS:
      if (preset, *cell) not in known:
        report = {"cell": (preset, *cell)} | compiled(preset, *cell)
        with flags.output.open("a") as file:
          file.write(json.dumps(report) + "\n")


def compiled(preset: str, topology: str, batch: int, model: int) -> dict:
  command = (
    f"-m lightlm_jax.train --config=configs/toys.py{preset} --dry_run "
    f"--topology={topology} --config.mesh.model={model} "
    f"--config.train.batch_size={batch} --config.train.eval_batch_size={batch} "
    "--config.train.history_buckets=() --config.train.pack=1 --config.input.user=True"
  )
  print(command, flush=True)
  done = subprocess.run(
    [sys.executable, *command.split()], stdout=subprocess.PIPE, check=True
  )
  return json.loads(done.stdout)


def table(found: list[dict]) -> list[str]:
  """Markdown: a row for each report, bytes in 10^6, FLOPs in 10^9 a chip."""
  rows = [
    "| preset | chips | mesh | batch | step: GFLOP | MB held | all-reduce, MB "
    "| others, MB | search: GFLOP | MB held | collectives, MB | compiled, s |",
    "| --- " * 12 + "|",
  ]
  for report in sorted(found, key=place):
    mesh, topology = report["mesh"], report["topology"]
    chips = mesh["data"] * mesh["model"]
    steps, search = topology["steps"], topology["search"]
    reduced = sent(steps, "all-reduce")
    seconds = steps["compile_seconds"] + search["compile_seconds"]
    cells = (
      report["cell"][0].removeprefix(":") or "default",
      chips,
      f"{mesh['data']} × {mesh['model']}",
      f"{report['batch']:,}",
      f"{report['flops_per_step'] / chips / 1e9:.3g}",
      f"{steps['bytes_per_device']['total'] / 1e6:.0f}",
      f"{reduced / 1e6:.1f}",
      f"{(sent(steps) - reduced) / 1e6:.1f}",
      f"{search['flops_per_batch'] / chips / 1e9:.3g}",
      f"{search['bytes_per_device']['total'] / 1e6:.0f}",
      f"{sent(search) / 1e6:.3g}",
      f"{seconds:.0f}",
    )
    rows.append("| " + " | ".join(map(str, cells)) + " |")
  return rows


def place(report: dict) -> tuple:
  """Of its row: by preset, by chips, by what is changed of them."""
  preset, _, batch, model = report["cell"]
  chips = report["mesh"]["data"] * report["mesh"]["model"]
  return PRESETS.index(preset), chips, model, batch


def sent(program: dict, *kinds: str) -> int:
  """Bytes of a program's collectives, of all kinds where none is named."""
  rows = program["collectives"]
  return sum(row["bytes"] for row in rows if not kinds or row["kind"] in kinds)


if __name__ == "__main__":
  main()
