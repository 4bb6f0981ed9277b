"""Damages one file of what the commands leave: it is refused, or changes no answer."""

from collections.abc import Callable, Iterator
import contextlib
import html
import pathlib
import random
import re
import shutil
import sys
from typing import Any, NamedTuple

import report_pages
import served

from lightlm_jax.inference import queries
from lightlm_jax.runs import audit, evaluate, export, index, recommend, restore, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.studies import analysis

from . import finished
from .suite import Kind

USERS = ["u1", "u7", "u9"]
HISTORIES = [["i1", "i7"], ["i3", "i2", "nobody"]]
# What a clock measures anew.
_MEASURED = ("users_per_second", "seconds", "checksum")
# What a report says it lacks: a file, or an audit of these ids.
_LACKS = re.compile(r"[^>]* has no [^<]*|[^>]*this audits [^<]*")
# Parts of a run that come from another one whole: each is what was written.
PARTS = ("codes", "checkpoints", "log", "results.json", "users-test-beam.parquet")


class Answer(NamedTuple):
  """What a question was answered, and how."""

  found: Any
  said: frozenset[str]  # warnings, and what a report lacks
  opened: frozenset[str]


class Prepared(NamedTuple):
  """What all trials start from."""

  one: pathlib.Path  # the tree whose copies are damaged, see finished.py
  other: pathlib.Path  # of another seed: its files take the place of the first's
  right: dict[str, Answer]  # to each question, without damage


def prepare(folder: pathlib.Path) -> Prepared:
  one, other = (finished.make(folder / name, n) for n, name in enumerate(("a", "b")))
  prepared = Prepared(one, other, {})
  # Where trials have their copy, because answers may name it.
  tree = folder.parent / "trial" / "tree"
  for name in QUESTIONS:
    shutil.copytree(one, tree)
    prepared.right[name] = ask(name, tree, prepared)
    shutil.rmtree(tree.parent)
  if "report" in QUESTIONS:
    assert html.escape(finished.MARKUP)[:20] in prepared.right["report"].found
  return prepared


def trial(prepared: Prepared, rng: random.Random, folder: pathlib.Path) -> str:
  """Damages a file of a copy of the tree, and asks a question that may need it."""
  tree = shutil.copytree(prepared.one, folder / "tree")
  name = rng.choices([*QUESTIONS], [q.weight for q in QUESTIONS.values()])[0]
  path, how = damage(tree, QUESTIONS[name].of, prepared.other, rng)
  where = f"{name}, {path.relative_to(tree)} {how}"
  right = prepared.right[name]
  try:
    answer = ask(name, tree, prepared)
  except UserError:  # whose message is one line whatever it is made of
    return "refused"
  except Exception as error:
    raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
  said = answer.said - right.said
  if answer.found == right.found:
    if said:
      return "said; the same answers"
    read = any(opened.startswith(str(path)) for opened in answer.opened)
    return f"the same answers: {'read, without effect' if read else 'not read'}"
  assert said, f"{where}: other answers without a word"
  return "said; other answers"


def ask(name: str, tree: pathlib.Path, prepared: Prepared) -> Answer:
  with finished.at_home(tree), finished.hushed() as said, _opening() as opened:
    found = QUESTIONS[name].ask(tree, prepared)
  printed = said.printed.getvalue()
  assert "\x1b[31m" not in printed, "a title reached the terminal as it is"
  lacks = _LACKS.findall(found) if name == "report" else []
  return Answer(found, frozenset(said.warnings + lacks), frozenset(opened))


def damage(
  tree: pathlib.Path, of: str, other: pathlib.Path, rng: random.Random
) -> tuple[pathlib.Path, str]:
  """Damages a file below the tree's folder `of`; returns it, and how it was done."""
  files = sorted(p for p in (tree / of).rglob("*") if p.is_file())
  how = rng.choice([*DAMAGES, "swapped", "of another kind", "of another run"])
  # As often one of many chunks as one of the few files that all else depends on.
  entries = sorted({file.relative_to(tree / of).parts[0] for file in files})
  entry = tree / of / rng.choice(entries)
  path = rng.choice([file for file in files if entry in (file, *file.parents)])
  if how == "of another run" and of == "run":
    path = tree / of / rng.choice(PARTS)
    # The log of the other tree is the same.
    twin = (
      tree / "elsewhere" / "log" if path.name == "log" else other / "run" / path.name
    )
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    (shutil.copytree if twin.is_dir() else shutil.copyfile)(twin, path)
  elif how == "of another kind":
    path.write_bytes(rng.choice(files).read_bytes())
  elif how in DAMAGES:
    DAMAGES[how](path, rng)
  else:
    twin = other / path.relative_to(tree)
    # Steps and names of chunks differ between runs.
    twins = (
      [twin] if twin.exists() else [p for p in twin.parent.glob("*") if p.is_file()]
    )
    path.write_bytes(rng.choice(twins or files).read_bytes())
  return path, how


