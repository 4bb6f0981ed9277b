"""What runs left in their folders, as far as it goes.

A run may be unfinished or of an older version, with fewer files and fewer fields. What
is not there is None or empty here; what a person can do about it is for the sections.
"""

from collections.abc import Mapping
import shlex
from typing import Any, NamedTuple

from etils import epath
import ml_collections
import numpy as np
import pyarrow

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
from lightlm_jax.systems import registry

# Fields that `evaluate` can add to what an older `train` left.
_ADDED = ("intervals", "slices", "exposure", "repeated_targets", "users_per_second")


class Search(NamedTuple):
  """What a run answered when it was decoded in one way.

  Attributes:
    results: results.json, or one of `evaluate`.
    users: the table of users that belongs to it, if there is one.
  """

  results: dict[str, Any]
  users: pyarrow.Table | None


class Run(NamedTuple):
  """One run.

  Attributes:
    name: of its folder.
    workdir: the folder.
    config: config.json, perhaps of another version.
    results: results.json, None before the end; of validation what `evaluate` left.
    asked_again: by name, the results-….json that `evaluate` left.
    journal: the lines of metrics.jsonl.
    users: the table of users that belongs to `results`.
    searches: answers of a beam and of an exact search, if there is an exact one.
    book: its ids.
    audit: audit.json, or what results.json says of it.
  """

  name: str
  workdir: epath.Path
  config: dict[str, Any]
  results: dict[str, Any] | None
  asked_again: dict[str, dict[str, Any]]
  journal: list[dict[str, Any]]
  users: pyarrow.Table | None
  searches: list[Search]
  book: CodeBook | None
  audit: dict[str, Any] | None


class Log(NamedTuple):
  """The log that runs were made on.

  Attributes:
    train: training interactions; the whole catalogue.
    requests: those that the results are about.
    titles: of the items, if there are texts.
  """

  train: Interactions
  requests: Requests
  titles: list[str] | None


def read(workdir: epath.PathLike, split_name: str = "test") -> Run:
  """Reads what a run left.

  Args:
    workdir: of the run.
    split_name: whose answers; of "validation" those are read that `evaluate` left, and
      none of the test.

  Raises:
    UserError: there is no run, a file of it is damaged, or nobody was asked on
      validation.
  """
  workdir = workdir_lib.absolute(workdir)
  if not (workdir / "config.json").exists():
    raise UserError(
      f"{workdir / 'config.json'} does not exist; give --workdir=RUN, a folder that "
      "`train` left"
    )
  config = _read_json(workdir / "config.json")
  asked_again = {
    path.name: _read_json(path) for path in sorted(workdir.glob("results-*.json"))
  }
  results, users, audit = None, None, None
  if split_name == "validation":
    results, asked_again = _of_validation(workdir, config, asked_again)
    if (workdir / "results.json").exists():
      _check_same_state(workdir, results, _read_json(workdir / "results.json"))
  elif (workdir / "results.json").exists():
    results = {"split": "test"} | _read_json(workdir / "results.json")
  if results is not None:
    results = _completed(results, asked_again.values())
    users = _read_users(workdir, results_lib.file_name("users", results), results)
    if results.get("audit"):
      its_own = {"split_sha256": results.get("split_sha256"), "ids": results.get("ids")}
      audit = its_own | results["audit"]
  if (workdir / "audit.json").exists():
    audit = _read_json(workdir / "audit.json")
  return Run(
    name=workdir.name,
    workdir=workdir,
    config=config,
    results=results,
    asked_again=asked_again,
    journal=_read_lines(workdir / "metrics.jsonl"),
    users=users,
    searches=_searches(workdir, results, asked_again),
    book=codes_lib.load(workdir / "codes"),
    audit=audit,
  )


def read_log(run: Run, data_dir: str | None = None) -> Log:
  """Loads the log of a finished run, and splits it as the run did.

  Raises:
    UserError: the data are not here, or they are not what the run was made on.
  """
  config = ml_collections.ConfigDict(run.config)
  if data_dir:
    config.data.dir = data_dir
  try:
    dataset = trained.dataset_of(run.workdir, config, fetch=False)
    split = splits.of_run(config, dataset.log)
  except (AttributeError, KeyError, TypeError) as error:
    raise UserError(
      f"the configuration of {run.name} is of another version ({error}), and its log "
      "cannot be read by it"
    )
  if split.sha256 != run.results.get("split_sha256"):
    raise UserError(
      f"the log of {config.data.name!r} that is here is not the one of {run.name}, or "
      "another version has split it"
    )
  requests = getattr(split, run.results["split"])
  return Log(split.train, requests, dataset.titles)


