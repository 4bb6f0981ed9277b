"""Defines the results of a run as a typed dictionary, and shows them as a table."""

from collections.abc import Mapping
import importlib.metadata
import logging
import platform
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar, cast

from etils import epath
import jax

from lightlm_jax.config import LearnedConfig, WritesIds
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runs.context import Run
from lightlm_jax.storage import json_text
from lightlm_jax.training import state as state_lib

logger = logging.getLogger(__name__)

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
FILE = "results.json"  # of the run itself
_NEEDED = ("system", "dataset", "num_users", "split_sha256")  # in runs of any version
_OF_RUN = ("system", "dataset", "protocol", "parameters_sha256")
COLUMNS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")
# The types say which keys a file must have, see json_text.misfit.
_T = TypeVar("_T")
_ByRule = Annotated[dict[str, _T], evaluator.RULES]
# Rule, seen_excluded or seen_allowed → metric → mean over users.
ByRule = _ByRule[Annotated[dict[str, float], COLUMNS]]
_Intervals = Annotated[dict[str, tuple[float, float]], COLUMNS]
_Exposure = Annotated[dict[str, float], ("coverage@10", "gini@10", "head_share@10")]


class Slice(TypedDict):
  """The users of a slice, and metric → their mean; None if there are none."""

  users: int
  mean: dict[str, float | None]


class Renumbered(TypedDict):
  """A measure of the ids, and of those of a renumbered log and with other seeds."""

  as_is: float
  renumbered: float
  other_seeds: list[float]


class Audit(TypedDict):
  """The fields of audit.json that reports show; see `audit` in runs/audit.py."""

  passed: bool
  failures: list[str] | None
  exchange: dict[str, float | bool] | None
  renumber: dict[str, Renumbered] | None
  spearman_last_token: float | None
  held_out_edges: int | None
  ids: dict[str, str] | None
  split_sha256: str | None


# A key that is no valid name in a class body.
_Generator = TypedDict("_Generator", {"expected_best_ndcg@10": NotRequired[float]})


class Results(_Generator):
  """The fields of results.json, in this order; one that does not apply is None."""

  system: str
  dataset: str
  preset: str
  ids: Annotated[dict[str, str], ("kind", "manifest_sha256")] | None
  seed: int
  steps: int | None
  # non_embedding = without embedding tables
  params: Annotated[dict[str, int], ("total", "non_embedding")] | None
  train_seconds: float | None
  examples_per_second: float | None
  examples: int | None  # number of training examples up to best_step
  flops_per_example: float | None  # matrix products of the loss and its gradient
  users_per_second: float | None
  num_users: int
  decoding: str | None
  beam_size: int | None
  protocol: str  # split.kind
  split: Literal["test", "validation"]
  split_sha256: str
  best_step: int | None
  parameters_sha256: str | None  # of the checkpoint of best_step
  validation: ByRule | None
  validation_loss: float | None
  metrics: ByRule | None
  # rule → metric → low and high ends of 95 %, over users
  intervals: _ByRule[_Intervals] | None
  slices: _ByRule[dict[str, dict[str, Slice]]] | None  # of each dimension
  hallucination_rate: float | None  # invalid beams of a search without the trie
  repeated_targets: int | None
  exposure: _ByRule[_Exposure] | None
  audit: Audit | None  # None today; older runs were audited by `train`
  baselines: dict[str, ByRule] | None
  versions: dict[str, str]
  devices: list[str]
  checksum: NotRequired[str]  # of all other fields


def versions() -> dict[str, str]:
  """Returns the versions of Python and of `PACKAGES`."""
  found = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {"python": platform.python_version(), **found}


def devices() -> list[str]:
  """Returns the kind of each device, in jax's order."""
  return [device.device_kind for device in jax.devices()]


def read(path: epath.Path) -> dict[str, Any]:
  """Reads results.json or a file of `evaluate`; those of older runs may lack fields.

  Raises:
    UserError: the file cannot be read, or a field is not of its type in `Results`.
  """
  command = "train" if path.name == FILE else "evaluate"
  return json_text.read(
    path, f"remove it, `{command}` writes it anew", _NEEDED, Results
  )


def read_finished(workdir: epath.Path) -> dict[str, Any] | None:
  """Reads a run's results.json, missing fields as None; None if it has not ended."""
  path = workdir / FILE
  if not path.exists():
    return None
  empty = dict.fromkeys(Results.__required_keys__)
  return empty | {"split": "test"} | read(path)


def describe(run: Run, k: int = evaluator.K) -> Results:
  """Returns the results of a run before its evaluation: metrics are None.

  Args:
    run: the trained or fitted run.
    k: length of the lists in the evaluation; a smaller beam size is raised to it.
  """
  config, split, book, progress = run.config, run.split, run.book, run.progress
  required = Results.__required_keys__
  empty = {name: None for name in Results.__annotations__ if name in required}
  found: dict[str, Any] = {
    "system": run.built.system.name,
    "dataset": config.data.name,
    "preset": config.preset,
    "seed": config.seed,
    "num_users": 0 if split.test is None else len(split.test),
    "protocol": config.split.kind,
    "split": "test",
    "split_sha256": split.sha256,
    "baselines": {},
    "versions": versions(),
    "devices": devices(),
  }
  if isinstance(config, LearnedConfig):
    found["steps"] = config.train.steps
  if book is not None and isinstance(config, WritesIds):
    found["ids"] = {"kind": config.ids.kind, "manifest_sha256": book.sha256}
    found["decoding"] = config.decoding.kind
    if config.decoding.has_beams:
      found["beam_size"] = max(config.decoding.beam_size, k)
  if progress is not None:
    best = progress.best_step
    flops = None  # of an example, padding of batches included
    if progress.step_flops is not None and progress.examples:
      flops = progress.step_flops * progress.trained_step / progress.examples
    found |= {
      "params": state_lib.count_parameters(run.params),
      "train_seconds": progress.train_seconds,
      "examples_per_second": progress.examples / progress.train_seconds,
      "examples": progress.best_examples if best else progress.examples,
      "flops_per_example": flops,
      "best_step": best or found["steps"],
      "parameters_sha256": run.parameters_sha256,
    }
  return cast(Results, empty | found)


