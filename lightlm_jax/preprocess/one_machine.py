"""The engine for one machine: two threads read, and rows are spooled to disk by part.

Memory does not grow with the log: it holds a few pieces of a file and `_WAITING` rows
before they are spooled, then one part (about `PART_BYTES` of the input) at a time.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
from typing import Any

from etils import epath
import pyarrow
import pyarrow.ipc
import rich.progress

from lightlm_jax.preprocess import readers, rows, stages
from lightlm_jax.preprocess import tally as tally_lib
from lightlm_jax.preprocess.rows import Rules
from lightlm_jax.preprocess.sequences import Policy
from lightlm_jax.preprocess.stages import Layout
from lightlm_jax.preprocess.tally import Tally

_THREADS = 2
_WAITING = 2**21  # rows, of all parts


class OneMachine:
  """Runs the steps in this process. The other engine is `beam_engine.Beam`."""

  def __init__(self, progress: rich.progress.Progress):
    self._progress = progress

  def settle(
    self,
    sources: Sequence[readers.Source],
    rules: Rules,
    policy: Policy,
    layout: Layout,
    strict: bool,
  ) -> Tally:
    """Reads all files and writes the users of each part. See `stages.settle`."""
    spool = _Spool(layout)
    tally = Tally()
    sizes = [epath.Path(source.path).stat().length for source in sources]
    task = self._progress.add_task("read", total=sum(sizes))
    for (source, read), (table, found) in _ahead(_parsed(sources, rules, layout)):
      if strict and found.rejected:
        tally_lib.refuse(found, {source.index: source.path})
      tally += found
      spool.add(table)
      done = sum(size for s, size in zip(sources, sizes) if s.index < source.index)
      self._progress.update(task, completed=done + read)
    self._progress.update(task, completed=sum(sizes))
    spool.flush()
    tally.check(spool.rows, "after reading")

    def settled(part: int) -> Tally:
      return stages.settle(layout, part, spool.take(part), policy)

    for found in self._each(settled, layout.parts, "sort"):
      tally += found
    return tally

  def each(
    self, step: Callable, layout: Layout, *, title: str, number: int, **options
  ) -> list[Any]:
    """Runs a step of stages.py for every number below `number`; returns the results."""
    return list(self._each(lambda n: step(layout, n, **options), number, title))

  def _each(self, one: Callable[[int], Any], number: int, title: str) -> Iterator:
    task = self._progress.add_task(title, total=number)
    for found in _ahead((lambda n=n: one(n)) for n in range(number)):
      self._progress.advance(task)
      yield found


class _Spool:
  """Rows by part, on disk."""

  def __init__(self, layout: Layout):
    self._layout = layout
    self._waiting: dict[int, list[pyarrow.Table]] = {}
    self._number = 0
    self.rows = 0

  def add(self, table: pyarrow.Table) -> None:
    """Adds rows that are sorted by part."""
    for part, slice_ in rows.by_part(table):
      self._waiting.setdefault(part, []).append(slice_)
    self.rows += len(table)
    self._number += len(table)
    if self._number >= _WAITING:
      self.flush()

  def flush(self) -> None:
    for part, slices in self._waiting.items():
      table = pyarrow.concat_tables(slices).combine_chunks()
      # Each flush appends its own Arrow stream, so that no file stays open.
      with self._path(part).open("ab") as file:
        with pyarrow.ipc.new_stream(
          file, table.schema, options=stages.COMPRESSED
        ) as writer:
          writer.write_table(table)
    self._waiting, self._number = {}, 0

  def take(self, part: int) -> pyarrow.Table:
    """Returns the rows of a part, and deletes its file."""
    path = self._path(part)
    if not path.exists():
      schema = pyarrow.schema([field for field in rows.SCHEMA if field.name != "part"])
      return schema.empty_table()
    tables = []
    buffer = pyarrow.BufferReader(path.read_bytes())
    while buffer.tell() < buffer.size():
      tables.append(pyarrow.ipc.open_stream(buffer).read_all())
    path.unlink()
    return pyarrow.concat_tables(tables)

  def _path(self, part: int) -> epath.Path:
    return self._layout.path("rows", part)


def _parsed(
  sources: Sequence[readers.Source], rules: Rules, layout: Layout
) -> Iterator[Callable]:
  """Yields a function for each piece of each file."""
  for source in sources:
    for piece in readers.pieces(source, layout.block_bytes):

      def call(source=source, piece=piece):
        parsed = readers.parse(source, piece)
        return (source, piece.read), rows.valid(parsed, source.index, rules)

      yield call


def _ahead(calls: Iterator[Callable[[], Any]]) -> Iterator[Any]:
  """Yields the results of functions in order; threads run a few of them ahead."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    waiting = deque()
    try:
      for call in calls:
        waiting.append(pool.submit(call))
        if len(waiting) > _THREADS:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()
