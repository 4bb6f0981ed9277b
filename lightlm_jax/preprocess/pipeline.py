"""Runs the whole preparation of a log, on either engine."""

from collections.abc import Mapping
import contextlib
import dataclasses
import glob
import itertools
import logging
import tempfile
import time
from typing import Any
import uuid

from etils import epath
import polars as pl
import pyarrow
import rich.progress

from lightlm_jax.data import parquet_logs
from lightlm_jax.preprocess import (
  columns,
  compression,
  files,
  items,
  one_machine,
  stages,
)
from lightlm_jax.preprocess import shards_out as output
from lightlm_jax.preprocess import tally as tally_lib
from lightlm_jax.preprocess.options import Options
from lightlm_jax.preprocess.sequences import TIES
from lightlm_jax.preprocess.stages import Layout
from lightlm_jax.preprocess.tally import Tally
from lightlm_jax.runtime import log
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic
from lightlm_jax.storage import folder as folder_lib
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)

MOST_PARTS = 1_024
MOST_TIED = 0.1  # a larger share of tied rows is warned of
_LOCK = ".lock"  # a file of the work folder, locked while the preparation runs
_PACKED = 6  # approximate compression ratio of packed files and Parquet


def run(*, input: str | None, output: str | None, **given: Any) -> dict[str, Any]:
  """Runs `prepare` and returns its manifest; `given` has other fields of `Options`.

  Raises:
    UserError: the flags or the log are wrong; the message says what to change.
  """
  if not input or not output:
    raise UserError(
      "give --input=LOG and --output=DATA/NAME, such as --input=log.csv "
      "--output=data/shop; --help lists the flags"
    )
  given["delimiter"] = _delimiter(given["delimiter"])
  given["columns"] = tuple(given["columns"]) if given["columns"] else None
  given["keep"] = tuple(given["keep"] or ())
  given["time_unit"] = _time_unit(given["time_unit"], given.pop("time_format"))
  log.set_up()
  report = prepare(Options(input=input, output=output, **given))
  target = epath.Path(output)
  logger.info(
    f"{target} is ready: --config.data.dir={target.parent} "
    f"--config.data.name={target.name}"
  )
  return report


