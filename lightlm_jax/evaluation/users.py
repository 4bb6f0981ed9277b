"""Writes and reads tables of each user's ranks and recommendations, to compare runs.

A table has a row per request, sorted by raw user id; all metrics follow from the ranks.

Columns: user, target (raw ids); history_length; target_bought (training interactions of
the target, 0 = cold); target_seen (whether the target is in the history). Also, for
each RULE (seen_excluded, seen_allowed): `RULE_rank`, `RULE_ties` (see evaluator.Ranks)
and `RULE_items`, the raw ids of the first `SHOWN` recommendations.
"""

import hashlib
import json
from typing import Any

from etils import epath
import numpy as np
import pyarrow
import pyarrow.compute

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests
from lightlm_jax.evaluation import metrics
from lightlm_jax.evaluation.evaluator import RULES, Ranks
from lightlm_jax.runtime.errors import UserError, first_line
from lightlm_jax.storage import atomic, json_text, parquet

SHOWN = 10
_KEY = b"lightlm_jax"
_compute: Any = pyarrow.compute  # its functions are created at import
_INT32 = pyarrow.int32()
_TEXT = pyarrow.string()
_RANKED = {"rank": _INT32, "ties": _INT32, "items": pyarrow.list_(_TEXT)}
# Columns of a table, and their types once it is read.
SCHEMA = pyarrow.schema(
  {
    "user": _TEXT,
    "target": _TEXT,
    "history_length": _INT32,
    "target_bought": _INT32,
    "target_seen": pyarrow.bool_(),
  }
  | {f"{rule}_{part}": kind for rule in RULES for part, kind in _RANKED.items()}
)


def table(
  requests: Requests,
  ranks: dict[str, Ranks],
  train: Interactions,
  about: dict[str, Any],
) -> pyarrow.Table:
  """Returns the table of one system on one set of requests.

  `ranks` maps each rule, such as "seen_excluded", to its `Ranks`, whose `items_NK` must
  not be None. `about`, JSON that identifies run and split, becomes the metadata.
  """
  order_N = np.argsort(train.user_ids[requests.user_N], kind="stable")
  requests = requests.take(order_N)
  bought_I = np.bincount(train.item_E, minlength=train.num_items)
  columns = {
    "user": train.user_ids[requests.user_N],
    "target": train.item_ids[requests.target_N],
    "history_length": requests.length_N.astype(np.int32),
    "target_bought": bought_I[requests.target_N].astype(np.int32),
    "target_seen": requests.repeated_N,
  }
  for rule, found in ranks.items():
    columns[f"{rule}_rank"] = found.rank_N[order_N]
    columns[f"{rule}_ties"] = found.ties_N[order_N]
    assert found.items_NK is not None
    columns[f"{rule}_items"] = _raw_lists(found.items_NK[order_N], train.item_ids)
  users = pyarrow.table(columns)
  users = users.cast(pyarrow.schema([SCHEMA.field(name) for name in columns]))
  sealed = about | {"checksum": _checksum(users, about)}
  return users.replace_schema_metadata({_KEY: json.dumps(sealed)})


def values(rank_N: np.ndarray, ties_N: np.ndarray) -> dict[str, np.ndarray]:
  """Returns HR and NDCG at 5 and at 10 of N requests, as {"hr@5": [N] float64, …}."""
  return {
    f"{name}@{k}": metric(rank_N, ties_N, k=k)
    for k in (5, 10)
    for name, metric in (("hr", metrics.hit_rate), ("ndcg", metrics.ndcg))
  }


def write(path: epath.Path, users: pyarrow.Table) -> None:
  """Writes a table of users to `path` atomically."""
  atomic.write(path, parquet.to_bytes(users))


def read(path: epath.Path) -> tuple[pyarrow.Table, dict[str, Any]]:
  """Reads a table of users, and the metadata `about` that is stored in it.

  Raises:
    UserError: the file does not exist, or is not a table of users.
  """
  if not path.exists():
    raise UserError(
      f"{path} does not exist; `train` and `evaluate` write it: run "
      f"`python -m lightlm_jax.evaluate --workdir={path.parent}`"
    )
  try:
    users = parquet.from_bytes(path.read_bytes())
    about = json_text.loads((users.schema.metadata or {})[_KEY])
    if wrong := json_text.misfit(about, dict[str, str | int | None], "its metadata"):
      raise ValueError(wrong)
    users = _checked(users.select(SCHEMA.names).cast(SCHEMA))
    checksum = about.pop("checksum", None)  # older versions left it out
    if checksum not in (None, _checksum(users, about)):
      raise ValueError("it was changed after it was written: its checksum differs")
    return users, about
  except (OSError, KeyError, TypeError, ValueError, pyarrow.ArrowException) as error:
    raise UserError(
      f"{path} is no table of users ({first_line(error)}); let `evaluate` write it"
    )


def _checked(users: pyarrow.Table) -> pyarrow.Table:
  """Returns a table of `SCHEMA`; raises a ValueError if a value is impossible."""
  if not len(users):
    raise ValueError("it has no users")
  for name, column in zip(users.column_names, users.columns):
    values = column.combine_chunks()
    inner = values.flatten() if pyarrow.types.is_list(values.type) else values
    if values.null_count or inner.null_count:
      raise ValueError(f"{name} lacks values")
    if pyarrow.types.is_integer(values.type) and (values.to_numpy() < 0).any():
      raise ValueError(f"{name} has negative numbers")
  return users


def _checksum(users: pyarrow.Table, about: dict[str, Any]) -> str:
  """Returns the SHA-256 of a table of `SCHEMA` and its metadata, in hexadecimal."""
  found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
  for name in sorted(users.column_names):
    values = users[name].combine_chunks()
    if pyarrow.types.is_list(values.type):
      found.update(_compute.list_value_length(values).to_numpy().tobytes())
      values = values.flatten()
    if pyarrow.types.is_string(values.type):
      found.update(_compute.binary_length(values).to_numpy().tobytes())
      found.update(str.join("", values.to_pylist()).encode())
    else:
      found.update(values.to_numpy(zero_copy_only=False).tobytes())
  return found.hexdigest()


def _raw_lists(items_NK: np.ndarray, item_ids: np.ndarray) -> pyarrow.Array:
  """Converts [N, K] indices to lists of at most SHOWN raw ids, without padding (-1)."""
  items_NK = items_NK[:, :SHOWN]
  real_NK = items_NK >= 0
  offset_N1 = np.append(0, np.cumsum(real_NK.sum(axis=1))).astype(np.int32)
  raw = pyarrow.array(item_ids[items_NK[real_NK]])
  return pyarrow.ListArray.from_arrays(pyarrow.array(offset_N1), raw)
