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

# As in pytest: helpers of the tests are imported by their bare names.
TESTS = pathlib.Path(__file__).parent.parent
sys.path.insert(0, str(TESTS))
import compiling  # noqa: E402

from tests.faults import suite  # noqa: E402
from tests.faults.suite import counts  # noqa: E402

# The modules of this folder, each with its KINDS.
MODULES = (
  *("saves", "failed_saves", "kills", "signals", "disks", "runs", "damage"),
  *("asking", "command_lines", "hostile", "malformed", "soak"),
)


def kinds() -> dict[str, suite.Kind]:
  """Returns all kinds of faults by name."""
  modules = (importlib.import_module(f"tests.faults.{name}") for name in MODULES)
  return {kind.name: kind for module in modules for kind in module.KINDS}


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
  compiling.quick()
  known = kinds()
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
    tried, held = suite.counts(rows[-1])
    console.print(f"{name}: {held:,} of {tried:,} held")
    if flags.out:
      write(flags.out / f"{name.replace(' ', '-')}.json", rows[-1], flags.seed)
  console.print(table(rows))
  return int(any(found.failed for found in rows))


def write(path: pathlib.Path, found, seed: int) -> None:
  tried, held = counts(found)
  content = {
    "about": found.kind.about,
    "seed": seed,
    "tried": tried,
    "held": held,
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
    tried, held = counts(found)
    shown.add_row(
      found.kind.name,
      f"{tried:,}",
      f"{held:,}",
      f"{found.seconds:.0f}",
      "; ".join(f"{said} ({n:,})" for said, n in found.held.most_common(6)),
    )
  return shown


if __name__ == "__main__":
  sys.exit(main())
