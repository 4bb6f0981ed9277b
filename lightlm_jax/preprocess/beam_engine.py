"""The engine for many machines: the steps of stages.py as Apache Beam pipelines.

This is the only file that imports Beam. Each file of the log is read by one worker,
which numbers its lines; several files are read in parallel. Workers exchange data in
the work folder, which all of them must be able to access.
"""

from collections.abc import Callable, Iterator, Sequence
import io
import json
import logging
import shlex
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from etils import epath
import pyarrow
import pyarrow.ipc

from lightlm_jax.preprocess import readers, rows, stages
from lightlm_jax.preprocess.files import Source
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.stages import Layout
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.runtime.errors import UserError

logger = logging.getLogger(__name__)


class Beam:
  """Runs the steps of stages.py as pipelines; `OneMachine` has the same methods."""

  def __init__(self, options: str):
    """Creates the engine; `options` are Beam flags: "--runner=FlinkRunner …"."""
    self._options = PipelineOptions(shlex.split(options), save_main_session=False)
    self._pipelines = 0

  def settle(
    self, sources: Sequence[Source], options: Options, layout: Layout
  ) -> Tally:
    def build(pipeline: beam.Pipeline) -> beam.PCollection:
      read = (
        pipeline
        | beam.Create(list(sources))
        | beam.Reshuffle()
        | beam.FlatMap(_read, options, layout).with_outputs("tally", main="rows")
      )
      # An empty table for every part, so that parts without rows are settled too.
      empty = _packed(rows.SCHEMA.empty_table())
      parts = pipeline | "parts" >> beam.Create(
        [(part, empty) for part in range(layout.parts)]
      )
      settled = (
        (read.rows, parts)
        | "with empty parts" >> beam.Flatten()
        | beam.GroupByKey()
        | beam.Map(_settle, options, layout)
      )
      return (read.tally, settled) | beam.Flatten()

    tallies = self._run("read and sort", layout, build)
    errors = [value["error"] for value in tallies if "error" in value]
    if errors:
      raise UserError(min(errors))
    return sum((Tally(**value) for value in tallies), Tally())

  def each(
    self, step: Callable, layout: Layout, *, title: str, number: int, **options
  ) -> list[Any]:
    def build(pipeline: beam.Pipeline) -> beam.PCollection:
      return (
        pipeline
        | beam.Create(range(number))
        | beam.Reshuffle()
        | beam.Map(_step, step, layout, options)
      )

    return [value for _, value in sorted(self._run(title, layout, build))]

  def _run(self, title: str, layout: Layout, build: Callable) -> list[Any]:
    """Runs the pipeline that `build` fills; returns its results, read from files."""
    logger.info(f"beam: {title}")
    self._pipelines += 1
    folder = epath.Path(layout.folder) / f"results-{self._pipelines:05d}"
    folder.mkdir()
    with beam.Pipeline(options=self._options) as pipeline:
      lines = build(pipeline) | beam.Map(json.dumps)
      lines | beam.io.WriteToText(str(folder / "part"))
    texts = [path.read_text() for path in folder.iterdir()]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def _read(source: Source, options: Options, layout: Layout) -> Iterator[Any]:
  """Yields (part, rows as Arrow bytes) of a file; then its tally, as a side output."""
  tally = Tally()
  try:
    for piece in readers.pieces(source, options.block_bytes):
      by_part, found = rows.read(source, piece, options, layout.parts)
      tally += found
      yield from ((part, _packed(table)) for part, table in by_part.items())
  except UserError as error:
    yield beam.pvalue.TaggedOutput("tally", {"error": str(error)})
    return
  yield beam.pvalue.TaggedOutput("tally", vars(tally))


def _settle(element, options: Options, layout: Layout) -> dict[str, Any]:
  part, packed = element
  tables = [pyarrow.ipc.open_stream(content).read_all() for content in packed]
  return vars(stages.settle(layout, part, pyarrow.concat_tables(tables), options))


def _step(number: int, step: Callable, layout: Layout, options) -> tuple[int, Any]:
  return number, step(layout, number, **options)


def _packed(table: pyarrow.Table) -> bytes:
  sink = io.BytesIO()
  stages.write_stream(sink, table)
  return sink.getvalue()
