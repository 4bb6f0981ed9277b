"""A run decoded by its memory beside its search, by how often the target was bought.

That items which are rare in training gain by it is the claim of L2D (arXiv 2509.11524).
As in sections.py, the function makes the plain data of its section.
"""

from collections.abc import Sequence
from typing import Any

from lightlm_jax.evaluation.compare import DECIDING
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.reporting.beams import SAME
from lightlm_jax.reporting.run_files import Run
from lightlm_jax.reporting.sections import RULES


def memories(runs: Sequence[Run]) -> dict[str, Any] | None:
  """A table a rule for every run that was decoded by its memory, too."""
  found = []
  for run in runs:
    answers = _answers(run)
    if len(answers) > 1:
      asked = f"{run.results['split']}, {run.results['num_users']:,} users"
      found.append(
        {
          "title": f"{run.name}: {asked}" if len(runs) > 1 else asked,
          "columns": [
            (name, f"{cut['users']:,}") for name, cut in _targets(run.results).items()
          ],
          "rules": [
            {"name": name, "rows": [_row(run, a, rule) for a in answers.items()]}
            for rule, name in RULES.items()
          ],
        }
      )
  return {"tables": found} if found else None


def _answers(run: Run) -> dict[str, dict[str, Any]]:
  """The run's own answer, and those of memories to the same question, by name."""
  if not run.results or not run.results.get("slices"):
    return {}
  answers = {_own_name(run.results): run.results}
  for file, again in run.asked_again.items():
    if again.get("decoding") in latent_decoding.DECODINGS and again.get("slices"):
      if all(again.get(field) == run.results.get(field) for field in SAME):
        answers[_name(file)] = again
  return answers


def _name(file: str) -> str:
  """How a memory was asked, by the name of its file."""
  _, _, kind, *how = file.removesuffix(".json").split("-")
  for option in latent_decoding.OPTIONS:
    how = [part.replace(option, f"{option} ", 1) for part in how]
  return ", ".join([kind, *how])


def _own_name(results: dict[str, Any]) -> str:
  width = results.get("beam_size")
  return f"beam of {width}" if width else str(results.get("decoding"))


def _targets(results: dict[str, Any], rule: str = next(iter(RULES))) -> dict[str, Any]:
  """The slices that somebody is in, by name."""
  cuts = results["slices"][rule]["target"]
  return {name: cut for name, cut in cuts.items() if cut["users"]}


def _row(run: Run, answer: tuple[str, dict[str, Any]], rule: str) -> dict[str, Any]:
  name, results = answer
  metrics = results["metrics"][rule]
  speed = results.get("users_per_second")
  return {
    "name": name,
    "own": results is run.results,
    "hr": metrics["hr@10"],
    "ndcg": metrics[DECIDING],
    "targets": [cut["mean"][DECIDING] for cut in _targets(results, rule).values()],
    "speed": None if speed is None else f"{speed:,.0f}",
  }
