"""Draws a run's learning curve: python results/curve.py results/toys-small.

Wants matplotlib; reads metrics.jsonl, writes curve.png beside it.
"""

import json
import pathlib
import sys

import matplotlib.pyplot as plt


def main(folder: pathlib.Path) -> None:
  records = [
    json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()
  ]
  figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
  losses = [(r["step"], r["loss"]) for r in records if "loss" in r]
  left.plot(*zip(*losses))
  left.set(xlabel="step", ylabel="cross-entropy a token", title="training loss")
  asked = [(r["step"], r["validation"]) for r in records if "validation" in r]
  for name in ("hr@10", "ndcg@10"):
    right.plot([s for s, _ in asked], [v[name] for _, v in asked], label=name.upper())
  best, _ = max(asked, key=lambda pair: pair[1]["ndcg@10"])
  right.axvline(best, color="grey", linewidth=0.8)
  right.set(xlabel="step", title="validation sample, seen excluded", ylim=(0, None))
  right.legend()
  figure.savefig(folder / "curve.png", dpi=120)


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
