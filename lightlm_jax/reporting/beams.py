"""What a run loses by searching: beams of several widths against every item scored.

As in sections.py, the function makes the plain data of its section.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightlm_jax.evaluation import uncertainty
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.evaluation.compare import DECIDING
from lightlm_jax.reporting.advice import asks, note
from lightlm_jax.reporting.run_files import Run, Search
from lightlm_jax.reporting.sections import RULES

# What two answers have to share: the same users asked, of the same parameters.
SAME = ("split", "num_users", "split_sha256", "best_step")


def beams(runs: Sequence[Run]) -> dict[str, Any] | None:
  """A table a rule for every run and every set of users that were asked both ways."""
  found, lines = [], []
  for run in runs:
    for exact, by_width in _together(run.searches):
      asked = f"{exact.results['split']}, {exact.results['num_users']:,} users"
      answers = [*(by_width[width] for width in sorted(by_width)), exact]
      found.append(
        {
          "title": f"{run.name}: {asked}" if len(runs) > 1 else asked,
          "narrow": min(by_width) < 10,
          "rules": [
            {"name": name, "rows": [_row(run, a, exact, rule) for a in answers]}
            for rule, name in RULES.items()
          ],
        }
      )
      lines += [
        note(
          f"{run.name} left no table of users of {_name(answer.results)}, without "
          "which a difference has no interval; this makes it",
          asks(run, answer.results),
        )
        for answer in answers
        if answer.users is None
      ]
  return {"tables": found, "missing": lines} if found else None


def _together(searches: Sequence[Search]) -> list[tuple[Search, dict[int, Search]]]:
  """Each exact answer, with those of beams by width that it can be set beside."""
  pairs = []
  for exact in searches:
    if exact.results["decoding"] == "exact":
      by_width = {
        search.results["beam_size"]: search
        for search in searches
        if search.results["decoding"] == "beam"
        if all(search.results.get(f) == exact.results.get(f) for f in SAME)
        if search.users is None or exact.users is None or _same_users(search, exact)
      }
      pairs += [(exact, by_width)] if by_width else []
  return pairs


def _same_users(one: Search, other: Search) -> bool:
  return one.users["user"].equals(other.users["user"])


def _row(run: Run, answer: Search, exact: Search, rule: str) -> dict[str, Any]:
  results = answer.results
  metrics = results["metrics"][rule]
  interval = None
  if answer is not exact and answer.users is not None and exact.users is not None:
    difference_N = _values(answer, rule) - _values(exact, rule)
    interval = uncertainty.interval(difference_N)
  own = (run.results or {}).get("decoding"), (run.results or {}).get("beam_size")
  speed = results.get("users_per_second")
  return {
    "name": "exact" if answer is exact else results["beam_size"],
    "own": (results["decoding"], results["beam_size"]) == own,
    "hr": metrics["hr@10"],
    "ndcg": metrics[DECIDING],
    "gap": None
    if answer is exact
    else metrics[DECIDING] - exact.results["metrics"][rule][DECIDING],
    "interval": interval,
    "speed": None if speed is None else f"{speed:,.0f}",
  }


def _values(search: Search, rule: str) -> np.ndarray:
  """[N] the NDCG@10 of each user."""
  ranks = (search.users[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
  return users_lib.values(*ranks)[DECIDING]


def _name(results: dict[str, Any]) -> str:
  if results["decoding"] == "exact":
    return "exact"
  return f"a beam of {results['beam_size']}"
