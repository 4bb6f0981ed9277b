"""Finds what a compiled program executes, its collectives first, in its HLO text."""

from collections.abc import Callable, Iterable
import functools
import re
from typing import Any, NamedTuple

KINDS = (
  *("all-gather", "all-reduce", "all-to-all", "collective-broadcast"),
  *("collective-permute", "ragged-all-to-all", "reduce-scatter"),
)

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
OPERATION = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLED = re.compile(
  r"\b(?:calls|to_apply|body|condition|branch_computations|true_computation|"
  r"false_computation|called_computations)=\{?((?:%[\w.\-]+(?:, )?)+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LIMIT = re.compile(r" constant\((\d+)\)")


class Collective(NamedTuple):
  """One collective instruction."""

  kind: str  # one of `KINDS`
  shapes: tuple[str, ...]  # of the results on each device, such as "f32[128,64]"
  bytes: int  # of all results on each device
  times: int = 1  # executions in one run of the program; see `walk`


def executed(text: str) -> list[Collective]:
  """Returns the collectives that one run of a program executes; see `walk`."""

  def chosen(name: str, shape: str, _: str) -> Collective | None:
    # In a start/done pair only the second instruction has the shape of the result.
    kind = name.removesuffix("-done")
    return Collective(kind, *_size(shape)) if kind in KINDS else None

  return walk(text, chosen, total_bytes)


def walk(text: str, chosen: Callable, weigh: Callable) -> list[Any]:
  """Returns what one run of a program executes, of the kind that is looked for.

  An instruction in a loop counts once per iteration if the trip count is static (as in
  a scan of layers), otherwise once (as in the steps of a dispatch). Of a conditional
  the heaviest branch counts.

  Args:
    text: from `jax.stages.Compiled.as_text()`.
    chosen: maps an instruction's operation, shape and line to a NamedTuple with the
      field `times`, or None to look into the computations that it calls.
    weigh: maps a list of such tuples to a number.
  """
  computations, entry = computations_of(text)

  @functools.cache
  def of(name: str) -> list[Any]:
    return [each for line in computations.get(name, ()) for each in of_operation(line)]

  def of_operation(line: str) -> list[Any]:
    if (operation := OPERATION.match(line)) is None:
      return []
    shape, name = operation.groups()
    if (found := chosen(name, shape, line)) is not None:
      return [found]
    if name.endswith("-done"):
      return []  # counted at its `async-start`, which calls it
    called = _CALLED.findall(line[operation.end() :])
    if _TRIPS.search(line):
      called = called[1:]  # of a loop whose length is known, the condition is not run
    callees = [callee.lstrip("%") for listed in called for callee in listed.split(", ")]
    if name == "conditional":
      return max((of(callee) for callee in callees), key=weigh, default=[])
    inside = [each for callee in callees for each in of(callee)]
    if name == "while":
      turns = _turns(line, computations)
      inside = [each._replace(times=each.times * turns) for each in inside]
    return inside

  return of(entry)


def total_bytes(collectives: Iterable[Collective]) -> int:
  return sum(each.bytes * each.times for each in collectives)


def by_kind(collectives: Iterable[Collective]) -> list[dict[str, Any]]:
  """Returns {kind, count, bytes} per kind; both numbers are sums over executions."""
  rows = {}
  for each in collectives:
    row = rows.setdefault(each.kind, {"kind": each.kind, "count": 0, "bytes": 0})
    row["count"] += each.times
    row["bytes"] += each.bytes * each.times
  return [rows[kind] for kind in sorted(rows)]


def computations_of(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns {computation: its lines of HLO} and the name of the entry computation."""
  computations, entry, lines = {}, "", []
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      lines = computations[header[2]] = []
      entry = header[2] if header[1] else entry
    else:
      lines.append(line)
  return computations, entry


def bytes_of(shape: str) -> int:
  """Returns the bytes of an instruction's result, which may be a tuple."""
  return _size(shape)[1]


def _size(shape: str) -> tuple[tuple[str, ...], int]:
  shapes, total = [], 0
  for dtype, sizes in _SHAPE.findall(shape):
    bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or [0])[0])
    for size in sizes.split(",") if sizes else ():
      bits *= int(size)
    shapes.append(f"{dtype}[{sizes}]")
    total += bits // 8
  return tuple(shapes), total


def _turns(line: str, computations: dict[str, list[str]]) -> int:
  """Returns the trip count of the `while` in a line of HLO; 1 if it is not static."""
  if trips := _TRIPS.search(line):
    return int(trips[1])
  # XLA for TPUs gives no trip count, but a scan's condition is `counter < constant`.
  name = re.search(r"condition=%?([\w.\-]+)", line)
  condition = "\n".join(computations.get(name[1], ()) if name else ())
  limits = _LIMIT.findall(condition)
  operations = re.findall(r" (compare|fusion|and|call)\(", condition)
  if operations == ["compare"] and "direction=LT" in condition and len(limits) == 1:
    return int(limits[0])
  return 1
