"""The summary of a study: a Parquet table with a row for each ended trial.

`state` is "finished" or "failed"; a failed trial has a `reason`. `interactions` counts
the training interactions, `examples` the training examples until `best_step`.
"""

import math
import pathlib
from typing import Any

from etils import epath
import pyarrow

from lightlm_jax import config as config_lib
from lightlm_jax.config import RunConfig
from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.reporting.run_files import at
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
_TEXTS = ("trial", "state", "reason", "dataset", "system")
_OF_RESULTS = ("train_seconds", "examples_per_second", "best_step", "validation_loss")
# Columns that are averaged over seeds.
NUMBERS = (
  *MODEL,
  *("data_share", "interactions", "params", "params_non_embedding"),
  *("flops_per_example", "examples", "train_flops"),
  *_OF_RESULTS,
  *METRICS,
)
COLUMNS = (*_TEXTS, "seed", *NUMBERS)  # in every study; each axis adds a column
_INTEGERS = (
  *MODEL,
  *("interactions", "params", "params_non_embedding", "examples", "best_step"),
)


def row(
  name: str, point: Point, config: RunConfig, folder: pathlib.Path, reason: str | None
) -> dict[str, Any]:
  """Builds the row of an ended trial; columns that do not apply are None.

  `reason` says why the trial failed. If it is None, the results are read from `folder`,
  the trial's workdir; if they cannot be read, the trial counts as failed.
  """
  results, split = {}, {}
  if reason is None:
    try:
      results = json_text.loads((folder / "results.json").read_text())
      split = json_text.loads((folder / "split.json").read_text())
      if not math.isfinite(at(results, *METRICS[OBJECTIVE])):
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
    "interactions": at(split, "train", "interactions"),
    "params": at(results, "params", "total"),
    "params_non_embedding": at(results, "params", "non_embedding"),
    "flops_per_example": flops,
    "examples": examples,
    "train_flops": flops * examples if flops and examples else None,
    **{name: results.get(name) for name in _OF_RESULTS},
    **{column: at(results, *place) for column, place in METRICS.items()},
  }


def write(path: pathlib.Path, rows: list[dict[str, Any]], plan: Plan) -> None:
  """Writes the rows of ended trials as a table with the axes of `plan`, atomically."""
  types = dict.fromkeys(_TEXTS, pyarrow.string()) | {"seed": pyarrow.int64()}
  types |= {axis: pyarrow.scalar(values[0]).type for axis, values in plan.axes.items()}
  types |= dict.fromkeys(NUMBERS, pyarrow.float64())
  types |= dict.fromkeys(_INTEGERS, pyarrow.int64())
  table = pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(types))
  atomic.write_own(epath.Path(path), parquet.to_bytes(table))
