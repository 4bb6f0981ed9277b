"""The engine for one machine, whose memory does not grow with the log.

Two threads read the files. The rows are spooled to one file per part (a share of the
users). Memory holds a few pieces of a file and up to about `_WAITING` rows. Later it
holds one part (about `part_bytes` of input) per thread.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import concurrent.futures
from typing import Any

from etils import epath
import pyarrow
import pyarrow.ipc
import rich.progress

from lightlm_jax.preprocess import readers, rows, stages
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.stages import Layout
from lightlm_jax.preprocess.tally import Tally

_THREADS = 2
_WAITING = 2**21  # rows of all parts in memory before they are spooled


class OneMachine:
  """Runs the steps of stages.py in this process; `Beam` has the same methods."""

  def __init__(self, progress: rich.progress.Progress):
    self._progress = progress

  def settle(
    self, sources: Sequence[Source], options: Options, layout: Layout
  ) -> Tally:
    """Reads a log and groups the rows of each part by user; returns the log's tally."""
    spool = _Spool(layout)
    tally = Tally()
    sizes = [epath.Path(source.path).stat().length for source in sources]
    task = self._progress.add_task("read", total=sum(sizes))

    def read(at: tuple[Source, readers.Piece]):
      source, piece = at
      found = rows.read(source, piece, options, layout.parts)
      return sum(sizes[: source.index]) + piece.read, *found

    pieces = (
      (source, piece)
      for source in sources
      for piece in readers.pieces(source, options.block_bytes)
    )
    for done, by_part, found in _ahead(read, pieces):
      tally += found
      spool.add(by_part)
      self._progress.update(task, completed=done)
    self._progress.update(task, completed=sum(sizes))
    spool.flush()
    tally.check(spool.rows, "after reading")

    def settled(layout: Layout, part: int) -> Tally:
      return stages.settle(layout, part, spool.take(part), options)

    return sum(self.each(settled, layout, title="sort", number=layout.parts), tally)

  def each(
    self, step: Callable, layout: Layout, *, title: str, number: int, **options
  ) -> list[Any]:
    """Returns [step(layout, n, **options) for n < `number`]; progress shows `title`."""
    found = _ahead(lambda n: step(layout, n, **options), range(number))
    return list(self._progress.track(found, total=number, description=title))


class _Spool:
  """Collects rows, and appends them to one file on disk per part."""

  def __init__(self, layout: Layout):
    self._layout = layout
    self._waiting = collections.defaultdict(list)
    self._flushed = self.rows = 0

  def add(self, by_part: Mapping[int, pyarrow.Table]) -> None:
    for part, table in by_part.items():
      self._waiting[part].append(table)
      self.rows += len(table)
    if self.rows - self._flushed >= _WAITING:
      self.flush()

  def flush(self) -> None:
    for part, tables in self._waiting.items():
      # Each flush appends an Arrow stream of its own, so that no file stays open.
      with self._layout.path("rows", part).open("ab") as file:
        stages.write_stream(file, pyarrow.concat_tables(tables).combine_chunks())
    self._waiting.clear()
    self._flushed = self.rows

  def take(self, part: int) -> pyarrow.Table:
    """Returns the rows of a part, and deletes its file."""
    path = self._layout.path("rows", part)
    tables = [rows.SCHEMA.empty_table()]
    if path.exists():
      buffer = pyarrow.BufferReader(path.read_bytes())
      while buffer.tell() < buffer.size():
        tables.append(pyarrow.ipc.open_stream(buffer).read_all())
      path.unlink()
    return pyarrow.concat_tables(tables)


def _ahead(function: Callable[[Any], Any], arguments: Iterable[Any]) -> Iterator[Any]:
  """Yields `function(x)` for each x of `arguments`, in order; threads work ahead."""
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    waiting = collections.deque()
    try:
      for argument in arguments:
        waiting.append(pool.submit(function, argument))
        if len(waiting) > _THREADS:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      pool.shutdown(cancel_futures=True)
