"""Damages everything that can be damaged, and counts what held.

  python -m tests.faults --minutes=20
  python -m tests.faults --kinds kills damage --out=results/faults
  python -m tests.faults --kinds kills --seed=17 --trials=1

Without --minutes every kind makes all its trials. A trial that fails prints the command
that replays it; the exit code is 1 then. --out writes the counts as KIND.json.
"""

import argparse
import importlib
import json
import pathlib
import sys
import time

import rich.box
import rich.console
import rich.table

# The modules of this folder with a KIND, or with several KINDS.
MODULES = (
  "saves",
  "failed_saves",
  "damage",
  "requests",
  "command_lines",
  "hostile",
  "malformed",
)
TESTS = pathlib.Path(__file__).parent.parent


def main() -> int:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--minutes", type=float, default=float("inf"))
  parser.add_argument("--kinds", nargs="*", help="default: all")
  parser.add_argument("--seed", type=int, default=time.time_ns() // 10**9)
  parser.add_argument("--trials", type=int, help="of each kind; default: its own")
  parser.add_argument("--out", type=pathlib.Path)
  flags = parser.parse_args()
  # As pytest does: helpers of the tests are imported by their bare names.
  sys.path.insert(0, str(TESTS))
  import compiling  # noqa: PLC0415

  from tests.faults import suite  # noqa: PLC0415

  compiling.quick()

  known = {
    kind.name: kind
    for module in MODULES
    for kind in importlib.import_module(f"tests.faults.{module}").KINDS
  }
  names = flags.kinds or list(known)
  if unknown := set(names) - known.keys():
    parser.error(f"no kind {', '.join(unknown)}; there are {', '.join(known)}")
  deadline = time.monotonic() + 60 * flags.minutes
  console = rich.console.Console(width=110)
  console.print(f"seed {flags.seed}")
  rows = []
  for place, name in enumerate(names):
    kind = known[name]
    rows.append(
      suite.run(
        kind,
        seed=flags.seed,
        trials=flags.trials or kind.trials,
        seconds=(deadline - time.monotonic()) / (len(names) - place),
        say=lambda text: console.print(text, markup=False, highlight=False),
      )
    )
    found = rows[-1]
    console.print(f"{name}: {found.tried - len(found.failed)} of {found.tried} held")
    if flags.out:
      write(flags.out / f"{name}.json", found, flags.seed)
  console.print(table(rows))
  return int(any(found.failed for found in rows))


def write(path: pathlib.Path, found, seed: int) -> None:
  content = {
    "about": found.kind.about,
    "seed": seed,
    "tried": found.tried,
    "held": found.tried - len(found.failed),
    "what": dict(found.held.most_common()),
    "failed": found.failed,
    "seconds": round(found.seconds),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(content, indent=2) + "\n")


def table(rows) -> rich.table.Table:
  shown = rich.table.Table(box=rich.box.SIMPLE)
  for column in ("kind", "tried", "held", "seconds", "what held"):
    shown.add_column(column, justify="left" if column.startswith("k") else "right")
  shown.columns[-1].justify = "left"
  for found in rows:
    shown.add_row(
      found.kind.name,
      f"{found.tried:,}",
      f"{found.tried - len(found.failed):,}",
      f"{found.seconds:.0f}",
      "; ".join(f"{said} ({n:,})" for said, n in found.held.most_common(6)),
    )
  return shown


if __name__ == "__main__":
  sys.exit(main())