def with_fields(results: Results, fields: Mapping[str, Any]) -> Results:
  """Returns a copy of the results with `fields` set."""
  return cast(Results, {**results, **fields})


def sealed(results: Results) -> Results:
  """Returns the results with their checksum, as they are written."""
  return cast(Results, json_text.sealed(results))


def table(results: Mapping[str, Any]) -> list[str]:
  """Returns the metrics of a run and its baselines, as lines of at most 80 columns."""
  heads = "".join(f"{name.upper():>8}" for name in COLUMNS)
  lines = [
    f"{results['dataset']}: {results['split']}, {results['num_users']:,} users, "
    "all items ranked",
    f"{'':13}{'seen excluded':>32} {'seen allowed':>32}",
    f"{'':13}{heads} {heads}",
  ]
  rows = {**(results["baselines"] or {}), results["system"]: results["metrics"]}
  if "best_possible" in rows:
    rows["best possible"] = rows.pop("best_possible")
  for name, metrics in rows.items():
    excluded, allowed = (
      "".join(f"{metrics[rule][column]:8.4f}" for column in COLUMNS)
      for rule in ("seen_excluded", "seen_allowed")
    )
    lines.append(f"{name:13}{excluded} {allowed}")
  return lines


def sentences(results: Mapping[str, Any]) -> list[str]:
  """Returns the results that are not in `table`, as lines of text."""
  lines = []
  if params := results["params"]:
    lines.append(
      f"{params['total']:,} parameters, {params['non_embedding']:,} outside the "
      f"embeddings; best at step {results['best_step']}; "
      f"{results['train_seconds'] or 0:.0f} s of training at "
      f"{results['examples_per_second'] or 0:,.0f} examples/s"
    )
    if results["users_per_second"]:
      lines[-1] += f"; {results['users_per_second']:,.0f} users/s in evaluation"
  if results["hallucination_rate"] is not None:
    lines.append(
      f"without the trie {100 * results['hallucination_rate']:.1f} % of the beams "
      "are no item; with it none"
    )
  if results["repeated_targets"]:
    lines.append(
      f"{results['repeated_targets']:,} users' item is one they had before: a miss "
      "where seen items are excluded"
    )
  if results["intervals"]:
    low, high = results["intervals"]["seen_excluded"]["ndcg@10"]
    lines.append(
      f"NDCG@10, seen excluded: other users would give {low:.4f} to {high:.4f} (95 %)"
    )
  if results["exposure"]:
    spread = results["exposure"]["seen_excluded"]
    lines.append(
      f"of the first 10, seen excluded: {100 * spread['coverage@10']:.0f} % of the "
      f"catalogue shown, Gini {spread['gini@10']:.2f}, "
      f"{100 * spread['head_share@10']:.0f} % from the most bought fifth"
    )
  if ceiling := results.get("expected_best_ndcg@10"):
    reached = results["metrics"]["seen_excluded"]["ndcg@10"] / ceiling
    lines.append(
      f"best possible NDCG@10 of the generator, seen excluded, expected {ceiling:.4f}; "
      f"reached {100 * reached:.0f} %"
    )
  return lines


def show(results: Mapping[str, Any]) -> None:
  """Logs the lines of `table`, if there are metrics, and those of `sentences`."""
  for line in [*(table(results) if results["metrics"] else []), *sentences(results)]:
    logger.info(line)


def about(results: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the fields that a table of users (evaluation/users.py) has as metadata."""
  names = (
    "system dataset preset seed protocol split split_sha256 parameters_sha256 "
    "decoding beam_size"
  )
  return {name: results[name] for name in names.split()}


# What is said of a file for which `same_run` is false.
OTHER_RUN = "is of another run than results.json; let `evaluate` write it anew"


def same_run(about: Mapping[str, Any], results: Mapping[str, Any]) -> bool:
  """Returns whether the fields of `about` can be of the run that has `results`."""
  # Older versions left some out.
  both = ({found.get(name) for found in (about, results)} for name in _OF_RUN)
  return all(len(values - {None}) < 2 for values in both)


def file_name(
  kind: str, results: Mapping[str, Any], users: int = 0, variant: str = ""
) -> str:
  """Returns the name, without suffix, of the file with one evaluation of a run.

  Args:
    kind: "results" or "users".
    results: the results of the evaluation; its split and decoding enter the name.
    users: the number of users to which it was restricted; 0 = all.
    variant: the options of the decoding in words; "" = the run's own.
  """
  name = f"{kind}-{results['split']}-{results['decoding'] or 'scores'}"
  name += f"-{variant}" if variant else ""
  return f"{name}-{users}users" if users else name
