"""Runs as `train` and `evaluate` leave them, and their report taken apart."""

import html.parser
import json
import re

import commands
from etils import epath
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.evaluation import evaluator, exposure, slices, uncertainty, users
from lightlm_jax.evaluation.evaluator import RULES, Ranks
from lightlm_jax.ids import codes
from lightlm_jax.runs import results

SCRIPT = "<script>document.title='owned'</script>"
U, I = 60, 25


class Page(html.parser.HTMLParser):
  """A page taken apart: its tags have to be closed in order."""

  EMPTY = frozenset(("meta", "br"))

  def __init__(self, text):
    super().__init__()
    self.ids, self.targets, self.tags, self.words = [], [], [], {None: []}
    self._open, self._section = [], None
    self.feed(text)
    self.close()
    assert not self._open, f"never closed: {self._open}"

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    for name, value in attrs:
      if name == "id":
        self.ids.append(value)
      if name in ("src", "href", "srcset", "data", "action"):
        self.targets.append(value)
    if tag == "section":
      self._section = dict(attrs)["id"]
      self.words[self._section] = []
    if tag not in self.EMPTY:
      self._open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self._open, f"</{tag}> closes nothing"
    assert self._open.pop() == tag
    if tag == "section":
      self._section = None

  def handle_data(self, data):
    if self._open and self._open[-1] not in ("style", "title"):
      self.words[self._section].append(data)

  def said(self, section):
    """The text of a section, a blank for every tag and line."""
    return " ".join(" ".join(self.words[section]).split())


def written(path):
  """The page of a file, after what every report has to be."""
  text = path.read_text()
  page = Page(text)
  assert len(text.encode()) < 3e6
  assert len(page.ids) == len(set(page.ids))
  assert page.targets
  for target in page.targets:
    assert target.startswith("#"), f"{target} lies outside the file"
    assert target[1:] in page.ids
  assert "script" not in {tag for tag, _ in page.tags}
  assert not re.search(r"url\(|@import|@font-face", text)
  for tag, attrs in page.tags:
    assert not [name for name in attrs if name.startswith("on")], tag
    if tag == "svg" and attrs.get("aria-hidden") != "true":
      assert attrs["role"] == "img"
      assert attrs["aria-label"]
  return page


def make_data(folder, title="{} of the shop"):
  """A log of U users and I items with texts, in a data folder."""
  rng = np.random.default_rng(0)
  (folder / "shop").mkdir(parents=True)
  rows = [
    f"u{user:02} " + " ".join(f"i{i:02}" for i in rng.permutation(I)[: 3 + user % 9])
    for user in range(U)
  ]
  (folder / "shop/sequences.txt").write_text("\n".join(rows) + "\n")
  titles = [f"i{i:02}\t{title.format(f'thing {i}')}" for i in range(I)]
  (folder / "shop/items.tsv").write_text("\n".join(["id\ttext", *titles]) + "\n")


