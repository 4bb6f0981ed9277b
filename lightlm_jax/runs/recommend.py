"""Recommends items with a trained run: raw ids in, raw ids out."""

from collections.abc import Callable, Iterable, Sequence
import functools
import hashlib
import time

from etils import epath
import numpy as np
import pyarrow
import pyarrow.compute
import rich.console
import rich.progress

from lightlm_jax import limits
from lightlm_jax.inference import output as output_lib
from lightlm_jax.inference import queries as questions_lib
from lightlm_jax.inference import serve
from lightlm_jax.runs import restore as trained
from lightlm_jax.runtime import devices, processes
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError, printable
from lightlm_jax.storage import workdir as workdir_lib

NEW = "new"  # what the user of --history is called
PRINTED = 20  # users whose lists are shown where there is no output


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
  overrides: dict | None = None,
) -> pyarrow.Table | None:
  """Asks the best parameters of a run what users want next.

  Args:
    workdir: of a run, finished or not.
    users: raw ids of users of the log.
    histories: users and what they had, raw ids, oldest first; see
      `questions.of_histories`. Without users and histories all of the log are asked.
    output: where the lists are written, see inference/output.py; None = they are
      returned.
    k: the most items that a user gets.
    exclude_seen: whether items of a user's history are kept from the user.
    allow: raw ids of the only items that anybody gets; None = all.
    deny: raw ids of items that nobody gets.
    with_text: whether the items' titles come along.
    overrides: values by dotted field in place of the run's own.

  Returns:
    The rows, see `serve.table`; None where they are in a file.

  Raises:
    UserError: in one line, what a person can mend.
  """
  workdir, config, _ = trained.asked(workdir, overrides or {})
  console = rich.console.Console(quiet=not processes.is_first())
  say = functools.partial(console.print, highlight=False, soft_wrap=True, markup=False)
  say(devices.describe())
  if processes.several() and output is None:
    raise UserError("several processes write a file each; give --output=FILE.parquet")
  mesh = mesh_lib.make(-1, 1)
  limits.check_batches(config, mesh.shape["data"], ["train.eval_batch_size"])
  dataset, split = trained.log_of(workdir, config)
  titles = trained.titles(dataset, config) if with_text else None
  known = questions_lib.known(dataset.log)
  if users is not None:
    questions = questions_lib.of_users(known, users)
  elif histories is not None:
    questions = questions_lib.of_histories(known, histories)
  else:
    questions = questions_lib.everyone(dataset.log)
  lines = questions_lib.check(questions)
  open_I, lost = questions_lib.open_items(known, allow, deny)
  run = trained.restore(workdir, config, dataset, split, mesh, say)
  lines += questions_lib.notes(questions, lost, run.built.system)
  for line in lines:
    say(f"warning: {line}")

  served = serve.ready(run.built, run.params, mesh, config.train.eval_batch_size)
  num_items = dataset.log.num_items
  options = {"k": min(k, num_items), "exclude_seen": exclude_seen, "allowed_I": open_I}

  def lists(index_N: np.ndarray) -> pyarrow.Table:
    asked = questions_lib.take(questions, index_N)
    found = serve.recommend(served, asked.requests, **options)
    if output is None:
      for line in questions_lib.left_without(asked.names, found[0]):
        say(f"warning: {line}")
    return serve.table(asked.names, *found, dataset.log.item_ids, titles)

  if output is None:
    return lists(np.arange(len(questions.requests)))
  question = trained.identity(run) | {
    "k": k,
    "exclude_seen": exclude_seen,
    "text": with_text,
    "users": len(questions.requests),
    "users_sha256": questions_lib.digest(questions),
    "items": num_items if open_I is None else int(open_I.sum()),
    "items_sha256": None if open_I is None else hashlib.sha256(open_I).hexdigest(),
  }
  path = output_lib.check(workdir_lib.absolute(output))
  _write(path, question, lists, console, say)
  return None


def show(found: pyarrow.Table, say: Callable[[str], None]) -> None:
  """Says the lists of the first users, a line an item."""
  users = found["user"].unique()
  first = pyarrow.compute.is_in(found["user"], users[:PRINTED])
  shown = [
    {name: printable(x) if isinstance(x, str) else x for name, x in row.items()}
    for row in found.filter(first).to_pylist()
  ]
  widths = {
    name: max(map(len, [name, *(row[name] for row in shown)]))
    for name in ("user", "item")
  }
  say(f"{'user':{widths['user']}}  rank  {'item':{widths['item']}}     score")
  for row in shown:
    line = f"{row['user']:{widths['user']}}  {row['rank']:>4}  "
    line += f"{row['item']:{widths['item']}}  {row['score']:8.4g}"
    say(f"{line}  {row['text']}" if row.get("text") else line)
  if len(users) > PRINTED:
    say(f"… and {len(users) - PRINTED:,} users more; --output=FILE.csv has them all")


def _write(
  path: epath.Path,
  question: dict,
  lists: Callable[[np.ndarray], pyarrow.Table],
  console: rich.console.Console,
  say: Callable[[str], None],
) -> None:
  """Writes the lists, and says how far it is."""
  users = question["users"]
  process = processes.process_index_and_count()
  began, asked, done = time.monotonic(), 0, 0

  def make(index_N: np.ndarray) -> pyarrow.Table:
    nonlocal asked
    asked += len(index_N)
    return lists(index_N)

  with rich.progress.Progress(
    "recommend",
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeRemainingColumn(),
    console=console,
    transient=True,
    disable=not console.is_terminal,
  ) as bar:
    task = bar.add_task("", total=-(-users // process[1]))

    def tell(number: int) -> None:
      nonlocal done
      done += number
      bar.update(task, completed=done)

    found = output_lib.write(path, question, users, make, process=process, tell=tell)
  seconds = time.monotonic() - began
  if not found:
    return
  files = ", ".join(found["files"])
  if found["finished_before"]:
    say(f"finished before: {files} in {path.parent}")
    return
  say(
    f"{found['users']:,} users, {found['rows']:,} items; {asked:,} users asked in "
    f"{seconds:.1f} s, {asked / seconds:,.0f} a second"
  )
  short = found["users"] * min(question["k"], question["items"]) - found["rows"]
  if short:
    say(
      f"{short:,} items fewer than asked for ({found['users'] - found['answered']:,} "
      "users got none): so few may be recommended to them"
    )
  say(f"written to {files} in {path.parent}")
