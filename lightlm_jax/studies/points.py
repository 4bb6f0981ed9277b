"""Groups the runs of a study into families and points, and compares points.

A *family* holds runs that can be compared: one data set, one system, and one value on
each non-numeric axis. A *point* is one combination of values on the numeric axes; its
runs differ only in their seed. Letters: P points, R runs.
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

SIZE, DATA = "params_non_embedding", "interactions"
COSTS = ("params", "train_flops", "train_seconds")
# Columns of the table in words.
NAMES = {
  SIZE: "parameters outside the embeddings",
  DATA: "training interactions",
  "params": "parameters",
  "train_flops": "training FLOPs until the best step",
  "train_seconds": "training seconds",
}
LEVEL = 0.95


class Measure(NamedTuple):
  """A validation metric by which runs are compared."""

  column: str  # column in the study's table
  name: str  # words for it in texts
  rule: str | None  # "seen excluded" or "seen allowed"; None for the loss
  lower_is_better: bool
  test: str | None  # column of the same metric on the test split; None for the loss

  @property
  def title(self) -> str:
    return f"{self.name}, {self.rule}" if self.rule else self.name


LOSS = Measure("validation_loss", "validation loss", None, True, None)
ACCURACY = tuple(
  Measure(f"validation_{test}", "validation NDCG@10", words, False, test)
  for test, words in ((f"ndcg@10_{rule}", rule.replace("_", " ")) for rule in RULES)
)
MEASURES = (LOSS, *ACCURACY)
DECIDING = ACCURACY[0]
_MEASURED = (LOSS.column, *table_lib.METRICS)


class Spread(NamedTuple):
  """The standard deviation between seeds, pooled over all points with several seeds."""

  std: float
  freedom: int  # degrees of freedom

  @property
  def quantile(self) -> float:
    """The quantile of Student's t for a two-sided interval with coverage LEVEL."""
    return float(scipy.special.stdtrit(self.freedom, (1 + LEVEL) / 2))


class Family(NamedTuple):
  """Runs that can be compared, and their points."""

  key: dict[str, Any]  # dataset, system, and values on the non-numeric axes
  axes: tuple[str, ...]  # the numeric axes that vary within the family
  runs: pl.DataFrame  # one row per run; `point` is the number of its point
  # One row per point: means over seeds; for metrics also COLUMN:std and COLUMN:seeds.
  points: pl.DataFrame

  @property
  def title(self) -> str:
    other = [f"{k} {v}" for k, v in self.key.items() if k not in ("dataset", "system")]
    return ", ".join([f"{self.key['system']} on {self.key['dataset']}", *other])

  def names(self) -> list[str]:
    """Returns the points' names, made of their values on the axes that vary."""
    return [name_of(row, self.axes) for row in self.points.iter_rows(named=True)]

  def column(self, name: str) -> np.ndarray:
    """Returns the column `name` of the points, [P] float64, with NaN for null."""
    return self.points[name].cast(pl.Float64).fill_null(np.nan).to_numpy()

  def spread(self, measure: Measure) -> Spread | None:
    """Returns the pooled spread over seeds; None if no point has two seeds."""
    std_P = np.nan_to_num(self.column(f"{measure.column}:std"))
    freedom_P = np.maximum(self.points[f"{measure.column}:seeds"].to_numpy() - 1, 0)
    freedom = int(freedom_P.sum())
    if not freedom:
      return None
    return Spread(float(np.sqrt((freedom_P * std_P**2).sum() / freedom)), freedom)


class Difference(NamedTuple):
  """A difference of two means, half its interval's width, and p (None = unknown)."""

  value: float
  half: float | None
  p: float | None

  def interval(self) -> list[float] | None:
    if self.half is None:
      return None
    return [self.value - self.half, self.value + self.half]


def read(study: epath.Path) -> pl.DataFrame:
  """Reads the table of trials in the folder `study`; raises a UserError on failure."""
  path = study / table_lib.FILE
  if not path.exists():
    raise UserError(
      f"{path} does not exist; give --workdir=STUDY, a folder in which `sweep` has "
      "finished a trial"
    )
  try:
    table = pl.DataFrame(pl.from_arrow(parquet.from_bytes(path.read_bytes())))
  except (OSError, ValueError, pyarrow.ArrowException) as error:
    raise UserError(f"cannot read {path} ({error}); run `sweep` to write it again")
  missing = [name for name in table_lib.COLUMNS if name not in table.columns]
  if missing:
    raise UserError(
      f"{path} has no column {', '.join(missing[:3])}; run `sweep` of this version to "
      "write it again"
    )
  # Numbers that are not finite, such as a diverged loss, become null.
  floats = [name for name, kind in table.schema.items() if kind.is_float()]
  return table.with_columns(
    pl.when(pl.col(name).is_finite()).then(pl.col(name)).alias(name) for name in floats
  )