def check_together(runs: list[Run]) -> None:
  """Refuses runs that cannot stand in one report.

  Raises:
    UserError: names two runs, and what they do not share.
  """
  compare.check_names([run.name for run in runs])
  finished = {run.name: run.results for run in runs if run.results}
  if finished:
    compare.check_same_split(finished)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """The values of a configuration by dotted field."""
  flat = {}
  for name, value in tree.items():
    if isinstance(value, Mapping) and value:
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def _of_validation(
  workdir: epath.Path, config: dict[str, Any], asked_again: dict[str, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
  """What validation answered to the run's own decoding, and to others."""
  decoding = None
  if config.get("system") in registry.WRITE_IDS:
    decoding = (config.get("decoding") or {}).get("kind")
  asked = {"split": "validation", "decoding": decoding}
  own = results_lib.file_name("results", asked) + ".json"
  others = {
    name: results
    for name, results in asked_again.items()
    if results.get("split") == "validation" and name != own
  }
  if own not in asked_again:
    command = f"python -m lightlm_jax.evaluate --workdir={shlex.quote(str(workdir))}"
    raise UserError(
      f"{workdir.name} left no {own}; this makes it: {command} --split=validation"
    )
  return asked_again[own], others


def _check_same_state(
  workdir: epath.Path, validation: dict[str, Any], finished: dict[str, Any]
) -> None:
  """Refuses an answer of parameters that the run has since trained on from."""
  for field in ("best_step", "split_sha256"):
    if validation.get(field) != finished.get(field):
      command = f"python -m lightlm_jax.evaluate --workdir={shlex.quote(str(workdir))}"
      raise UserError(
        f"{workdir.name} was asked on validation at another state than it came to "
        f"({field} {validation.get(field)}, now {finished.get(field)}); ask again: "
        f"{command} --split=validation"
      )


def _searches(
  workdir: epath.Path,
  results: dict[str, Any] | None,
  asked_again: dict[str, dict[str, Any]],
) -> list[Search]:
  """What the run itself answered and what was asked again, of beams and exact."""
  answers = {}
  if results is not None:
    answers[results_lib.file_name("users", results)] = results
  for name, again in asked_again.items():
    answers[name.removesuffix(".json").replace("results", "users", 1)] = again
  answers = {
    name: found
    for name, found in answers.items()
    if found.get("metrics")
    if found.get("decoding") == "exact" or _is_beam(found)
  }
  if all(map(_is_beam, answers.values())):
    return []
  return [
    Search(found, _read_users(workdir, name, found)) for name, found in answers.items()
  ]


def _is_beam(results: dict[str, Any]) -> bool:
  return results.get("decoding") == "beam" and bool(results.get("beam_size"))


def _read_users(
  workdir: epath.Path, name: str, results: dict[str, Any]
) -> pyarrow.Table | None:
  """A table of users; None where it is not there, or is of another log."""
  path = workdir / f"{name}.parquet"
  if not path.exists():
    return None
  users, about = users_lib.read(path)
  return users if about.get("split_sha256") == results.get("split_sha256") else None


def _completed(results: dict[str, Any], others: Any) -> dict[str, Any]:
  """Results with what an older `train` did not write, where `evaluate` found it later.

  Only from an answer to the same question that has the same metrics.
  """
  same = [*compare.SPLIT_FIELDS, "system", "decoding", "num_users", "metrics"]
  same += ["beam_size"] if "beam_size" in results else []
  for other in others:
    if all(other.get(field) == results.get(field) for field in same):
      added = {n: other[n] for n in _ADDED if results.get(n) is None and n in other}
      results = results | added
  return results


def _read_json(path: epath.Path) -> dict[str, Any]:
  try:
    value = json_text.loads(path.read_text())
  except (OSError, ValueError) as error:
    raise UserError(f"cannot read {path} ({error}); remove it, and write it anew")
  if not isinstance(value, dict):
    raise UserError(f"{path} holds no JSON object; remove it, and write it anew")
  return value


def _read_lines(path: epath.Path) -> list[dict[str, Any]]:
  """Lines that are whole: a run that was killed, or goes on, leaves one that is not."""
  lines = []
  for line in path.read_text().splitlines() if path.exists() else ():
    try:
      record = json_text.loads(line)
    except ValueError:
      continue
    if isinstance(record, dict) and np.isfinite(record.get("step", np.nan)):
      lines.append(record)
  return lines
