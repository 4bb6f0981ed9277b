"""Prints a run's decodings side by side: python results/decodings/table.py RUN …

Reads the results-test-*.json that `lightlm_jax.evaluate` wrote into each RUN.
"""

import json
import pathlib
import sys

DECODINGS = ("unconstrained", "beam", "beam_renormalised", "exact")
RULES = ("seen_excluded", "seen_allowed")


def main(runs: list[pathlib.Path]) -> None:
  print(
    "| run | rule | decoding | NDCG@10 | HR@10 | Gini | head share | coverage "
    "| places without an item | users/s |"
  )
  print("| --- " * 10 + "|")
  for run in runs:
    for rule in RULES:
      for decoding in DECODINGS:
        path = run / f"results-test-{decoding}-4000users.json"
        if not path.exists():
          continue
        found = json.loads(path.read_text())
        metrics, spread = found["metrics"][rule], found["exposure"][rule]
        print(
          f"| {run.name} | {rule.replace('_', ' ')} | {decoding} "
          f"| {metrics['ndcg@10']:.4f} | {metrics['hr@10']:.4f} "
          f"| {spread['gini@10']:.3f} | {spread['head_share@10']:.3f} "
          f"| {spread['coverage@10']:.3f} | {100 * spread['invalid@10']:.1f} % "
          f"| {found['users_per_second']:.0f} |"
        )


if __name__ == "__main__":
  main([pathlib.Path(run) for run in sys.argv[1:]])
