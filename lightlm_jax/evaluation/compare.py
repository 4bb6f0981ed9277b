"""Comparison of runs user by user: means, intervals and significance."""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any

import numpy as np
import pyarrow

from lightlm_jax.evaluation import evaluator, uncertainty
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.runtime.errors import UserError

SPLIT_FIELDS = ("dataset", "protocol", "split", "split_sha256")
# Only one metric is tested: of many tests some are significant by chance.
DECIDING = "ndcg@10"


def check(tables: dict[str, tuple[pyarrow.Table, dict[str, Any]]]) -> None:
  """Checks that the runs were evaluated on the same users of the same split.

  Args:
    tables: name → the result of `users.read`.

  Raises:
    UserError: names two runs and their difference.
  """
  check_same_split({name: about for name, (_, about) in tables.items()})
  (first, (users, _)), *others = tables.items()
  for name, (other_users, _) in others:
    if not users["user"].equals(other_users["user"]):
      raise UserError(
        f"{first} and {name} cannot be compared: {len(users):,} and "
        f"{len(other_users):,} users were asked, not the same ones; evaluate both with "
        "the same --users"
      )


def check_names(names: Sequence[str]) -> None:
  """Checks that no two runs have the same name.

  Raises:
    UserError: two have.
  """
  for name in names:
    if names.count(name) > 1:
      raise UserError(f"two runs are called {name}; give folders of two names")


def check_same_split(abouts: dict[str, dict[str, Any]]) -> None:
  """Checks that `SPLIT_FIELDS` are equal in all runs.

  Args:
    abouts: name → a mapping with these fields.

  Raises:
    UserError: names two runs and the field that differs.
  """
  (first, about), *others = abouts.items()
  for name, other in others:
    for field in SPLIT_FIELDS:
      ours, theirs = about.get(field), other.get(field)
      if ours != theirs:
        raise UserError(
          f"{first} and {name} cannot be compared: their {field} is {ours!r} and "
          f"{theirs!r}"
        )


def compare(
  tables: dict[str, tuple[pyarrow.Table, dict[str, Any]]], *, seed: int = 0
) -> dict[str, Any]:
  """Returns each run's means with 95 % intervals, and each pair's NDCG@10 difference.

  Returns:
    runs {rule: {name: {metric: {mean, interval}}}} and pairs {rule: [{runs, difference,
    interval, p, p_holm}]}, p by a paired randomisation test, p_holm corrected for the
    number of pairs under the rule.

  Raises:
    UserError: see `check`.
  """
  check(tables)
  by_rule = {
    rule: {
      name: users_lib.values(
        *(table[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
      )
      for name, (table, _) in tables.items()
    }
    for rule in evaluator.RULES
  }
  return {
    "runs": {
      rule: {
        name: {metric: _mean(value_N, seed) for metric, value_N in found.items()}
        for name, found in runs.items()
      }
      for rule, runs in by_rule.items()
    },
    "pairs": {rule: _pairs(runs, seed) for rule, runs in by_rule.items()},
  }


def lines(report: dict[str, Any]) -> Iterator[str]:
  """The report in lines of at most 88 columns."""
  for rule, runs in report["runs"].items():
    widest = max(len(name) for name in runs)
    yield f"{rule.replace('_', ' ')}: mean and 95 % interval"
    yield (
      f"  {'':{widest}}"
      + "".join(f"{m.upper():>24}" for m in next(iter(runs.values())))
    )
    for name, found in runs.items():
      cells = (
        f"{m['mean']:.4f} [{m['interval'][0]:.4f}, {m['interval'][1]:.4f}]"
        for m in found.values()
      )
      yield f"  {name:{widest}}" + "".join(f"{cell:>24}" for cell in cells)
    for pair in report["pairs"][rule]:
      a, b = pair["runs"]
      low, high = pair["interval"]
      yield (
        f"  NDCG@10 of {a} less {b}: {pair['difference']:+.4f} [{low:+.4f}, "
        f"{high:+.4f}], p {pair['p']:.4f}, by Holm {pair['p_holm']:.4f}"
      )


def _mean(value_N: np.ndarray, seed: int) -> dict[str, Any]:
  interval = uncertainty.interval(value_N, seed=seed)
  return {"mean": float(value_N.mean()), "interval": list(interval)}


def _pairs(runs: dict[str, dict[str, np.ndarray]], seed: int) -> Sequence[dict]:
  value = {run: found[DECIDING] for run, found in runs.items()}
  pairs = []
  for a, b in itertools.combinations(value, 2):
    difference_N = value[a] - value[b]
    pairs.append(
      {
        "runs": [a, b],
        "difference": float(difference_N.mean()),
        "interval": list(uncertainty.interval(difference_N, seed=seed)),
        "p": uncertainty.paired_p(value[a], value[b], seed=seed),
      }
    )
  adjusted = uncertainty.holm(np.array([pair["p"] for pair in pairs]))
  return [pair | {"p_holm": float(p)} for pair, p in zip(pairs, adjusted)]
