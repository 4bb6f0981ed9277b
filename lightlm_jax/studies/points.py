"""A study's table: its runs by family, and runs that differ in their seed as one point.

A *family* is what may be set beside each other: one data set, one system, and one value
of every axis that is a word. A *point* is what was searched, whatever the seed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
import numpy as np
import polars as pl
import pyarrow
import scipy.special

from lightlm_jax.evaluation import uncertainty
from lightlm_jax.evaluation.evaluator import RULES
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import parquet
from lightlm_jax.studies import summary as table_lib

SIZES = (
  *table_lib.MODEL,
  *("data_share", "interactions", "params", "params_non_embedding"),
)
COSTS = (
  *("flops_per_example", "examples", "train_flops", "train_seconds"),
  *("examples_per_second", "best_step"),
)
LEVEL = 0.95


class Measure(NamedTuple):
  """A figure of the validation split that runs are judged by."""

  column: str
  name: str
  rule: str | None  # in words
  lower_is_better: bool
  test: str | None  # the column of the same figure of the test split

  @property
  def title(self) -> str:
    return f"{self.name}, {self.rule}" if self.rule else self.name


LOSS = Measure("validation_loss", "validation loss", None, True, None)
ACCURACY = tuple(
  Measure(
    f"validation_ndcg@10_{rule}",
    "validation NDCG@10",
    rule.replace("_", " "),
    False,
    f"ndcg@10_{rule}",
  )
  for rule in RULES
)
MEASURES = (LOSS, *ACCURACY)
DECIDING = ACCURACY[0]
_MEASURED = (LOSS.column, *table_lib.METRICS)


class Spread(NamedTuple):
  """How far seeds of one point deviate, pooled over points that have several."""

  std: float
  freedom: int


class Family(NamedTuple):
  """Runs that may be set beside each other, and the points that they make."""

  key: dict[str, Any]  # dataset, system, and axes that are words
  axes: tuple[str, ...]  # that take more than one value here
  runs: pl.DataFrame  # `point` says of which row of points
  points: pl.DataFrame  # numbers as means, measures also as COLUMN:std and COLUMN:seeds

  @property
  def title(self) -> str:
    rest = [f"{k} {v}" for k, v in self.key.items() if k not in ("dataset", "system")]
    return ", ".join([f"{self.key['system']} on {self.key['dataset']}", *rest])

  def names(self) -> list[str]:
    """Each point in words: what it does not share with all others."""
    return [name_of(row, self.axes) for row in self.points.iter_rows(named=True)]

  def spread(self, measure: Measure) -> Spread | None:
    """None where no point has two seeds."""
    seeds_P = self.points[f"{measure.column}:seeds"].to_numpy()
    std_P = self.points[f"{measure.column}:std"].fill_null(0).to_numpy()
    freedom_P = np.maximum(seeds_P - 1, 0)
    freedom = int(freedom_P.sum())
    if not freedom:
      return None
    return Spread(float(np.sqrt((freedom_P * std_P**2).sum() / freedom)), freedom)


class Difference(NamedTuple):
  """A mean less another; no interval and no p where no seed was repeated."""

  value: float
  half: float | None  # of the interval
  p: float | None

  def interval(self) -> list[float] | None:
    if self.half is None:
      return None
    return [self.value - self.half, self.value + self.half]


def read(study: epath.Path) -> pl.DataFrame:
  """The table of a study.

  Raises:
    UserError: there is none, or it is no such table.
  """
  path = study / table_lib.FILE
  if not path.exists():
    raise UserError(
      f"{path} does not exist; give --workdir=STUDY, a folder in which `sweep` has "
      "ended a trial"
    )
  try:
    table = pl.from_arrow(parquet.from_bytes(path.read_bytes()))
  except (OSError, ValueError, pyarrow.ArrowException) as error:
    raise UserError(f"cannot read {path} ({error}); `sweep` writes it anew")
  missing = [name for name in table_lib.COLUMNS if name not in table.columns]
  if missing:
    raise UserError(
      f"{path} has no column {', '.join(missing[:3])}; `sweep` of this version writes "
      "it anew"
    )
  # A loss that has run away is as good as none.
  floats = [name for name, kind in table.schema.items() if kind.is_float()]
  return table.with_columns(
    pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats
  )


def axes(table: pl.DataFrame) -> tuple[str, ...]:
  """What was varied, as the columns that every table has say nothing of it."""
  return tuple(name for name in table.columns if name not in table_lib.COLUMNS)


def families(table: pl.DataFrame) -> list[Family]:
  """The finished runs in families, both in the order of the table."""
  finished = table.filter(pl.col("state") == "finished")
  names = axes(table)
  words = [name for name in names if not table.schema[name].is_numeric()]
  numbers = [name for name in names if name not in words]
  found = []
  together = ["dataset", "system", *words]
  for key, runs in finished.group_by(together, maintain_order=True):
    kept = dict(zip(together, key))
    alike = [word for word in words if finished[word].n_unique() == 1]
    varied = tuple(name for name in numbers if runs[name].n_unique() > 1)
    found.append(
      Family(
        {name: value for name, value in kept.items() if name not in alike},
        varied,
        *_points(runs, numbers),
      )
    )
  return found


def _points(runs: pl.DataFrame, numbers: Sequence[str]):
  """The runs, each with the number of its point, and the points."""
  rows = runs.select(numbers).rows() if numbers else [()] * len(runs)
  order: dict[tuple[Any, ...], int] = {}
  place_R = [order.setdefault(row, len(order)) for row in rows]
  runs = runs.with_columns(pl.Series("point", place_R, pl.Int64))
  points = runs.group_by("point", maintain_order=True).agg(
    pl.len().alias("runs"),
    *(pl.col(name).first() for name in numbers),
    *(pl.col(name).mean() for name in (*SIZES, *COSTS, *_MEASURED)),
    *(pl.col(name).std().alias(f"{name}:std") for name in _MEASURED),
    *(pl.col(name).count().alias(f"{name}:seeds") for name in _MEASURED),
  )
  return runs, points


def name_of(row: dict[str, Any], names: Sequence[str]) -> str:
  """depth 8 × width 64 × ffn 0.5."""
  return " × ".join(f"{n} {number(row[n])}" for n in names) or "the one shape"


def number(value: float | int | None) -> str:
  """Four digits, and none after a whole number."""
  if value is None:
    return "none"
  if float(value).is_integer():
    return f"{int(value):,}"
  return f"{value:.4g}"


def amount(value: float) -> str:
  """Of parameters, with a letter for thousands, millions or billions: 1.2 M."""
  for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
    if value >= 0.9995 * size:
      return f"{value / size:.3g}{letter}"
  return f"{value:.3g}"


def compare(family: Family, measure: Measure, one: int, other: int) -> Difference:
  """The mean of a point less that of another, by the spread that points share.

  Two seeds alone say next to nothing of their own spread; pooled over the points of a
  family it is known well enough for Student's t, if points deviate alike.
  """
  mean_P, seeds_P = (
    family.points[measure.column + ending].to_list() for ending in ("", ":seeds")
  )
  value = mean_P[one] - mean_P[other]
  spread = family.spread(measure)
  if spread is None:
    return Difference(value, None, None)
  error = spread.std * (1 / seeds_P[one] + 1 / seeds_P[other]) ** 0.5
  half = _quantile(spread) * error
  if not error:
    return Difference(value, 0.0, 1.0 if value == 0 else 0.0)
  p = 2 * float(scipy.special.stdtr(spread.freedom, -abs(value) / error))
  return Difference(value, half, p)


def half_width(family: Family, measure: Measure, point: int) -> float | None:
  """Half the interval of a point's mean over seeds, by the spread that points share."""
  spread = family.spread(measure)
  seeds = family.points[f"{measure.column}:seeds"][point]
  if spread is None or not seeds:
    return None
  return _quantile(spread) * spread.std / seeds**0.5


def told_apart(
  family: Family, measure: Measure, pairs: Sequence[tuple[int, int]]
) -> list[bool]:
  """Whether the points of each pair differ by more than seeds do.

  Their intervals must not overlap, and p, corrected by Holm for so many pairs, must be
  at most 0.05.
  """
  found = [compare(family, measure, *pair) for pair in pairs]
  if not found or found[0].p is None:
    return [False] * len(found)
  adjusted = uncertainty.holm(np.array([difference.p for difference in found]))
  return [
    bool(p <= 1 - LEVEL)
    and abs(difference.value) > sum(half_width(family, measure, end) for end in pair)
    for difference, p, pair in zip(found, adjusted, pairs)
  ]


def _quantile(spread: Spread) -> float:
  return float(scipy.special.stdtrit(spread.freedom, (1 + LEVEL) / 2))