def _flip(path: pathlib.Path, rng: random.Random) -> None:
  content = bytearray(path.read_bytes() or b"x")
  content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
  path.write_bytes(content)


def _cut(path: pathlib.Path, rng: random.Random) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: rng.randrange(len(content) or 1)])


DAMAGES: dict[str, Callable[[pathlib.Path, random.Random], Any]] = {
  "with a flipped bit": _flip,
  "cut": _cut,
  "deleted": lambda path, rng: path.unlink(),
  "emptied": lambda path, rng: path.write_bytes(b""),
  "of other bytes": lambda path, rng: path.write_bytes(rng.randbytes(300)),
}


def _without(found: dict[str, Any]) -> dict[str, Any]:
  return {name: value for name, value in found.items() if name not in _MEASURED}


def _load(tree: pathlib.Path, _) -> Any:
  run = restore.load(tree / "run")
  log = run.dataset.log
  ids = run.book and run.book.sha256
  return finished.leaves(run.params), ids, log.item_ids.tolist(), run.dataset.titles


def _report(tree: pathlib.Path, _) -> str:
  """The page, in which titles are no markup."""
  analysis.report(tree / "run", out=tree / "page.html")
  report_pages.written(tree / "page.html")  # no markup but its own
  return (tree / "page.html").read_text()


def _export(tree: pathlib.Path, _) -> Any:
  again = tree / "again"
  found = export.export(tree / "run", again, k=5, platforms=("cpu",))
  return found["sha256"]


def _artefact(tree: pathlib.Path, prepared: Prepared) -> Any:
  """By the loader of its README, whose errors are ValueErrors and OSErrors."""
  scope: dict[str, Any] = {}
  exec(served.loader(prepared.one / "artefact"), scope)
  try:
    return scope["open_artefact"](tree / "artefact")(HISTORIES)
  except (ValueError, OSError) as error:
    raise UserError(str(error).partition("\n")[0])


def _lists(tree: pathlib.Path, _) -> str:
  """The command again finds its output finished, or makes it."""
  path = tree / "lists" / "recs.csv"
  recommend.recommend(tree / "run", output=path, k=5)
  return path.read_text()


def _study(tree: pathlib.Path, _) -> Any:
  analysis.report(tree / "study")
  return (tree / "study" / analysis.ANALYSIS).read_text()


class Question(NamedTuple):
  """Something that is asked of a tree, and the folder that it needs."""

  of: str
  ask: Callable[[pathlib.Path, Prepared], Any]
  weight: int = 10


QUESTIONS = {
  "evaluate": Question("run", lambda t, _: _without(evaluate.evaluate(t / "run"))),
  "recommend": Question(
    "run", lambda t, _: recommend.recommend(t / "run", users=USERS).to_pylist()
  ),
  "load": Question("run", _load),
  "report": Question("run", _report),
  "audit": Question("run", lambda t, _: audit.audit_run(t / "run")),
  "export": Question("run", _export, 1),
  "train": Question(
    "run",
    lambda t, p: _without(train.train(finished.config(p.one / "data"), t / "run")),
  ),
  "compare": Question("run", lambda t, _: evaluate.compare([t / "run", t / "rival"])),
  "artefact": Question("artefact", _artefact),
  "lists": Question("lists", _lists),
  "histories": Question(
    "data/shop", lambda t, _: list(queries.read_histories(t / "data" / "shop"))
  ),
  "index": Question(
    "data/shop", lambda t, _: _without(index.index(finished.config(t / "data"))[0])
  ),
  "cached index": Question(
    "cache", lambda t, _: _without(index.index(finished.config(t / "data"))[0]), 5
  ),
  "study": Question("study", _study, 1),
}


@contextlib.contextmanager
def _opening() -> Iterator[set[str]]:
  """Collects the paths that are opened, by Python's own functions, in the block."""
  found: set[str] = set()
  _watching.append(found)
  yield found
  _watching.remove(found)


_watching: list[set[str]] = []


def _watch(event: str, arguments: tuple) -> None:
  if event == "open" and _watching:
    _watching[-1].add(str(arguments[0]))


sys.addaudithook(_watch)

KINDS = (Kind("damage", "a damaged file is refused or said", 500, prepare, trial),)
