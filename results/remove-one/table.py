"""Prints what run.py found as Markdown: python results/remove-one/table.py FOLDER."""

import collections
import json
import pathlib
import sys

import numpy as np


def main(folder: pathlib.Path) -> None:
  arms = collections.defaultdict(list)
  for path in sorted(folder.glob("*/arm.json")):
    data, kind, *rest = path.parent.name.split("-")
    d_ff = int(rest[0]) if rest else 16
    arms[data, kind, d_ff].append(json.loads(path.read_text()))
  print(
    "| log | ids, or what differs | d_ff | parameters outside the embeddings | seeds "
    "| HR@10, trie | NDCG@10, trie | HR@10, no trie | NDCG@10, no trie "
    "| NDCG@10, trie, seen allowed | places without an item, no trie |"
  )
  print("| --- " * 11 + "|")
  for (data, kind, d_ff), seeds in sorted(arms.items()):
    parameters = seeds[0]["beam"]["params"]["non_embedding"]
    cells = [f"{data} | {kind} | {d_ff} | {parameters:,} | {len(seeds)}"]
    for decoding in ("beam", "unconstrained"):
      for metric in ("hr@10", "ndcg@10"):
        values = [s[decoding]["metrics"]["seen_excluded"][metric] for s in seeds]
        cells.append(mean_and_each(values))
    allowed = [s["beam"]["metrics"]["seen_allowed"]["ndcg@10"] for s in seeds]
    cells.append(mean_and_each(allowed))
    invalid = [
      s["unconstrained"]["exposure"]["seen_allowed"]["invalid@10"] for s in seeds
    ]
    cells.append(f"{100 * np.mean(invalid):.1f} %")
    print(f"| {' | '.join(cells)} |")


def mean_and_each(values: list[float]) -> str:
  """`.0212 (.0208, .0216)`, without the zero before the point."""
  mean, *each = (f"{value:.4f}"[1:] for value in [np.mean(values), *values])
  return f"{mean} ({', '.join(each)})"


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
