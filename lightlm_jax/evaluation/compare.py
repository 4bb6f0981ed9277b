"""Compares runs user by user: means, intervals and significance."""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any

import numpy as np
import pyarrow

from lightlm_jax.evaluation import evaluator, uncertainty
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.runtime.errors import UserError

SPLIT_FIELDS = ("dataset", "protocol", "split", "split_sha256")
# Only this metric is tested: among many tests some are significant by chance.
DECIDING = "ndcg@10"


def check_names(names: Sequence[str]) -> None:
  """Raises a UserError if two runs have the same name."""
  for name in names:
    if names.count(name) > 1:
      raise UserError(f"two runs are called {name}; give folders of two names")


def check_same_split(abouts: dict[str, dict[str, Any]]) -> None:
  """Raises a UserError if runs differ in any of `SPLIT_FIELDS`.

  Args:
    abouts: the name of each run → a mapping that holds these fields.
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


def compare(tables: dict[str, tuple[pyarrow.Table, dict[str, Any]]]) -> dict[str, Any]:
  """Returns the runs' means with 95 % intervals, and every pair's NDCG@10 difference.

  Args:
    tables: the name of each run → (table of users, metadata), from `users.read`.

  Returns:
    A dict with "runs", {rule: {name: {metric: {mean, interval}}}}, and "pairs", {rule:
    [{runs, difference, interval, p, p_holm}]}. A rule is seen_excluded or seen_allowed.
    p comes from a paired randomisation test; p_holm corrects p for testing all pairs.

  Raises:
    UserError: two runs were not evaluated on the same users of the same split.
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
  report = {"runs": {}, "pairs": {}}
  for rule in evaluator.RULES:
    runs = {}
    for name, (table, _) in tables.items():
      ranks = (table[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
      runs[name] = users_lib.values(*ranks)
    report["runs"][rule] = {
      name: {metric: _mean(value_N) for metric, value_N in found.items()}
      for name, found in runs.items()
    }
    report["pairs"][rule] = _pairs({run: v[DECIDING] for run, v in runs.items()})
  return report


def lines(report: dict[str, Any]) -> Iterator[str]:
  """Yields `report`, the result of `compare`, as lines of text."""
  for rule, runs in report["runs"].items():
    widest = max(len(name) for name in runs)
    yield f"{rule.replace('_', ' ')}: mean and 95 % interval"
    heads = (f"{metric.upper():>24}" for metric in next(iter(runs.values())))
    yield f"  {'':{widest}}" + "".join(heads)
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


def _mean(value_N: np.ndarray, name: str = "mean") -> dict[str, Any]:
  return {name: float(value_N.mean()), "interval": list(uncertainty.interval(value_N))}


def _pairs(value: dict[str, np.ndarray]) -> list[dict[str, Any]]:
  pairs = [
    {"runs": [a, b]}
    | _mean(value[a] - value[b], "difference")
    | {"p": uncertainty.paired_p(value[a], value[b])}
    for a, b in itertools.combinations(value, 2)
  ]
  adjusted = uncertainty.holm(np.array([pair["p"] for pair in pairs]))
  return [pair | {"p_holm": float(p)} for pair, p in zip(pairs, adjusted)]