def make_run(folder, data_dir, *, seed=0, system="lightlm"):
  """What a finished run leaves, its ranks drawn: nothing is trained."""
  fields = {"data.name": "shop", "data.dir": str(data_dir), "system": system}
  config = config_lib.load("toys", "tiny", fields)
  folder.mkdir()
  (folder / "config.json").write_text(config_lib.to_json(config))
  if system == "lightlm":
    book = codes.code_book(
      codes.stack_codes([(i % 5, 5 + i) for i in range(I)]),
      codes.stack_codes([(u % 5, 5 + u) for u in range(U)]),
      {"kind": "sci", "options": {}},
    )
    codes.save(book, folder / "codes")
    lines = [
      {"step": step, "loss": 9 - step / 10, "validation": {"ndcg@10": step / 100}}
      for step in (10, 20, 30)
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 40, "lo'
    (folder / "metrics.jsonl").write_text(text)
  found, table = answer(folder, seed)
  found["baselines"] = {"pop": found["metrics"]}
  (folder / "results.json").write_text(json.dumps(found))
  name = results.file_name("users", found) + ".parquet"
  users.write(epath.Path(folder / name), table)
  return found


def ask_again(folder, seed, *, width=None, asked=None, **fields):
  """What `evaluate` leaves of a run; `fields` as in `answer`."""
  found, table = answer(folder, seed, asked=asked, **fields)
  for kind, ending in (("results", "json"), ("users", "parquet")):
    name = results.file_name(kind, found, asked or 0, str(width or ""))
    path = epath.Path(folder / f"{name}.{ending}")
    if kind == "users":
      users.write(path, table)
    else:
      path.write_text(json.dumps(found))
  return found


def answer(
  folder, seed, *, split_name="test", decoding="beam", beam_size=20, asked=None
):
  """The results of a run and its table of users, of ranks that `seed` draws."""
  config = config_lib.from_tree(json.loads((folder / "config.json").read_text()))
  split = splits.make(config.split, datasets.load(config).log)
  requests = getattr(split, split_name)
  if asked:
    requests = requests.take(np.arange(asked))
  rng = np.random.default_rng(seed)
  ranks = {}
  for rule in RULES:
    items_NK = np.stack([rng.permutation(I)[:20] for _ in range(len(requests))])
    found_NK = items_NK == requests.target_N[:, None]
    rank_N = np.where(found_NK.any(axis=1), 1 + found_NK.argmax(axis=1), 0)
    ranks[rule] = Ranks(rank_N.astype(np.int32), np.zeros_like(rank_N), items_NK)
  values = {rule: users.values(r.rank_N, r.ties_N) for rule, r in ranks.items()}
  bought_I = np.bincount(split.train.item_E, minlength=I)
  book = codes.load(folder / "codes")
  writes_ids = book is not None
  found = {
    "system": config.system,
    "dataset": "shop",
    "preset": "tiny",
    "ids": {"kind": "sci", "manifest_sha256": book.sha256} if writes_ids else None,
    "seed": seed,
    "steps": 30 if writes_ids else None,
    "params": {"total": 1234, "non_embedding": 567} if writes_ids else None,
    "train_seconds": 61.4 if writes_ids else None,
    "examples_per_second": 4321.0 if writes_ids else None,
    "users_per_second": 8765.0,
    "num_users": len(requests),
    "decoding": decoding if writes_ids else None,
    "beam_size": beam_size if writes_ids and decoding != "exact" else None,
    "protocol": "leave_one_out",
    "split": split_name,
    "split_sha256": split.sha256,
    "best_step": 20 if writes_ids else None,
    "parameters_sha256": None,
    "metrics": evaluator.summarise_rules(ranks),
    "intervals": {
      rule: {name: list(uncertainty.interval(v_N)) for name, v_N in metrics.items()}
      for rule, metrics in values.items()
    },
    "slices": {
      rule: slices.summarise(metrics, slices.label(requests, split.train))
      for rule, metrics in values.items()
    },
    "hallucination_rate": 0.123 if writes_ids else None,
    "repeated_targets": 0,
    "exposure": {
      rule: exposure.summarise(r.items_NK, bought_I) for rule, r in ranks.items()
    },
    "audit": None,
    "baselines": {},
    "versions": {"python": "3.11.7", "jax": "0.10.2"},
    "devices": ["TPU v4"] * 8,
  }
  return found, users.table(requests, ranks, split.train, results.about(found))


def change(path, **fields):
  """Sets fields of a JSON file; None removes one."""
  changed = json.loads(path.read_text()) | {"checksum": None} | fields
  kept = {name: value for name, value in changed.items() if value is not None}
  path.write_text(json.dumps(kept))


def change_about(path, **fields):
  """Sets fields of what a table of users says of itself."""
  table, about = users.read(epath.Path(path))
  about = {b"lightlm_jax": json.dumps(about | fields)}
  users.write(epath.Path(path), table.replace_schema_metadata(about))


def command(*arguments, **options):
  return commands.run("lightlm_jax.report", *arguments, **options)
