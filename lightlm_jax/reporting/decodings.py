"""Compares decodings of a run: beam with exact search, and L2D with the run's own.

Each public function returns the data of one section for the template.
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

# Fields that are equal in comparable evaluations: same users, same parameters.
SAME = ("split", "num_users", "split_sha256", "best_step")


def beams(runs: Sequence[Run]) -> dict[str, Any] | None:
  """Returns tables of NDCG@10: of beam search with each beam size, and of exact search.

  A run has a table for each set of users evaluated by both searches; None = no table.
  """
  tables, lines = [], []
  for run in runs:
    for exact in run.searches:
      by_width = _by_width(run, exact)
      if exact.results["decoding"] != "exact" or not by_width:
        continue
      answers = [*(by_width[width] for width in sorted(by_width)), exact]
      rows = {rule: [_beam_row(run, a, exact, rule) for a in answers] for rule in RULES}
      table = {"run": run.name, "results": exact.results, "rows": rows}
      tables.append(table | {"narrow": min(by_width) < 10})
      lines += [
        note(
          f"{run.name} has no table of users of {_decoding(answer.results)}, without "
          "which a difference has no interval; this writes it",
          evaluate(run, answer.results),
        )
        for answer in answers
        if answer.users is None
      ]
  return {"tables": tables, "missing": lines} if tables else None


def state_indexes(runs: Sequence[Run]) -> dict[str, Any] | None:
  """Returns tables that compare L2D with a run's own decoding, by target popularity.

  L2D (arXiv 2509.11524) claims gains on items that are rare in training. There is a
  table for each run that was evaluated with L2D; None = there is no such run.
  """
  tables = []
  for run in runs:
    answers = _same_evaluations(run)
    if len(answers) > 1:
      cuts = run.results["slices"]["seen_excluded"].get("target") or {}
      columns = {n: cut["users"] for n, cut in cuts.items() if cut.get("users")}
      rows = [
        {"name": name, "results": found, "own": found is run.results}
        for name, found in answers.items()
      ]
      table = {"run": run.name, "results": run.results, "rows": rows}
      tables.append(table | {"columns": columns})
  return {"tables": tables} if tables else None


def _by_width(run: Run, exact: Search) -> dict[int, Search]:
  """Returns {beam size: beam search with the same users and parameters as `exact`}."""
  return {
    search.results["beam_size"]: search
    for search in run.searches
    if search.results["decoding"] == "beam"
    if all(search.results.get(f) == exact.results.get(f) for f in SAME)
    if search.users is None
    or exact.users is None
    or search.users["user"].equals(exact.users["user"])
  }


def _beam_row(run: Run, answer: Search, exact: Search, rule: str) -> dict[str, Any]:
  results = answer.results
  fields = ("decoding", "beam_size")
  own = all(results.get(field) == run.results.get(field) for field in fields)
  row = {"name": "exact", "own": own, "results": results, "gap": None, "interval": None}
  if answer is not exact:
    row["name"] = results["beam_size"]
    best = exact.results["metrics"][rule][DECIDING]
    row["gap"] = results["metrics"][rule][DECIDING] - best
    if answer.users is not None and exact.users is not None:
      difference_N = _ndcg(answer.users, rule) - _ndcg(exact.users, rule)
      row["interval"] = uncertainty.interval(difference_N)
  return row


def _ndcg(users: pyarrow.Table, rule: str) -> np.ndarray:
  """Returns the NDCG@10 of each of a table's N users under a rule, [N] float64."""
  rank_N, ties_N = (users[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
  return users_lib.values(rank_N, ties_N)[DECIDING]


def _decoding(results: dict[str, Any]) -> str:
  width = results.get("beam_size")
  return f"beam of {width}" if width else str(results.get("decoding"))


def _same_evaluations(run: Run) -> dict[str, dict[str, Any]]:
  """Returns {decoding: results}: the run's, and L2D's on the same users and weights."""
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
