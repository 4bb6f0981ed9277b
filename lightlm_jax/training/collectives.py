"""Finds the collectives of a compiled program, by parsing its HLO text."""

from collections.abc import Iterable
import functools
import re
from typing import Any, NamedTuple

KINDS = (
  *("all-gather", "all-reduce", "all-to-all", "collective-broadcast"),
  *("collective-permute", "ragged-all-to-all", "reduce-scatter"),
)

_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\(")
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
  times: int = 1  # executions in one run of the program; see `executed`


def executed(text: str) -> list[Collective]:
  """Returns the collectives that one run of a program executes.

  `text` is from `jax.stages.Compiled.as_text()`. A collective in a loop counts once per
  iteration if the trip count is static (as in a scan of layers), otherwise once
  (as in the steps of a dispatch). Of a conditional the branch with most bytes counts.
  """
  computations, entry = _computations(text)

  @functools.cache
  def of(name: str) -> list[Collective]:
    return [each for line in computations.get(name, ()) for each in of_operation(line)]

  def of_operation(line: str) -> list[Collective]:
    if (operation := _OPERATION.match(line)) is None:
      return []
    shape, name = operation.groups()
    # In a start/done pair only the second instruction has the shape of the result.
    if name.removesuffix("-done") in KINDS:
      return [_collective(name.removesuffix("-done"), shape)]
    if name.endswith("-done"):
      return []  # counted at its `async-start`, which calls it
    called = _CALLED.findall(line[operation.end() :])
    callees = [callee.lstrip("%") for listed in called for callee in listed.split(", ")]
    if name == "conditional":
      return max((of(callee) for callee in callees), key=total_bytes, default=[])
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


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
  """Returns {computation: its lines of HLO} and the name of the entry computation."""
  computations, entry, lines = {}, "", []
  for line in text.splitlines():
    if header := _COMPUTATION.match(line):
      lines = computations[header[2]] = []
      entry = header[2] if header[1] else entry
    else:
      lines.append(line)
  return computations, entry


def _collective(kind: str, shape: str) -> Collective:
  shapes, total = [], 0
  for dtype, sizes in _SHAPE.findall(shape):
    bits = 8 if dtype == "pred" else int((re.search(r"\d+", dtype) or [0])[0])
    for size in sizes.split(",") if sizes else ():
      bits *= int(size)
    shapes.append(f"{dtype}[{sizes}]")
    total += bits // 8
  return Collective(kind, tuple(shapes), total)


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
