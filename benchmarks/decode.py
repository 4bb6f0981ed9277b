"""Runs the parts of `bench decode`: constrained beam search and its alternatives."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from etils import epath
import jax

from lightlm_jax.benchmarks import end_to_end, index_size, l2d, transition
from lightlm_jax.benchmarks.record import Record
from lightlm_jax.runtime.errors import UserError

PARTS = ("a", "b", "c", "d", "e", "large")


class Options(NamedTuple):
  """Options of the parts: (a) transition, (b) index, (c) end to end, (d) T5, (e) L2D.

  Attributes:
    parts: parts to run, from PARTS.
    sizes: numbers of items of the random catalogues.
    beams: beam sizes.
    depths: numbers of tokens per code.
    batch: rows per call in (a); None = `slots` divided by the beam size.
    slots: total number of beams in a call of (a), if `batch` is None.
    repeats: minimum number of timed calls.
    seconds: minimum total time of a step's calls in (a).
    batches: users per batch in (c) with random ids.
    toys_batches: users per batch in (c) with the ids of Toys.
    t5_batch: users per batch in (d).
    memory_batches: users per batch in (e).
    examples: training examples in the state index of (e).
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
  memory_batches: Sequence[int] = (1, 64)
  examples: int = 150_000  # as Toys


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
  memory_batches=(16,),
  examples=20_000,
)


SHORT = Options(  # for an accelerator that is available for a few minutes only
  sizes=(10_000, 1_000_000),
  beams=(20,),
  depths=(4,),
  repeats=3,
  seconds=0.1,
  batches=(1, 32, 256),
  toys_batches=(256,),
)


def parts_here(quick: bool) -> list[str]:
  """Returns the default parts: all, or all but "large" if `quick` or on a CPU."""
  slow = quick or jax.default_backend() == "cpu"
  return [part for part in PARTS if not (part == "large" and slow)]


def decode(
  options: Options,
  peers: dict[str, Callable],
  path: epath.Path | None = None,
  end: float | None = None,
) -> dict[str, Any]:
  """Times the parts, prints their tables and returns the report.

  Args:
    options: the options.
    peers: further implementations of the transition step, by name.
    path: JSON file for the report, written after every part; None = no file.
    end: see `Record`.

  Raises:
    UserError: an option or a file is wrong.
  """
  parts = {
    "transition": None,
    "index": None,
    "end_to_end": [],
    "t5": None,
    "memory": [],
  }
  record = Record(options._asdict(), parts, path, end)
  report = record.report
  if "a" in options.parts and record.in_time("transition"):
    report["transition"] = transition.run(
      transition.IMPLEMENTATIONS | peers,
      sizes=options.sizes,
      depths=options.depths,
      beams=options.beams,
      batch=lambda width: options.batch or max(1, options.slots // width),
      repeats=options.repeats,
      seconds=options.seconds,
    )
    record.save()
  if "b" in options.parts and record.in_time("index"):
    report["index"] = index_size.run(options.sizes, options.repeats)
    record.save()
  for part, make, batches in (
    ("c", end_to_end.paper, options.batches),
    ("c", end_to_end.toys, options.toys_batches),
    ("large", end_to_end.large, (16,)),
  ):
    what = f"end to end, {make.__name__}"
    if part in options.parts and record.in_time(what):
      try:
        report["end_to_end"] += end_to_end.run(make, batches, options.repeats)
      except UserError as error:
        record.note(f"{what}: skipped, {error}")
      record.save()
  if "d" in options.parts and record.in_time("T5"):
    if t5 := record.of_parity("t5", "T5"):
      work = end_to_end.paper()
      report["t5"] = t5.compare(work, options.t5_batch, options.repeats)
    record.save()
  if "e" in options.parts and record.in_time("memory"):
    t5 = record.of_parity("t5", "T5")
    report["memory"] = l2d.run(
      end_to_end.paper(),
      options.memory_batches,
      options.examples,
      options.repeats,
      t5 and t5.searcher,
    )
    record.save()
  return report
