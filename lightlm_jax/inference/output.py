"""Writes recommendations to files atomically; a killed run can be resumed.

Users are split into parts of a fixed size, written one by one into the folder
FILE.parts. Processes take parts in turn and skip those that exist. Then each
process joins its own parts into one file: FILE if there is one process, otherwise
NAME-00000-of-00004.SUFFIX and so on. The manifest is written last.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import json
from typing import Any

from etils import epath
import numpy as np
import polars
import pyarrow
import pyarrow.parquet

from lightlm_jax.runtime import processes
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text, parquet
from lightlm_jax.storage import folder as folder_lib

SUFFIXES = (".parquet", ".csv", ".jsonl")
USERS_A_PART = 2_048
_AGAIN = "remove it, and start again"
_FORMULA = r"^[=+\-@\t\r]"  # how a text begins that a spreadsheet evaluates


def check(path: epath.PathLike, csv_safe: bool = False) -> epath.Path:
  """Returns the path; raises a UserError if its suffix is none of SUFFIXES.

  `csv_safe`: whether it has to be .csv.
  """
  path = epath.Path(path)
  if path.suffix not in SUFFIXES:
    raise UserError(
      f"--output={path} ends with none of {', '.join(SUFFIXES)}, which say how it is "
      "written"
    )
  if csv_safe and path.suffix != ".csv":
    raise UserError(f"--csv_safe is for tables in CSV; --output={path} is none")
  return path


def write(
  path: epath.Path,
  question: dict[str, Any],
  users: int,
  make: Callable[[np.ndarray], pyarrow.Table],
  *,
  process: tuple[int, int],
  tell: Callable[[int], None],
) -> dict[str, Any]:
  """Writes the recommendations of all users; skips parts that exist already.

  Args:
    path: the output; all processes share its folder.
    question: JSON, all that the output depends on; must be equal in a resumed run. If
      its `csv_safe` is true, texts in a CSV are written `without_formulas`.
    users: N, the number of users.
    make: maps user indices to rows of recommendations, best first, `rank` from 1.
    process: (index of this process, number of processes).
    tell: called after each part with its number of users.

  Returns:
    The manifest: question, users, rows, files, sha256 by file, `answered` (number of
    users with any item) and `finished_before` (whether the output was complete before
    this call). If it was not, processes other than the first get {}.

  Raises:
    UserError: the output exists for another question, or cannot be written.
  """
  question = json.loads(json.dumps(question))
  parts = _beside(path, ".parts")
  with processes.fail_together("begin the output"), _one_line(path):
    done = _claim(path, question, process[1])
  if done is not None:
    return {**done, "finished_before": True}
  rank, count = process
  mine = range(rank, -(-users // USERS_A_PART), count)
  for number in mine:
    index = np.arange(users)[number * USERS_A_PART :][:USERS_A_PART]
    part = parts / _name(number)
    if not part.exists():
      atomic.write_own(part, parquet.to_bytes(make(index)))
    tell(len(index))
  with processes.fail_together("write the output"), _one_line(path):
    nobody = make(np.zeros(0, np.int64))
    file, safe = _of_process(path, rank, count), bool(question.get("csv_safe"))
    _join(file, nobody, [parts / _name(n) for n in mine], safe)
  with processes.fail_together("finish the output"), _one_line(path):
    if processes.is_first():
      return _finish(path, question, users, count)
  return {}


def _claim(path, question, count: int) -> dict[str, Any] | None:
  """Reserves the output; returns its manifest if it is complete already, else None."""
  parts, manifest = _beside(path, ".parts"), _beside(path, ".json")
  if manifest.exists():
    done = json_text.read(manifest, _AGAIN)
    _refuse_other(path, done.get("question"), question)
    try:
      files = [path.with_name(name) for name in done.get("files", ())]
    except (ValueError, TypeError):
      raise UserError(f"{manifest} names no files of its own; remove it")
    if files and all(file.exists() for file in files):
      if processes.is_first():
        _check_whole(files, done.get("sha256"))
        if parts.exists():
          parts.rmtree()
      return done
  elif not parts.exists():
    # Every process checks all files: the first creates `parts` only if none exists.
    for file in (_of_process(path, rank, count) for rank in range(count)):
      if file.exists():
        raise UserError(f"{file} exists already; remove it, or give another --output")
  begun = parts / "question.json"
  if begun.exists():
    _refuse_other(path, json_text.read(begun, _AGAIN), question)
  elif processes.is_first():
    parts.mkdir(parents=True, exist_ok=True)
    atomic.write_json(begun, question)
  return None


def _check_whole(files: Sequence[epath.Path], sha256: Any) -> None:
  """Raises a UserError if a file is not of its SHA-256; older manifests have none."""
  for file in files:
    wanted = sha256.get(file.name) if isinstance(sha256, dict) else None
    if wanted and folder_lib.sha256(file) != wanted:
      raise UserError(f"{file} is not what was written: its SHA-256 differs; {_AGAIN}")


def _refuse_other(path: epath.Path, old: Any, new: dict[str, Any]) -> None:
  old = old if isinstance(old, dict) else {}
  different = [
    f"{name}: {old.get(name)} → {new.get(name)}"
    for name in sorted({*old, *new})
    if old.get(name) != new.get(name)
  ]
  if different:
    raise UserError(
      f"{path} was begun for another question ({'; '.join(different)}); give another "
      f"--output, or remove it, {path.name}.json and {path.name}.parts"
    )


def without_formulas(rows: polars.DataFrame) -> polars.DataFrame:
  """Puts an apostrophe before texts that a spreadsheet would take for a formula."""
  texts = polars.col(polars.String)
  return rows.with_columns(texts.str.replace(_FORMULA, "'${0}"))


def _join(
  path: epath.Path,
  nobody: pyarrow.Table,
  parts: Sequence[epath.Path],
  csv_safe: bool,
) -> None:
  """Writes the rows of all parts to one file, with one part in memory at a time.

  `nobody` is a table without rows that has the columns of the parts.
  """
  with atomic.writing(path) as file:
    if path.suffix == ".parquet":
      with pyarrow.parquet.ParquetWriter(file, nobody.schema, compression="zstd") as to:
        for part in parts:
          to.write_table(_rows(part))
    elif path.suffix == ".csv":
      polars.DataFrame(nobody).write_csv(file)
      for part in parts:
        rows = polars.DataFrame(_rows(part))
        rows = without_formulas(rows) if csv_safe else rows
        rows.write_csv(file, include_header=False)
    else:
      for part in parts:
        polars.DataFrame(_rows(part)).write_ndjson(file)


def _finish(
  path: epath.Path, question: dict[str, Any], users: int, count: int
) -> dict[str, Any]:
  """Counts the rows of all processes, writes the manifest and removes the parts."""
  parts = _beside(path, ".parts")
  files = [_of_process(path, rank, count) for rank in range(count)]
  rows = answered = 0
  for number in range(-(-users // USERS_A_PART)):
    rank_R = _rows(parts / _name(number), ["rank"])["rank"].to_numpy()
    rows += len(rank_R)
    answered += int((rank_R == 1).sum())
  manifest = {
    "question": question,
    "users": users,
    "answered": answered,
    "rows": rows,
    "files": [file.name for file in files],
    "sha256": {file.name: folder_lib.sha256(file) for file in files},
  }
  atomic.write_json(_beside(path, ".json"), manifest)
  parts.rmtree()
  return {**manifest, "finished_before": False}


def _rows(part: epath.Path, columns: Sequence[str] | None = None) -> pyarrow.Table:
  return parquet.from_bytes(part.read_bytes(), columns)


def _name(number: int) -> str:
  return f"{number:06d}.parquet"


def _of_process(path: epath.Path, rank: int, count: int) -> epath.Path:
  if count == 1:
    return path
  return path.with_name(f"{path.stem}-{rank:05d}-of-{count:05d}{path.suffix}")


def _beside(path: epath.Path, ending: str) -> epath.Path:
  return path.with_name(path.name + ending)


@contextlib.contextmanager
def _one_line(path: epath.Path) -> Iterator[None]:
  """Turns errors of the disk, or from damaged parts, into a UserError of one line."""
  try:
    yield
  except (OSError, pyarrow.ArrowException) as error:
    raise UserError(
      f"cannot write {path}: {first_line(error)}; check free space and permissions, "
      f"then start again: what {path.name}.parts holds is not made twice"
    )
