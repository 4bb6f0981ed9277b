"""A tree of all that the commands leave, small, which the kinds of faults damage.

run/         a finished run of LightLM with calibrated ids, evaluated and audited
artefact/    that run, exported
lists/       recs.csv and its manifest: what `recommend` wrote
data/shop/   the prepared log
study/       the table of a study's trials, its definition and its analysis
cache/       the ids that were built
"""

import contextlib
import io
import logging
import os
import pathlib
import random
from typing import Any, NamedTuple

import jax
import studies

from lightlm_jax import config as config_lib
from lightlm_jax.preprocess import pipeline
from lightlm_jax.runs import audit, evaluate, export, recommend, train
from lightlm_jax.runtime import log as log_lib
from lightlm_jax.studies import analysis

USERS, ITEMS = 40, 30
# What no page and no terminal may take for its own.
MARKUP = "<script>alert('{} & \"all\"')</script>\x1b[31m"
_FIELDS = {
  "data.name": "shop",
  "input.every_position": True,
  "input.user": False,
  "model.whole_word": False,
  "model.residual": True,
  "model.repeats": True,
  "model.calibrated": True,
  "train.loss": "children",
  "train.label_smoothing": 0.0,
  "train.steps": 4,
  "train.eval_every": 1,
  "train.log_every": 1,
  "train.history_buckets": (),
  "train.eval_batch_size": 64,
  "train.eval_users": 40,
  "decoding.beam_size": 12,
  "baselines": ("pop",),
}


class Said(NamedTuple):
  """What was printed and logged."""

  warnings: list[str]
  printed: io.StringIO


def make(folder: pathlib.Path, seed: int) -> pathlib.Path:
  """Makes a tree; the logs are those of all seeds, ids and parameters its own."""
  with at_home(folder), hushed():
    write_log(folder / "data", seed=0)
    write_log(folder / "data2", seed=1)
    train.train(config(folder / "data", seed=seed), folder / "run")
    for name, data in (("rival", "data"), ("elsewhere", "data2")):
      fields = {"system": "pop", "data.name": "shop", "data.dir": str(folder / data)}
      train.train(config_lib.load("demo", "tiny", fields), folder / name)
    evaluate.evaluate(folder / "run")
    audit.audit_run(folder / "run")
    export.export(folder / "run", folder / "artefact", k=5, platforms=("cpu",))
    (folder / "lists").mkdir()
    recommend.recommend(folder / "run", output=folder / "lists" / "recs.csv", k=5)
    found = studies.rows(depths=(2, 4), widths=(32,), seeds=(seed, seed + 1))
    analysis.report(studies.write(folder / "study", found))
  return folder


def write_log(folder: pathlib.Path, seed: int = 0) -> None:
  """Prepares a log with texts of the items, as the data folder's shop."""
  rng = random.Random(seed)
  rows = ["user,item,time"]
  for user in range(USERS):
    bought = rng.sample(range(ITEMS), 4 + user % 6)
    rows += [f"u{user},i{item},{1_000 + n}" for n, item in enumerate(bought)]
  items = [f"i{n}\t{MARKUP.format(n)}" for n in range(ITEMS)]
  folder.mkdir(parents=True)
  for name, lines in (("log.csv", rows), ("items.tsv", ["item\ttitle", *items])):
    (folder / name).write_text("\n".join(lines) + "\n")
  options = pipeline.Options(
    str(folder / "log.csv"),
    str(folder / "shop"),
    items=str(folder / "items.tsv"),
    time_unit="s",
  )
  pipeline.prepare(options)


def config(data: pathlib.Path, **fields: Any) -> config_lib.RunConfig:
  """The config of the tree's run; `fields` with two underscores for a dot."""
  given = {name.replace("__", "."): value for name, value in fields.items()}
  return config_lib.load("demo", "tiny", _FIELDS | {"data.dir": str(data)} | given)


@contextlib.contextmanager
def at_home(folder: pathlib.Path):
  """Keeps the package's cache in a tree."""
  name = "LIGHTLM_CACHE_DIR"
  before = os.environ.get(name)
  os.environ[name] = str(folder / "cache")
  yield
  if before is None:
    del os.environ[name]
  else:
    os.environ[name] = before


@contextlib.contextmanager
def hushed():
  """Collects what is printed, and the package's warnings."""
  said = Said([], io.StringIO())
  handler = logging.Handler(logging.WARNING)
  handler.emit = lambda record: said.warnings.append(record.getMessage())
  logger = logging.getLogger(log_lib.NAME)
  log_lib.set_up()
  logger.addHandler(handler)
  console, before = log_lib.console(), log_lib.console().file
  console.file = said.printed
  try:
    with contextlib.redirect_stdout(said.printed):
      yield said
  finally:
    console.file = before
    logger.removeHandler(handler)


def leaves(tree: Any) -> dict[str, bytes]:
  """Arrays by their paths, to compare."""
  found = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path): bytes(jax.device_get(x).tobytes()) for path, x in found
  }
