"""Counts the kernels of a program that is compiled for a GPU, in its HLO text."""

from collections.abc import Iterable
import re
from typing import Any, NamedTuple

from lightlm_jax.training import collectives
from lightlm_jax.training.collectives import OPERATION, bytes_of

# What runs on no stream: names of values, and what only calls other computations.
_NOTHING = {
  *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
  *("while", "conditional", "call", "async-start", "partition-id", "replica-id"),
  *("opt-barrier", "add-dependency"),
}
_NAME = re.compile(r"\s+(?:ROOT )?%?([\w.\-]+) = ")
_OPERANDS = re.compile(r"%([\w.\-]+)")
_TARGET = re.compile(r'custom_call_target="([^"]+)"')
_FUSED = re.compile(r"\bcalls=%?([\w.\-]+)")
_WORKSPACE = re.compile(r", s8\[\d+\](?=\{0\}\)$)")  # of a matrix product's library
_READS_PARTS = ("gather", "dynamic-slice")


class Kernel(NamedTuple):
  """One instruction that a GPU runs."""

  kind: str  # the operation, or for calls of a library: its name
  bytes: int  # read and written
  times: int = 1  # executions in one run of the program; see `collectives.walk`


def executed(text: str) -> list[Kernel]:
  """Returns the kernels that one run of a program starts.

  `text` is from `jax.stages.Compiled.as_text()`, compiled for a GPU. An array that a
  fusion reads by gathers and slices alone counts with the parts that it reads, and one
  that it updates in place with the part that it writes.
  """
  computations, _ = collectives.computations_of(text)
  shape_of = {}
  for lines in computations.values():
    for line in lines:
      if (operation := OPERATION.match(line)) and (name := _NAME.match(line)):
        shape_of[name[1]] = operation[1]

  def operands(line: str) -> list[str]:
    start = OPERATION.match(line)
    assert start is not None
    return _OPERANDS.findall(line[start.end() : line.index(")", start.end())])

  def moved(line: str, shape: str) -> int:
    read, shape = operands(line), _WORKSPACE.sub("", shape)
    size = bytes_of(shape) + sum(bytes_of(shape_of.get(name, "")) for name in read)
    if (fused := _FUSED.search(line)) is None:
      return size
    lines = computations.get(fused[1], [])
    users: dict[str, list[str]] = {}
    for each in lines:
      if OPERATION.match(each) and " parameter(" not in each:
        for name in set(operands(each)):
          users.setdefault(name, []).append(each)
    for each in lines:
      if found := re.search(r"%?([\w.\-]+) = (.*?) parameter\((\d+)\)", each):
        size += _saved(found[1], bytes_of(found[2]), users.get(found[1], []), operands)
    return size + sum(_saved_by_update(each, shape_of, operands) for each in lines)

  def chosen(name: str, shape: str, line: str) -> Kernel | None:
    if name in _NOTHING or name.endswith("-done"):
      return None
    target = _TARGET.search(line)
    kind = target[1] if target else name.removesuffix("-start")
    if '"kind":"__triton' in line:
      kind = "triton fusion"
    return Kernel(kind, moved(line, shape))

  return collectives.walk(text, chosen, total)


def total(kernels: Iterable[Kernel]) -> int:
  return sum(each.times for each in kernels)


def by_kind(kernels: Iterable[Kernel]) -> dict[str, int]:
  """Returns the number of kernels of each kind, the most frequent first."""
  counts: dict[str, int] = {}
  for each in kernels:
    counts[each.kind] = counts.get(each.kind, 0) + each.times
  return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def total_bytes(kernels: Iterable[Kernel]) -> int:
  return sum(each.bytes * each.times for each in kernels)


def _saved(name: str, whole: int, users: list[str], operands: Any) -> int:
  """Returns what a parameter's bytes change by if only parts of it are read."""
  if not users:
    return 0
  parts = 0
  for line in users:
    operation = OPERATION.match(line)
    assert operation is not None
    shape, kind = operation.groups()
    if kind == "dynamic-update-slice" and operands(line)[0] == name:
      continue  # written in place, not read
    if kind not in _READS_PARTS or operands(line)[0] != name:
      return 0
    parts += bytes_of(shape)
  return min(parts - whole, 0)


def _saved_by_update(line: str, shape_of: dict[str, str], operands: Any) -> int:
  """Returns what a fusion's result changes by if it is a part written in place."""
  if "ROOT" not in line or " dynamic-update-slice(" not in line:
    return 0
  operation = OPERATION.match(line)
  assert operation is not None
  return bytes_of(shape_of.get(operands(line)[1], "")) - bytes_of(operation[1])
