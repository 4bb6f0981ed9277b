"""Prints what run.py found as Markdown: python results/ids-ablation/table.py FOLDER."""

import collections
import json
import pathlib
import sys

import numpy as np

METRICS = (
  ("seen_excluded", "hr@10"),
  ("seen_excluded", "ndcg@10"),
  ("seen_allowed", "hr@10"),
  ("seen_allowed", "ndcg@10"),
)


def main(folder: pathlib.Path) -> None:
  arms = collections.defaultdict(list)
  for path in sorted(folder.glob("*/arm.json")):
    arms[path.parent.name.rsplit("-", 1)[0]].append(json.loads(path.read_text()))
  names = [f"{metric.upper()}, {rule.replace('_', ' ')}" for rule, metric in METRICS]
  print(f"| ids | seeds | {' | '.join(names)} | never shown |")
  print("| --- " * (3 + len(METRICS)) + "|")
  for kind, seeds in arms.items():
    cells = [kind, str(len(seeds))]
    for rule, metric in METRICS:
      values = [found["metrics"][rule][metric] for found in seeds]
      mean, *each = (f"{value:.4f}"[1:] for value in [np.mean(values), *values])
      cells.append(f"{mean} ({', '.join(each)})")
    shown = [found["exposure"]["seen_excluded"]["coverage@10"] for found in seeds]
    cells.append(f"{100 * (1 - np.mean(shown)):.0f} %")
    print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
