"""What kind of interactions does LightLM need? The order, the low ratings, the ids.

  python results/interactions/run.py --data=DATA --workdir=runs/interactions

{the history in order, as a set, the user alone} × {ids from interactions, from what the
items are} on Toys, and on MovieLens-100k × {all interactions, those rated 4 or more}.
There both logs ask the same users for the same items: a user's last two of 4 or more.
A run that is finished is read, one that was stopped goes on.
"""

import argparse
import itertools
import json
import pathlib

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, sequential
from lightlm_jax.runs import train
from lightlm_jax.runtime import devices

LIKED = 4
HISTORIES = {
  "in order": {},
  "as a set": {"input.order": "none"},
  "user alone": {"input.history": 0, "input.user": True, "input.user_dropout": 0.0},
}
IDS = {"interactions": "bipartite", "attributes": "attributes"}
# One of the cheapest shapes of results/scaling, by its rates.
SHAPE = {
  "model.num_layers": 2,
  "model.num_decoder_layers": 2,
  "model.d_model": 64,
  "model.d_kv": 16,
  "model.d_ff": 8,
  "train.learning_rate": 2e-3,
  "train.embedding_rate": 32.0,
}
LOGS = ("toys", "ml-100k-all", "ml-100k-liked")
RULES = ("seen_excluded", "seen_allowed")
GENRES = 5  # the first column of u.item that is one


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=pathlib.Path, required=True)
  parser.add_argument("--data", type=pathlib.Path, required=True)
  parser.add_argument("--logs", nargs="*", default=LOGS)
  parser.add_argument("--steps", type=int, default=3_000)
  parser.add_argument("--seeds", nargs="*", type=int, default=[0])
  flags = parser.parse_args()
  devices.enable_compilation_cache()
  made = flags.workdir / "data"
  if any(log.startswith("ml-100k") for log in flags.logs):
    write_films(flags.data / "ml-100k", made)
  print("| log | ids | history | " + " | ".join(heads()) + " | loss |")
  print("| --- " * (4 + len(heads())) + "|", flush=True)
  for log, ids, history, seed in itertools.product(
    flags.logs, IDS, HISTORIES, flags.seeds
  ):
    root = made if log.startswith("ml-100k") else flags.data
    overrides = (
      SHAPE
      | {
        "data.name": log,
        "data.dir": str(root),
        "baselines": (),
        "seed": seed,
        "ids.graph": IDS[ids],
        "train.steps": flags.steps,
        "train.eval_every": flags.steps // 4,
      }
      | HISTORIES[history]
    )
    config = config_lib.load("toys", "small", overrides)
    name = f"{log},{ids},{history},{seed}".replace(" ", "-")
    found = train.train(config, flags.workdir / name)
    print(f"| {log} | {ids} | {history} | {cells(found)} |", flush=True)
  for log in flags.logs:
    root = made if log.startswith("ml-100k") else flags.data
    config = config_lib.load("toys", None, {"data.name": log, "data.dir": str(root)})
    whole = datasets.load(config).log
    print(f"{log}: {datasets.describe(whole)}; {sequential.shuffle_test(whole)}")


def heads() -> list[str]:
  return [
    f"{metric} {rule.removeprefix('seen_')}"
    for rule in RULES
    for metric in ("HR@10", "NDCG@10", "95 %")
  ]


def cells(found: dict) -> str:
  shown = []
  for rule in RULES:
    low, high = found["intervals"][rule]["ndcg@10"]
    metrics = found["metrics"][rule]
    shown += [f"{metrics['hr@10']:.4f}", f"{metrics['ndcg@10']:.4f}"]
    shown.append(f"{low:.4f} – {high:.4f}")
  return " | ".join([*shown, f"{found['validation_loss']:.3f}"])


def write_films(source: pathlib.Path, made: pathlib.Path) -> None:
  """Two logs of MovieLens-100k's folder that hold out the same, with its genres."""
  rated = {}
  for line in (source / "u.data").read_text().splitlines():
    user, item, rating, seconds = line.split("\t")
    if not seconds.isdecimal():  # some copies have a head
      continue
    rated.setdefault(user, []).append((int(seconds), item, float(rating)))
  rows = {name: [] for name in ("all", "liked")}
  for user, row in rated.items():
    row.sort(key=lambda one: one[0])
    liked = [place for place, (_, _, rating) in enumerate(row) if rating >= LIKED]
    if len(liked) < 5:
      continue
    before = row[: liked[-2]]
    ends = [row[place][1] for place in liked[-2:]]
    rows["all"].append([user, *(item for _, item, _ in before), *ends])
    kept = [item for _, item, rating in before if rating >= LIKED]
    rows["liked"].append([user, *kept, *ends])
  films = (source / "u.item").read_text(encoding="latin-1").splitlines()
  genres = {}
  for film in films:
    item, *fields = film.split("|")
    flags = fields[GENRES - 1 :]
    if item.isdecimal():
      genres[item] = [number for number, flag in enumerate(flags) if flag == "1"]
  for name, lines in rows.items():
    folder = made / f"ml-100k-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(" ".join(row) + "\n" for row in lines)
    (folder / "sequences.txt").write_text(text)
    (folder / "item_attributes.json").write_text(json.dumps(genres))


if __name__ == "__main__":
  main()
