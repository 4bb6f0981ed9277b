"""One run decoded in several ways: beam widths against exact search, and L2D.

Each function returns the data of one section for the template.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow

from lightlm_jax.evaluation import uncertainty
from lightlm_jax.evaluation import users as users_lib
from lightlm_jax.evaluation.compare import DECIDING
from lightlm_jax.inference import state_index
from lightlm_jax.reporting.advice import evaluate, note
from lightlm_jax.reporting.run_files import Run, Search
from lightlm_jax.reporting.sections import RULES

# Fields that comparable evaluations share: the same users and the same parameters.
SAME = ("split", "num_users", "split_sha256", "best_step")


def beams(runs: Sequence[Run]) -> dict[str, Any] | None:
  """Returns tables of beam widths against exact search: what pruning costs.

  There is a table for each rule, run and set of users that was decoded both ways; None
  without any.
  """
  found, lines = [], []
  for run in runs:
    for exact, by_width in _together(run.searches):
      answers = [*(by_width[width] for width in sorted(by_width)), exact]
      rules = [
        {"name": name, "rows": [_beam_row(run, a, exact, rule) for a in answers]}
        for rule, name in RULES.items()
      ]
      title = _title(run, exact.results, len(runs) > 1)
      found.append({"title": title, "narrow": min(by_width) < 10, "rules": rules})
      lines += [
        note(
          f"{run.name} has no table of users of {_decoding(answer.results)}, without "
          "which a difference has no interval; this writes it",
          evaluate(run, answer.results),
        )
        for answer in answers
        if answer.users is None
      ]
  return {"tables": found, "missing": lines} if found else None


def state_indexes(runs: Sequence[Run]) -> dict[str, Any] | None:
  """Returns tables of L2D against the run's own decoding, by popularity of the target.

  L2D (arXiv 2509.11524) claims gains on items that are rare in training. There is a
  table for each rule and run that was decoded with L2D; None without any.
  """
  found = []
  for run in runs:
    answers = _same_evaluations(run)
    if len(answers) > 1:
      columns = [
        (name, f"{cut['users']:,}") for name, cut in _targets(run.results).items()
      ]
      rules = [
        {"name": name, "rows": [_l2d_row(run, a, rule) for a in answers.items()]}
        for rule, name in RULES.items()
      ]
      title = _title(run, run.results, len(runs) > 1)
      found.append({"title": title, "columns": columns, "rules": rules})
  return {"tables": found} if found else None


def _title(run: Run, results: Any, by_run: bool) -> str:
  users = f"{results['split']}, {results['num_users']:,} users"
  return f"{run.name}: {users}" if by_run else users


def _together(searches: Sequence[Search]) -> list[tuple[Search, dict[int, Search]]]:
  """Returns each exact evaluation with the comparable ones of beam search, by width."""
  pairs = []
  for exact in searches:
    if exact.results["decoding"] == "exact":
      by_width = {
        search.results["beam_size"]: search
        for search in searches
        if search.results["decoding"] == "beam"
        if all(search.results.get(f) == exact.results.get(f) for f in SAME)
        if _same_users(search, exact)
      }
      pairs += [(exact, by_width)] if by_width else []
  return pairs


def _same_users(one: Search, other: Search) -> bool:
  if one.users is None or other.users is None:
    return True
  return one.users["user"].equals(other.users["user"])


def _row(results: Any, name: object, own: bool, rule: str) -> dict[str, Any]:
  metrics, speed = results["metrics"][rule], results.get("users_per_second")
  return {
    "name": name,
    "own": own,
    "hr": metrics["hr@10"],
    "ndcg": metrics[DECIDING],
    "speed": None if speed is None else f"{speed:,.0f}",
  }


def _beam_row(run: Run, answer: Search, exact: Search, rule: str) -> dict[str, Any]:
  results = answer.results
  own = run.results.get("decoding"), run.results.get("beam_size")
  is_own = (results["decoding"], results["beam_size"]) == own
  if answer is exact:
    return _row(results, "exact", is_own, rule) | {"gap": None, "interval": None}
  interval = None
  if answer.users is not None and exact.users is not None:
    difference_N = _ndcg(answer.users, rule) - _ndcg(exact.users, rule)
    interval = uncertainty.interval(difference_N)
  gap = results["metrics"][rule][DECIDING] - exact.results["metrics"][rule][DECIDING]
  row = _row(results, results["beam_size"], is_own, rule)
  return row | {"gap": gap, "interval": interval}


def _ndcg(users: pyarrow.Table, rule: str) -> np.ndarray:
  """Returns the NDCG@10 of each user, [N]."""
  rank_N, ties_N = (users[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
  return users_lib.values(rank_N, ties_N)[DECIDING]


def _decoding(results: dict[str, Any]) -> str:
  width = results.get("beam_size")
  return f"beam of {width}" if width else str(results.get("decoding"))


def _same_evaluations(run: Run) -> dict[str, dict[str, Any]]:
  """Returns the run's own evaluation and comparable ones with L2D, by name."""
  if not run.results.get("slices"):
    return {}
  found = {_decoding(run.results): run.results}
  for file, again in run.asked_again.items():
    if again.get("decoding") in state_index.DECODINGS and again.get("slices"):
      if all(again.get(field) == run.results.get(field) for field in SAME):
        _, _, kind, *how = file.removesuffix(".json").split("-")
        for option in state_index.OPTIONS:
          how = [part.replace(option, f"{option} ", 1) for part in how]
        found[", ".join([kind, *how])] = again
  return found


def _targets(results: Any, rule: str = next(iter(RULES))) -> dict[str, Any]:
  """Returns the popularity slices that have users, by name."""
  cuts = results["slices"][rule]["target"]
  return {name: cut for name, cut in cuts.items() if cut["users"]}


def _l2d_row(run: Run, answer: tuple[str, dict[str, Any]], rule: str) -> dict[str, Any]:
  name, results = answer
  targets = [cut["mean"][DECIDING] for cut in _targets(results, rule).values()]
  return _row(results, name, results is run.results, rule) | {"targets": targets}
