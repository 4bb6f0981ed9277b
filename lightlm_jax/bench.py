"""Times the search under the trie, beside other ways to do it.

python -m lightlm_jax.bench decode --quick

Parts: (a) the transition step alone, by items, beams and depth; (b) size, time and
memory of building the index; (c) users a second end to end; (d) the same weights in
transformers' T5, whose `generate` asks a dict; (large) a model and a catalogue for an
accelerator.

--peer=MODULE:FUNCTION adds an implementation to (a): benches/transition.py says what
the function is given and returns.
"""

from collections.abc import Callable, Sequence
import functools
import importlib
import os
import shlex
import sys
from typing import Any, NamedTuple

from absl import flags
from etils import epath
import jax
import rich.console

from lightlm_jax import command_line, devices, figures
from lightlm_jax import results as results_lib
from lightlm_jax import workdir as workdir_lib
from lightlm_jax.benches import end_to_end, index_size, plot, transition
from lightlm_jax.errors import UserError

COMMANDS = ("decode",)
PARTS = ("a", "b", "c", "d", "large")
_QUICK = flags.DEFINE_bool("quick", False, "small sizes: 2 minutes on 2 CPU cores")
_PARTS = flags.DEFINE_list(
  "parts", None, f"of {','.join(PARTS)}; default: all, on a CPU without large"
)
_SIZES = flags.DEFINE_list("sizes", None, "items of the random catalogues of a and b")
_BEAMS = flags.DEFINE_list("beams", None, "widths of the search of a")
_DEPTHS = flags.DEFINE_list("depths", None, "tokens of a code of a")
_BATCH = flags.DEFINE_integer(
  "batch", None, "rows of a call of a; default: as many beams in every call"
)
_REPEATS = flags.DEFINE_integer("repeats", None, "the fewest calls that are timed")
_PEERS = flags.DEFINE_multi_string("peer", [], "MODULE:FUNCTION, timed in a too")
_FIGURE = command_line.define_figure()
_REPORT = command_line.define_report()
_PLATFORM = command_line.define_platform()


class Options(NamedTuple):
  """What is timed, and how long.

  Attributes:
    parts: of PARTS.
    sizes: items of the random catalogues.
    beams: widths of the search.
    depths: tokens of a code.
    batch: rows of a call of (a); None = as many as have `slots` beams.
    slots: beams of all rows together.
    repeats: the fewest calls.
    seconds: the shortest time that a step of (a) is repeated for.
    batches: users at once, end to end.
    toys_batches: likewise, on Toys' own ids.
    t5_batch: users that T5 is asked for.
  """

  parts: Sequence[str] = PARTS
  sizes: Sequence[int] = (10_000, 100_000, 1_000_000, 10_000_000)
  beams: Sequence[int] = (20, 70, 200)
  depths: Sequence[int] = (4, 8)
  batch: int | None = None
  slots: int = 6_400
  repeats: int = 5
  seconds: float = 0.3
  batches: Sequence[int] = (1, 32, 256)
  toys_batches: Sequence[int] = (1, 32, 256)
  t5_batch: int = 64


QUICK = Options(
  sizes=(10_000, 100_000),
  beams=(20,),
  depths=(4,),
  slots=1_280,
  repeats=3,
  seconds=0.05,
  batches=(1, 32),
  toys_batches=(32,),
  t5_batch=16,
)


def main(argv) -> None:
  del argv  # the one command is `decode`
  given = {
    "sizes": _numbers(_SIZES),
    "beams": _numbers(_BEAMS),
    "depths": _numbers(_DEPTHS),
    "batch": _BATCH.value,
    "repeats": _REPEATS.value,
  }
  given = {name: value for name, value in given.items() if value is not None}
  for name in ("batch", "repeats"):
    if given.get(name, 1) < 1:
      raise UserError(f"--{name} is {given[name]}; it must be at least 1")
  options = (QUICK if _QUICK.value else Options())._replace(**given)
  peers = {name: _load(name) for name in _PEERS.value}
  parts = _PARTS.value
  for part in parts or ():
    if part not in PARTS:
      raise UserError(f"there is no part {part!r}; choose of {', '.join(PARTS)}")
  if _FIGURE.value:
    figures.new(1, 1)  # what cannot be drawn is no surprise for the end
    if parts and "a" not in parts:
      raise UserError("--figure draws part a; add it to --parts")
  devices.select(_PLATFORM.value)
  devices.enable_compilation_cache()
  devices.check(_PLATFORM.value)
  if not parts:
    slow = _QUICK.value or jax.default_backend() == "cpu"
    parts = [part for part in PARTS if not (part == "large" and slow)]
  path = epath.Path(_REPORT.value) if _REPORT.value else None
  report = decode(options._replace(parts=parts), peers, path)
  if _FIGURE.value:
    plot.draw(report["transition"], epath.Path(_FIGURE.value))


