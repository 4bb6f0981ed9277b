"""The engine for many machines: the steps of stages.py as Apache Beam pipelines.

This is the only file that imports Beam. Lines are numbered, so that each file of the
log is read by one worker, and a log of many files by many. Workers exchange data in the
work folder, which must be visible to all of them.
"""

from collections.abc import Callable, Iterator, Sequence
import functools
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
from lightlm_jax.preprocess import tally as tally_lib
from lightlm_jax.preprocess.rows import Rules
from lightlm_jax.preprocess.sequences import Policy
from lightlm_jax.preprocess.stages import Layout
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.runtime.errors import UserError

logger = logging.getLogger(__name__)


class Beam:
  """Runs the steps as pipelines. The other engine is `one_machine.OneMachine`."""

  def __init__(self, options: str):
    """Takes options in command-line form: "--runner=FlinkRunner …"."""
    self._options = PipelineOptions(shlex.split(options), save_main_session=False)
    self._pipelines = 0

  def settle(
    self,
    sources: Sequence[readers.Source],
    rules: Rules,
    policy: Policy,
    layout: Layout,
    strict: bool,
  ) -> Tally:
    """Reads all files and writes the users of each part. See `stages.settle`."""

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
      read = (
        pipeline
        | beam.Create(list(sources))
        | beam.Reshuffle()
        | beam.FlatMap(_read, rules, layout, strict).with_outputs("tally", main="rows")
      )
      # Empty parts are settled too.
      schema = pyarrow.schema([f for f in rows.SCHEMA if f.name != "part"])
      empty = _packed(schema.empty_table())
      parts = pipeline | "parts" >> beam.Create(
        [(part, empty) for part in range(layout.parts)]
      )
      settled = (
        (read.rows, parts)
        | "with empty parts" >> beam.Flatten()
        | beam.GroupByKey()
        | beam.Map(_settle, policy=policy, layout=layout)
      )
      return (read.tally, settled) | beam.Flatten()

    tallies = self._run("read and sort", layout, build)
    errors = [value["error"] for value in tallies if "error" in value]
    if errors:
      raise UserError(min(errors))
    return functools.reduce(Tally.__add__, map(tally_lib.from_json, tallies), Tally())

  def each(
    self, step: Callable, layout: Layout, *, title: str, number: int, **options
  ) -> list[Any]:
    """Runs a step of stages.py for every number below `number`; returns the results."""

    def build(pipeline: beam.Pipeline) -> beam.PCollection:
      return (
        pipeline
        | beam.Create(range(number))
        | beam.Reshuffle()
        | beam.Map(_step, step, layout, options)
      )

    return [value for _, value in sorted(self._run(title, layout, build))]

  def _run(self, title: str, layout: Layout, build: Callable) -> list[Any]:
    """Runs a pipeline; its results come back through files, as on any runner."""
    logger.info(f"beam: {title}")
    self._pipelines += 1
    folder = epath.Path(layout.folder) / f"results-{self._pipelines:05d}"
    folder.mkdir()
    with beam.Pipeline(options=self._options) as pipeline:
      lines = build(pipeline) | beam.Map(json.dumps)
      lines | beam.io.WriteToText(str(folder / "part"))
    found = []
    for path in folder.iterdir():
      found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def _read(
  source: readers.Source, rules: Rules, layout: Layout, strict: bool
) -> Iterator[Any]:
  """Yields the rows of a file by part, as bytes, and its tally as a side output."""
  tally = Tally()
  try:
    for piece in readers.pieces(source, layout.block_bytes):
      parsed = readers.parse(source, piece)
      table, found = rows.valid(parsed, source.index, rules)
      if strict and found.rejected:
        tally_lib.refuse(found, {source.index: source.path})
      tally += found
      for part, slice_ in rows.by_part(table):
        yield part, _packed(slice_)
  except UserError as error:
    yield beam.pvalue.TaggedOutput("tally", {"error": str(error)})
    return
  yield beam.pvalue.TaggedOutput("tally", tally_lib.to_json(tally))


def _settle(element, policy: Policy, layout: Layout) -> dict[str, Any]:
  part, packed = element
  tables = [pyarrow.ipc.open_stream(content).read_all() for content in packed]
  found = stages.settle(layout, part, pyarrow.concat_tables(tables), policy)
  return tally_lib.to_json(found)


def _step(number: int, step: Callable, layout: Layout, options) -> tuple[int, Any]:
  return number, step(layout, number, **options)


def _packed(table: pyarrow.Table) -> bytes:
  sink = pyarrow.BufferOutputStream()
  with pyarrow.ipc.new_stream(sink, table.schema, options=stages.COMPRESSED) as writer:
    writer.write_table(table)
  return sink.getvalue().to_pybytes()