def axes(table: pl.DataFrame) -> tuple[str, ...]:
  """Returns the axes of a study, except the seed, from the columns of its table."""
  return tuple(name for name in table.columns if name not in table_lib.COLUMNS)


def families(table: pl.DataFrame) -> list[Family]:
  """Groups the finished runs into families, in the order of the rows of the table."""
  finished = table.filter(pl.col("state") == "finished")
  words = [name for name in axes(table) if not table.schema[name].is_numeric()]
  numbers = [name for name in axes(table) if name not in words]
  constant = [word for word in words if finished[word].n_unique() == 1]
  group = ["dataset", "system", *words]
  return [
    Family(
      {k: v for k, v in zip(group, key) if k not in constant},
      tuple(name for name in numbers if runs[name].n_unique() > 1),
      *_points(runs, numbers),
    )
    for key, runs in finished.group_by(group, maintain_order=True)
  ]


def _points(runs: pl.DataFrame, numbers: Sequence[str]):
  """Groups runs equal on the axes `numbers` into points; returns (runs, points)."""
  order: dict[tuple[Any, ...], int] = {}
  place_R = [order.setdefault(row, len(order)) for row in rows(runs, numbers)]
  runs = runs.with_columns(pl.Series("point", place_R, pl.Int64))
  points = runs.group_by("point", maintain_order=True).agg(
    pl.len().alias("runs"),
    pl.col(numbers).first(),
    pl.col(*table_lib.NUMBERS).mean(),
    pl.col(_MEASURED).std().name.suffix(":std"),
    pl.col(_MEASURED).count().name.suffix(":seeds"),
  )
  return runs, points


def rows(table: pl.DataFrame, names: Sequence[str]) -> list[tuple[Any, ...]]:
  """Returns the rows of the table's columns `names`; each is () if `names` is empty."""
  return table.select(names).rows() if names else [()] * len(table)


def name_of(row: dict[str, Any], names: Sequence[str]) -> str:
  """Names a point by its axes `names`, as in "depth 8 × width 64 × ffn 0.5"."""
  return " × ".join(f"{n} {number(row[n])}" for n in names) or "the only point"


def number(value: float | int | None) -> str:
  """Formats a number with four significant digits, or in full if it is whole."""
  if value is None:
    return "none"
  return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


def amount(value: float) -> str:
  """Formats a count with three significant digits and k, M or G, such as 1.2 M."""
  for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
    if value >= 0.9995 * size:
      return f"{value / size:.3g}{letter}"
  return f"{value:.3g}"


def compare(family: Family, measure: Measure, one: int, other: int) -> Difference:
  """Tests the difference of means, `one` minus `other`, by a pooled t-test.

  The standard deviation between seeds is pooled over all points of the family, because
  one point has few seeds; this assumes equal variances. If no point has two seeds, the
  result has neither interval nor p.
  """
  mean_P = family.points[measure.column]
  value = mean_P[one] - mean_P[other]
  spread = family.spread(measure)
  if spread is None:
    return Difference(value, None, None)
  seeds_P = family.points[f"{measure.column}:seeds"]
  error = spread.std * (1 / seeds_P[one] + 1 / seeds_P[other]) ** 0.5
  if not error:
    return Difference(value, 0.0, 1.0 if value == 0 else 0.0)
  p = 2 * float(scipy.special.stdtr(spread.freedom, -abs(value) / error))
  return Difference(value, spread.quantile * error, p)


def half_width(family: Family, measure: Measure, point: int) -> float | None:
  """Returns half the width of the interval of a point's mean; None if unknown."""
  spread = family.spread(measure)
  seeds = family.points[f"{measure.column}:seeds"][point]
  if spread is None or not seeds:
    return None
  return spread.quantile * spread.std / seeds**0.5


def significant(
  family: Family, measure: Measure, pairs: Sequence[tuple[int, int]]
) -> list[bool]:
  """Returns a bool per pair of points: True if they differ significantly.

  The intervals of their means must not overlap, and p must be at most 0.05 after Holm's
  correction for the number of pairs.
  """
  if family.spread(measure) is None:
    return [False] * len(pairs)
  found = [compare(family, measure, *pair) for pair in pairs]
  p_N = uncertainty.holm(np.array([difference.p for difference in found]))
  return [
    bool(p <= 1 - LEVEL)
    and abs(difference.value)
    > sum(half_width(family, measure, end) or 0 for end in pair)
    for difference, p, pair in zip(found, p_N, pairs)
  ]
