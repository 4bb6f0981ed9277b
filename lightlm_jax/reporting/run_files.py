"""Reads the folders of runs for a report.

A run may be unfinished or of an older version, with fewer files and fields. What is
missing is None or empty here; the sections name the commands that produce it.
"""

import logging
import shlex
from typing import Any, NamedTuple

from etils import epath
import pyarrow

from lightlm_jax import config as config_lib
from lightlm_jax.config import schema
from lightlm_jax.data import splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.evaluation import compare
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.ids.codes import CodeBook
from lightlm_jax.runs import restore as trained
from lightlm_jax.runs import results as results_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.storage import workdir as workdir_lib

logger = logging.getLogger(__name__)

# Fields that older versions of `train` left out, and that `evaluate` can supply.
_ADDED = ("intervals", "slices", "exposure", "repeated_targets", "users_per_second")


class Search(NamedTuple):
  """An evaluation of a run by beam or exact search."""

  results: dict[str, Any]  # of results.json, or of a file by `evaluate`
  users: pyarrow.Table | None


class Run(NamedTuple):
  """The contents of a run's folder."""

  name: str  # of its folder
  workdir: epath.Path
  config: dict[str, Any]  # config.json, perhaps of another version
  # results.json, {} if unfinished; for validation the file by `evaluate`.
  results: dict[str, Any]
  asked_again: dict[str, dict[str, Any]]  # file name → results of `evaluate`
  journal: list[dict[str, Any]]  # the lines of metrics.jsonl
  users: pyarrow.Table | None  # the table of users that belongs to `results`
  searches: list[Search]  # by beam and exact search; empty if none is exact
  book: CodeBook | None
  audit: dict[str, Any]  # audit.json, or the audit in an older results.json; {} = none


class Log(NamedTuple):
  """The log of runs, split as in training."""

  train: Interactions  # the training interactions, over the whole catalogue
  requests: Requests  # the evaluated requests
  titles: list[str] | None  # texts of the items; None = unknown


def read(workdir: epath.PathLike, split_name: str = "test") -> Run:
  """Reads a run's folder; validation results are those that `evaluate` wrote.

  Raises:
    UserError: there is no run, a file is damaged, or `split_name` is "validation" and
      there are no results for it.
  """
  workdir = workdir_lib.absolute(workdir)
  config = workdir_lib.read_tree(workdir)
  asked_again = {
    path.name: results_lib.read(path) for path in sorted(workdir.glob("results-*.json"))
  }
  results, audit, users = {}, {}, None
  if (workdir / results_lib.FILE).exists():
    results = {"split": "test"} | results_lib.read(workdir / results_lib.FILE)
  if split_name == "validation":
    results, asked_again = _of_validation(workdir, config, asked_again, results)
  asked_again = {
    name: found
    for name, found in asked_again.items()
    if _of_run(workdir / name, found, results)
  }
  if results:
    results = _completed(results, asked_again.values())
    users = _read_users(workdir, results_lib.file_name("users", results), results)
    if results.get("audit"):
      audit = {field: results.get(field) for field in ("split_sha256", "ids")}
      audit |= results["audit"]
  if (workdir / "audit.json").exists():
    advice = "remove it, and `audit` writes it anew"
    audit = json_text.read(workdir / "audit.json", advice, kind=results_lib.Audit)
  return Run(
    name=workdir.name,
    workdir=workdir,
    config=config,
    results=results,
    asked_again=asked_again,
    journal=_read_lines(workdir / "metrics.jsonl"),
    users=users,
    searches=_searches(workdir, results, asked_again),
    book=_read_ids(workdir / "codes", results),
    audit=audit,
  )


def read_log(run: Run, data_dir: str | None = None) -> Log:
  """Loads a finished run's log, and splits it as the run did.

  Reads the copy in the run's folder, else the log in `data_dir` (None = data.dir).

  Raises:
    UserError: the data are missing or not those of the run, or the run's config is of
      another version.
  """
  try:
    config = config_lib.from_tree(run.config)
  except UserError as error:
    raise UserError(
      f"the configuration of {run.name} is of another version ({error}); its log "
      "cannot be read with it"
    )
  if data_dir:
    config = config_lib.replace(config, {"data.dir": data_dir})
  dataset = trained.dataset_of(run.workdir, config, fetch=False)
  split = splits.of_run(config, dataset.log)
  if split.sha256 != run.results.get("split_sha256"):
    raise UserError(
      f"the log of {config.data.name!r} found here is not the one of {run.name}, or "
      "another version split it"
    )
  requests = getattr(split, run.results["split"])
  return Log(split.train, requests, dataset.titles)


