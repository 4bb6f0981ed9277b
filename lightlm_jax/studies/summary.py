"""The summary of a study: a Parquet table with a row for each ended trial."""

from collections.abc import Sequence
import math
import pathlib
from typing import Any

from etils import epath
import pyarrow

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.storage import atomic, json_text, parquet
from lightlm_jax.studies.axes import Point
from lightlm_jax.studies.plan import Plan

FILE = "summary.parquet"  # in the study's folder
OBJECTIVE = "validation_ndcg@10_seen_excluded"
METRICS = {
  f"{prefix}{metric}_{rule}": (group, rule, metric)
  for prefix, group in (("validation_", "validation"), ("", "metrics"))
  for metric in ("ndcg@10", "hr@10")
  for rule in RULES
}
MODEL = ("num_layers", "num_decoder_layers", "d_model", "num_heads", "d_ff")
_TYPES = {bool: pyarrow.bool_(), int: pyarrow.int64(), float: pyarrow.float64()}
_FIRST = {
  "trial": pyarrow.string(),
  "state": pyarrow.string(),  # finished or failed
  "reason": pyarrow.string(),  # why a trial failed
  "dataset": pyarrow.string(),
  "system": pyarrow.string(),
  "seed": pyarrow.int64(),
}
# Columns of numbers, which are averaged over seeds.
NUMBERS = (
  dict.fromkeys(MODEL, pyarrow.int64())
  | {
    "data_share": pyarrow.float64(),
    "interactions": pyarrow.int64(),  # for training
    "params": pyarrow.int64(),
    "params_non_embedding": pyarrow.int64(),
    "flops_per_example": pyarrow.float64(),
    "examples": pyarrow.int64(),  # until best_step
    "train_flops": pyarrow.float64(),
    "train_seconds": pyarrow.float64(),
    "examples_per_second": pyarrow.float64(),
    "best_step": pyarrow.int64(),
    "validation_loss": pyarrow.float64(),
  }
  | dict.fromkeys(METRICS, pyarrow.float64())
)
COLUMNS = (*_FIRST, *NUMBERS)  # of every study; axes add their own


def row(
  name: str,
  point: Point,
  config: RunConfig,
  folder: pathlib.Path,
  reason: str | None,
) -> dict[str, Any]:
  """Returns the row of an ended trial; None where a column does not apply.

  Args:
    name, point, config: of the trial.
    folder: its workdir.
    reason: why it failed; None = it has results.
  """
  results, split = {}, {}
  if reason is None:
    try:
      results = json_text.loads((folder / "results.json").read_text())
      split = json_text.loads((folder / "split.json").read_text())
      if not math.isfinite(_at(results, METRICS[OBJECTIVE])):
        raise ValueError("its validation metric is not finite")
    except (OSError, ValueError, TypeError) as error:
      results, reason = {}, f"its results cannot be read: {error}"
  examples, flops = results.get("examples"), results.get("flops_per_example")
  fields = config_lib.to_flat(config)
  return {
    "trial": name,
    "state": "finished" if reason is None else "failed",
    "reason": reason,
    "dataset": config.data.name,
    "system": config.system,
    **point,
    **{name: fields.get(f"model.{name}") for name in MODEL},
    "data_share": config.data.share,
    "interactions": _at(split, ("train", "interactions")),
    "params": _at(results, ("params", "total")),
    "params_non_embedding": _at(results, ("params", "non_embedding")),
    "flops_per_example": flops,
    "examples": examples,
    "train_flops": flops * examples if flops and examples else None,
    "train_seconds": results.get("train_seconds"),
    "examples_per_second": results.get("examples_per_second"),
    "best_step": results.get("best_step"),
    "validation_loss": results.get("validation_loss"),
    **{column: _at(results, place) for column, place in METRICS.items()},
  }


def write(path: pathlib.Path, rows: list[dict[str, Any]], plan: Plan) -> None:
  """Writes the summary atomically."""
  own = {
    name: _TYPES.get(type(values[0]), pyarrow.string())
    for name, values in plan.axes.items()
    if name != "seed"
  }
  schema = pyarrow.schema(list((_FIRST | own | NUMBERS).items()))
  table = pyarrow.Table.from_pylist(rows, schema=schema)
  atomic.write_own(epath.Path(path), parquet.to_bytes(table))


def _at(results: Any, place: Sequence[str]) -> Any:
  for name in place:
    results = (results or {}).get(name)
  return results