def decode(
  options: Options, peers: dict[str, Callable], path: epath.Path | None = None
) -> dict[str, Any]:
  """Times the parts, prints and returns the report.

  Args:
    options: what to time.
    peers: more implementations of the transition step, by name.
    path: where to write the report after every part; None = nowhere.

  Raises:
    UserError: in one line, what a person can mend.
  """
  console = rich.console.Console()
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  report = {
    "command": shlex.join(["python", "-m", "lightlm_jax.bench", *sys.argv[1:]]),
    "backend": jax.default_backend(),
    "devices": results_lib.devices(),
    "threads": end_to_end.threads(),
    "versions": results_lib.versions(),
    "options": options._asdict(),
    "transition": None,
    "index": None,
    "end_to_end": [],
    "t5": None,
    "notes": [],
  }

  def save():
    if path:
      workdir_lib.write_json(path, report)

  def note(line):
    report["notes"].append(line)
    say(line)

  save()  # a folder that cannot be written is no surprise for the end
  say(report["command"])
  say(f"{devices.describe()}; {report['threads']} CPU threads")
  say("; ".join(f"{name} {version}" for name, version in report["versions"].items()))
  if "a" in options.parts:
    report["transition"] = transition.run(
      transition.IMPLEMENTATIONS | peers,
      sizes=options.sizes,
      depths=options.depths,
      beams=options.beams,
      batch=lambda width: options.batch or max(1, options.slots // width),
      repeats=options.repeats,
      seconds=options.seconds,
      say=say,
    )
    save()
  if "b" in options.parts:
    report["index"] = index_size.run(options.sizes, options.repeats, say)
    save()
  for part, make, batches in (
    ("c", end_to_end.paper, options.batches),
    ("c", end_to_end.toys, options.toys_batches),
    ("large", end_to_end.large, (16,)),
  ):
    if part in options.parts:
      try:
        report["end_to_end"] += end_to_end.run(make, batches, options.repeats, say)
      except UserError as error:
        note(f"end to end, {make.__name__}: skipped, {error}")
      save()
  if "d" in options.parts:
    # torch's threads spin while they wait for each other: ten times as slow where
    # another process has one of the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
      from lightlm_jax.benches import t5  # noqa: PLC0415, of the extra `parity`
    except ModuleNotFoundError as error:
      if error.name not in ("torch", "transformers"):
        raise
      note(
        f"T5: skipped, there is no {error.name}: "
        "pip install -c constraints.txt -e '.[parity]'"
      )
    else:
      work = end_to_end.paper()
      report["t5"] = t5.compare(work, options.t5_batch, options.repeats, say)
    save()
  return report


def _numbers(flag: flags.FlagHolder) -> tuple[int, ...] | None:
  """The integers of a list, at least 1; None where it was not given."""
  if flag.value is None:
    return None
  words = [word.replace("_", "") for word in flag.value]
  if not words or not all(word.isdecimal() and int(word) for word in words):
    raise UserError(
      f"--{flag.name}={','.join(flag.value)} is no list of numbers, such as 20,70,200"
    )
  return tuple(int(word) for word in words)


def _load(name: str) -> Callable:
  """The function `MODULE:FUNCTION`."""
  module_name, _, function = name.partition(":")
  try:
    return getattr(importlib.import_module(module_name), function)
  except (ModuleNotFoundError, AttributeError, ValueError) as error:
    # A module that lacks one of its own imports is for its author to mend.
    missing = getattr(error, "name", None)
    if isinstance(error, ModuleNotFoundError) and missing != module_name:
      raise
    raise UserError(
      f"--peer={name}: {error}; write MODULE:FUNCTION, with the module's folder on "
      "PYTHONPATH"
    )


if __name__ == "__main__":
  jax.config.update("jax_numpy_rank_promotion", "raise")
  sys.exit(command_line.main(main, COMMANDS))
