"""Recommends items with a trained run: raw ids in, raw ids out."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import hashlib
import logging
import time
from typing import Any

from etils import epath
import numpy as np
import pyarrow
import pyarrow.compute
import rich.progress

from lightlm_jax.inference import output as output_lib
from lightlm_jax.inference import queries as queries_lib
from lightlm_jax.inference import serve
from lightlm_jax.runs import restore
from lightlm_jax.runtime import devices, log, processes
from lightlm_jax.runtime.errors import UserError, printable
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)

NEW = "new"  # the user's name in the output of --history
_compute: Any = pyarrow.compute  # its functions are created at import
PRINTED = 20  # most users whose lists are printed without --output


def recommend(
  workdir: epath.PathLike,
  *,
  users: Sequence[str] | None = None,
  histories: Iterable[tuple[str, Sequence[str] | None]] | None = None,
  output: epath.PathLike | None = None,
  k: int = 10,
  exclude_seen: bool = True,
  allow: Sequence[str] | None = None,
  deny: Sequence[str] | None = None,
  with_text: bool = False,
  overrides: Mapping[str, Any] | None = None,
  strict: bool = False,
  csv_safe: bool = False,
) -> pyarrow.Table | None:
  """Recommends items with the best parameters of a run.

  Args:
    workdir: the folder of a run, finished or not.
    users: raw ids of users of the log.
    histories: pairs (name, raw item ids) of users that need not be in the log, see
      `queries.of_histories`. Without `users` and `histories`, all users are served.
    output: the file to write, see inference/output.py; None = the rows are returned.
    k, exclude_seen, allow, deny: see `Recommender.recommend`.
    with_text: whether to add a column with the items' titles.
    overrides: values by dotted field that replace the run's own; None = none.
    strict: whether a damaged checkpoint is an error; see `restore.restore`.
    csv_safe: whether ids and titles of a CSV that begin like a formula get an
      apostrophe, so that a spreadsheet shows them as texts.

  Returns:
    The rows, see `serve.table`; None if they went to `output`.
  """
  workdir, config, _ = restore.read_configs(workdir, overrides or {})
  log.set_up()
  logger.info(devices.describe())
  if csv_safe and output is None:
    raise UserError("--csv_safe is for tables in CSV; give --output=FILE.csv with it")
  if processes.several() and output is None:
    raise UserError("several processes write a file each; give --output=FILE.parquet")
  context = restore.find_context(workdir, config)
  if histories is None:
    what = "users, items and histories are those of its own copy"
    what += " (histories of today: --histories=FOLDER of a prepared log)"
    restore.warn_if_changed(workdir, config, what)
  titles = restore.titles(context.dataset, config) if with_text else None
  index = queries_lib.id_index(context.dataset.log)
  queries = queries_lib.select(index, users, histories)
  lines = queries_lib.check(queries)
  allowed_I, lost = queries_lib.allowed_items(index, allow, deny)
  run = restore.restore(context, strict=strict)
  for line in [*lines, *queries_lib.notes(queries, lost, run.built.system)]:
    logger.warning(line)

  served = serve.ready(run.built, run.params, run.mesh, config.train.eval_batch_size)
  most, item_ids = min(k, index.log.num_items), index.log.item_ids

  def lists(index_N: np.ndarray) -> pyarrow.Table:
    part = queries_lib.take(queries, index_N)
    found = serve.recommend(
      served, part.requests, k=most, exclude_seen=exclude_seen, allowed_I=allowed_I
    )
    if output is None:
      for line in queries_lib.left_without(part.names, found[0]):
        logger.warning(line)
    return serve.table(part.names, *found, item_ids, titles)

  if output is None:
    return lists(np.arange(len(queries.requests)))
  asked = {"k": k, "exclude_seen": exclude_seen, "text": with_text}
  asked |= {"csv_safe": True} if csv_safe else {}
  question = restore.identity(run) | asked | _asked_for(queries, index, allowed_I)
  _write(output_lib.check(workdir_lib.absolute(output), csv_safe), question, lists)
  return None


def _asked_for(queries, index, allowed_I: np.ndarray | None) -> dict[str, Any]:
  """Returns the users and items that an output depends on, as JSON.

  An interrupted output of an equal question is resumed.
  """
  items_sha256 = None
  if allowed_I is not None:
    items_sha256 = hashlib.sha256(allowed_I.tobytes()).hexdigest()
  return {
    "users": len(queries.requests),
    "users_sha256": queries_lib.digest(queries),
    "items": index.log.num_items if allowed_I is None else int(allowed_I.sum()),
    "items_sha256": items_sha256,
  }


def read_users(
  users: str | None,
  history: str | None,
  histories: str | None,
  everyone: bool,
  output: str | None,
) -> tuple[list[str] | None, list[tuple[str, list[str] | None]] | None]:
  """Returns the arguments `users` and `histories` of `recommend`, from values of flags.

  `everyone` is the flag --all, which needs an `output`.

  Raises:
    UserError: not exactly one of the first four is given, or a file cannot be read.
  """
  given: dict[str, Any]
  given = {"--users": users, "--history": history, "--histories": histories}
  given["--all"] = everyone or None
  named = [flag for flag, value in given.items() if value is not None]
  if len(named) != 1:
    what = f"{' and '.join(named)} are given" if named else "no users are asked for"
    raise UserError(f"{what}; give one of {', '.join(given)}")
  rows: list[tuple[str, list[str] | None]] | None = None
  if history is not None:
    rows = [(NEW, queries_lib.read_ids("history", history))]
  if histories is not None:
    rows = list(queries_lib.read_histories(histories))
  if output is not None:
    output_lib.check(output)
  elif everyone:
    raise UserError("--all needs a file for its lists; give --output=FILE.parquet")
  return None if users is None else queries_lib.read_ids("users", users), rows


def show(found: pyarrow.Table | None, write: Callable[[str], None] = print) -> None:
  """Prints the lists of the first PRINTED users, an item per line; nothing for None."""
  if found is None:
    return
  users = found["user"].unique()
  first = _compute.is_in(found["user"], users[:PRINTED])
  shown = [
    {name: printable(x) if isinstance(x, str) else x for name, x in row.items()}
    for row in found.filter(first).to_pylist()
  ]
  user, item = (
    max(map(len, [name, *(row[name] for row in shown)])) for name in ("user", "item")
  )
  write(f"{'user':{user}}  rank  {'item':{item}}     score")
  for row in shown:
    line = f"{row['user']:{user}}  {row['rank']:>4}  "
    line += f"{row['item']:{item}}  {row['score']:8.4g}"
    write(f"{line}  {row['text']}" if row.get("text") else line)
  if len(users) > PRINTED:
    write(f"… and {len(users) - PRINTED:,} users more; --output=FILE.csv has them all")


def _write(
  path: epath.Path,
  question: dict[str, Any],
  lists: Callable[[np.ndarray], pyarrow.Table],
) -> None:
  users, process = question["users"], processes.process_index_and_count()
  began, asked = time.monotonic(), 0

  def make(index_N: np.ndarray) -> pyarrow.Table:
    nonlocal asked
    asked += len(index_N)
    return lists(index_N)

  with rich.progress.Progress(
    "recommend",
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
    console=log.console(),
    transient=True,
    disable=not log.shows_bars(),
  ) as bar:
    task = bar.add_task("", total=-(-users // process[1]))
    tell = functools.partial(bar.advance, task)
    found = output_lib.write(path, question, users, make, process=process, tell=tell)
  seconds = time.monotonic() - began
  if not found:
    return
  files = ", ".join(found["files"])
  if found["finished_before"]:
    logger.info(f"finished before: {files} in {path.parent}")
    return
  logger.info(
    f"{found['users']:,} users, {found['rows']:,} items; {asked:,} users asked in "
    f"{seconds:.1f} s, {asked / seconds:,.0f} a second"
  )
  short = found["users"] * min(question["k"], question["items"]) - found["rows"]
  if short:
    logger.info(
      f"{short:,} items fewer than asked for ({found['users'] - found['answered']:,} "
      "users got none): so few may be recommended to them"
    )
  logger.info(f"written to {files} in {path.parent}")