def at(tree: Any, *path: str) -> Any:
  """Returns the value at a path of names in nested dicts; None = there is none."""
  for name in path:
    tree = tree.get(name) if isinstance(tree, dict) else None
  return tree


def _of_validation(workdir: epath.Path, config, asked_again, finished):
  """Returns validation results of a run's own decoding, and {file: other results}.

  `asked_again` holds all files that `evaluate` wrote, `finished` is results.json.
  """
  decoding = None
  if schema.writes_ids(config.get("system")):
    decoding = at(config, "decoding", "kind")
  asked = {"split": "validation", "decoding": decoding}
  own = results_lib.file_name("results", asked) + ".json"
  command = f"python -m lightlm_jax.evaluate --workdir={shlex.quote(str(workdir))}"
  command += " --split=validation"
  if own not in asked_again:
    raise UserError(f"{workdir.name} left no {own}; this makes it: {command}")
  results = asked_again[own]
  for field in ("best_step", "split_sha256"):
    if finished and results.get(field) != finished.get(field):
      raise UserError(
        f"{workdir.name} was evaluated on validation in another state "
        f"({field} {results.get(field)}, now {finished.get(field)}); evaluate "
        f"again: {command}"
      )
  others = {
    name: found
    for name, found in asked_again.items()
    if found.get("split") == "validation" and name != own
  }
  return results, others


def _searches(workdir: epath.Path, results, asked_again) -> list[Search]:
  """Returns a run's evaluations by beam and by exact search; [] if none is exact."""
  answers = {results_lib.file_name("users", results): results} if results else {}
  for name, again in asked_again.items():
    answers[name.removesuffix(".json").replace("results", "users", 1)] = again
  answers = {name: found for name, found in answers.items() if found.get("metrics")}
  decodings = [found.get("decoding") for found in answers.values()]
  return [
    Search(found, _read_users(workdir, name, found))
    for (name, found), decoding in zip(answers.items(), decodings)
    if "exact" in decodings
    if decoding == "exact" or (decoding == "beam" and found.get("beam_size"))
  ]


def _read_users(workdir: epath.Path, name: str, results) -> pyarrow.Table | None:
  """Reads table `name` of users; None if missing, or not of those of `results`."""
  path = workdir / f"{name}.parquet"
  # Looked up by its name, as that has parts of another file.
  if path.name not in {other.name for other in workdir.glob("users-*.parquet")}:
    return None
  users, about = users_lib.read(path)
  if about.get("split_sha256") != results.get("split_sha256"):
    return None
  return users if _of_run(path, about, results) else None


def _read_ids(folder: epath.Path, results) -> CodeBook | None:
  """Reads a run's ids; None if missing, or, with a warning, not those of `results`."""
  book = codes_lib.load(folder)
  wanted = at(results, "ids", "manifest_sha256")
  if wanted and folder.exists() and (book is None or book.sha256 != wanted):
    logger.warning(f"{folder} are not the ids of the run's results, and are left out")
    return None
  return book


def _of_run(path: epath.Path, about: dict, results: dict) -> bool:
  """Returns whether a file is of the run of `results`; warns if it is not."""
  same = results_lib.same_run(about, results)
  if not same:
    logger.warning(f"{path} {results_lib.OTHER_RUN}; it is left out")
  return same


def _completed(results: dict[str, Any], others: Any) -> dict[str, Any]:
  """Returns `results`, with missing `_ADDED` fields from `others` of equal metrics."""
  same = [*compare.SPLIT_FIELDS, "system", "decoding", "num_users", "metrics"]
  same += ["beam_size"] if "beam_size" in results else []
  for other in others:
    if all(other.get(field) == results.get(field) for field in same):
      added = {n: other[n] for n in _ADDED if results.get(n) is None and n in other}
      results = results | added
  return results


def _read_lines(path: epath.Path) -> list[dict[str, Any]]:
  """Reads JSON Lines; skips lines that are cut off, and those without a "step"."""
  lines = []
  for line in path.read_bytes().splitlines() if path.exists() else ():
    try:
      record = json_text.loads(line)
    except ValueError:
      continue
    if isinstance(record, dict) and json_text.is_number(record.get("step")):
      lines.append(record)
  return lines