def prepare(options: Options) -> dict[str, Any]:
  """Writes the folder `options.output` atomically; in a bucket the manifest comes last.

  Returns:
    The manifest, with an entry that its file lacks: `seconds`, {step: duration}.

  Raises:
    UserError: the log or the options are wrong; the message says how to fix it.
  """
  target = workdir_lib.reachable(options.output)
  if target.exists():
    raise UserError(f"{target} is there already; give another --output, or remove it")
  if target.parent.exists():
    atomic.check_folder(target.parent)
  found = files.find(options.input, options.format)
  sources, read = columns.decide(found, options)
  unit = read.unit
  if options.duplicates == "exact" and unit is None:
    raise UserError(
      "--duplicates=exact compares times, and the log has none; give first or last"
    )
  if options.min_rating is not None and "rating" not in sources[0].roles:
    raise UserError("--min_rating needs ratings, and the log has none")
  with _work_folder(options.work, target) as folder, _progress() as progress:
    engine = _engine(options, progress)
    ends = {"start": time.monotonic()}
    parts = _parts(found, options.part_bytes)
    layout = Layout(str(folder), parts)
    settled = dataclasses.replace(options, time_unit=unit, clock=read.clock)
    tally = engine.settle(sources, settled, layout)
    ends["read and sort"] = time.monotonic()
    tally.check_any_left({source.index: source.path for source in sources})

    catalogue = stages.catalogue(layout)
    tally.check(int(catalogue["rows"].sum()), "after sorting")
    layout = layout._replace(shards=-(-tally.left // options.shard_rows))
    stages.write(layout.path("catalogue"), catalogue.select("item").to_arrow())
    engine.each(stages.number, layout, title="number", number=parts)
    ends["number"] = time.monotonic()

    min_len, min_rows = max(options.min_len, options.k_core, 1), options.k_core
    rows_I = stages.core(layout, engine, len(catalogue), min_len, min_rows)
    rows = int(rows_I.sum())
    if max(min_len, min_rows) > 1:
      tally.filtered["core"] = tally.left - rows
    tally.check(rows, "after the core")
    ends["core"] = time.monotonic()
    if not rows:
      raise UserError(
        f"no row is left: {tally.reasons()}; lower --k_core={options.k_core} or "
        f"--min_len={options.min_len}"
      )

    shards = engine.each(
      stages.shard, layout, min_len=min_len, title="write", number=layout.shards
    )
    tally.check(sum(shard["rows"] for shard in shards), "after writing")
    ends["write"] = time.monotonic()
    kept = catalogue.with_columns(rows=rows_I).filter(pl.col("rows") > 0)
    texts, counts = items.read(found[0][0], kept["item"].to_numpy(), options)
    item = kept["item"].to_arrow().cast(pyarrow.string())
    table = {"item": item, "rows": kept["rows"].to_numpy(), **texts}
    about_items = output.write_parquet(folder / output.ITEMS, table)
    manifest = _manifest(
      options, sources, unit, tally, shards, len(kept), counts, about_items
    )
    names = [shard[kind]["name"] for shard in shards for kind in output.KINDS]
    output.publish(folder, target, [*names, output.ITEMS], manifest)
    ends["items"] = time.monotonic()
  show(manifest)
  laps = itertools.pairwise(ends.items())
  return manifest | {"seconds": {name: end - start for (_, start), (name, end) in laps}}


def show(manifest: Mapping[str, Any]) -> None:
  """Logs the counts of a manifest: rows kept, rejected and filtered, with reasons."""
  logger.info(f"{manifest['rows_in']:,} rows in, {manifest['rows']:,} kept")
  sources = [source["path"] for source in manifest["sources"]]
  for reason, number in manifest["rejected"].items():
    logger.info(f"  rejected: {number:,} {reason} ({tally_lib.REJECTED[reason]})")
    for file, line, text in manifest["rejected_examples"].get(reason, []):
      logger.info(f"    {sources[file]}, line {line}: {text!r}")
  for reason, number in manifest["filtered"].items():
    logger.info(f"  left out: {number:,} {reason} ({tally_lib.FILTERED[reason]})")
  if manifest["tied_rows"]:
    _show_ties(manifest)
  logger.info(f"{manifest['users']:,} users, {manifest['items']:,} items")


def _show_ties(manifest: Mapping[str, Any]) -> None:
  ties, share = manifest["options"]["ties"], manifest["tied_rows"] / manifest["rows"]
  logger.info(
    f"  {manifest['tied_rows']:,} rows of {manifest['tied_users']:,} users "
    f"({100 * share:.1f} % of the rows kept) have the same time as another row of the "
    f"user: they are in {TIES[ties]} (--ties={ties})"
  )
  if share > MOST_TIED:
    logger.warning(
      f"{100 * share:.0f} % of the rows have the time of another row of their user: "
      "leave-one-out asks which came last, and the log does not say; with "
      "--config.split.kind=temporal no history has a row of its target's time"
    )


def _engine(options: Options, progress: rich.progress.Progress):
  if options.engine == "one_machine":
    return one_machine.OneMachine(progress)
  try:
    from lightlm_jax.preprocess import beam_engine  # noqa: PLC0415, of the extra `beam`
  except ImportError as error:
    raise UserError(
      f"--engine=beam needs Apache Beam ({error}); install with "
      "pip install -e '.[beam]', in an environment of its own"
    )
  return beam_engine.Beam(options.beam_options)


def _parts(found, part_bytes: int) -> int:
  size = 0
  for path, form in found:
    is_packed = form == "parquet" or compression.plain_name(path.name) != path.name
    size += path.stat().length * (_PACKED if is_packed else 1)
  return min(MOST_PARTS, max(1, -(-size // part_bytes)))


def _manifest(
  options: Options, sources, unit, tally: Tally, shards, kept: int, counts, about_items
) -> dict[str, Any]:
  flags = dataclasses.asdict(options)
  for name in ("output", "work", "engine", "beam_options"):
    del flags[name]
  return {
    "kind": parquet_logs.KIND,
    "version": parquet_logs.VERSION,
    "users": sum(shard["users"] for shard in shards),
    "items": kept,
    "rows": sum(shard["rows"] for shard in shards),
    "rows_in": tally.rows_in,
    "rejected": dict(sorted(tally.rejected.items())),
    "filtered": dict(sorted((+tally.filtered).items())),
    "rejected_examples": tally.examples,
    "tied_rows": sum(shard["tied_rows"] for shard in shards),
    "tied_users": sum(shard["tied_users"] for shard in shards),
    "time_unit": unit,
    "sources": [
      {
        "path": source.path,
        "bytes": epath.Path(source.path).stat().length,
        "columns": source.columns,
      }
      for source in sources
    ],
    "items_file": counts,
    "options": flags,
    "shards": shards,
    "items_parquet": about_items,
  }


@contextlib.contextmanager
def _work_folder(work: str | None, target: epath.Path):
  """Makes a folder in `work` (None = beside a local `target`); removes it on exit.

  First it removes those that killed preparations of `target` have left there.
  """
  if work is None and "://" in str(target):
    work = tempfile.gettempdir()
  root = epath.Path(work) if work else target.parent
  begin = f".{target.name}.work-"
  folder = root / f"{begin}{uuid.uuid4().hex[:8]}"
  try:
    for path in root.glob(f"{glob.escape(begin)}*/{_LOCK}") if root.exists() else ():
      lock = folder_lib.try_lock(path)
      if lock is not None:
        if lock.is_real:
          path.parent.rmtree()
        lock.file.close()
    folder.mkdir(parents=True)
    with contextlib.ExitStack() as stack:
      if "://" not in str(folder) and (lock := folder_lib.try_lock(folder / _LOCK)):
        stack.enter_context(lock.file)
      yield folder
  except OSError as error:
    raise UserError(
      f"cannot write {folder if work else target}: {first_line(error)}; check "
      "free space and permissions, or give another --work"
    )
  finally:
    if folder.exists():
      folder.rmtree()


def _progress() -> rich.progress.Progress:
  return rich.progress.Progress(
    rich.progress.TextColumn("{task.description:>6}"),
    rich.progress.BarColumn(),
    rich.progress.TaskProgressColumn(),
    rich.progress.TimeRemainingColumn(elapsed_when_finished=True),
    console=log.console(),
    transient=True,
    disable=not log.shows_bars(),
  )


def _time_unit(unit: str | None, form: str | None) -> str | None:
  """Returns --time_unit or --time_format as one value; see Options.time_unit."""
  if form is None:
    return unit
  if unit is not None:
    raise UserError("give --time_unit or --time_format, not both")
  if "%" not in form:
    raise UserError(f"--time_format={form} is no format such as %d.%m.%Y or %m/%d/%Y")
  return form


def _delimiter(text: str | None) -> str | None:
  r"""Reads --delimiter: a character, `::`, `tab` or `\t` (a tab); None = not given."""
  text = {"\\t": "\t", "tab": "\t"}.get(text or "", text)
  if text in (None, files.COLONS):
    return text
  if len(text.encode()) != 1 or text in '"\n\r':
    raise UserError(f"--delimiter={text!r} is not one character such as , or ; or ::")
  return text
