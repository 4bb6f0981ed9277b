"""Asks for recommendations in every form: answered rightly, or refused in one line."""

import math
import pathlib
import random
from typing import Any, NamedTuple
import warnings

import numpy as np
import polars
import pyarrow
import served

from lightlm_jax.runs import export
from lightlm_jax.runs.recommender import Recommender
from lightlm_jax.runtime.errors import UserError

from . import finished
from .suite import Kind

# Ids as they come: of other scripts, with blanks, quotes and marks, and like numbers.
ITEMS = [
  *("日本", "a b", "=1+1", "07", "7", "Ö", "\u202e!", "'", '"', ",", "a\x07", "🎁"),
  *(f"i{n}" for n in range(28)),
]
USERS = ["ü", "1", "-5", *(f"u{n}" for n in range(27))]
K = 5  # of the artefact
_SYSTEMS = {"ease": {}, "lightlm": {"model.num_layers": 1, "decoding.beam_size": 12}}


class Prepared(NamedTuple):
  """Fitted recommenders, an artefact's loader, and the log as plain lists."""

  models: dict[str, Recommender]
  artefact: Any
  history: dict[str, list[str]]


def prepare(folder: pathlib.Path) -> Prepared:
  rng = random.Random(0)
  history = {user: rng.choices(ITEMS, k=3 + n % 10) for n, user in enumerate(USERS)}
  history[USERS[-1]] = ITEMS  # had everything
  pairs = [(user, item) for user, items in history.items() for item in items]
  log = dict(zip(("user", "item"), map(list, zip(*pairs))))
  models = {}
  with finished.hushed():
    for system, own in _SYSTEMS.items():
      fields = {"system": system, "split.kind": "none", "baselines": ()} | own
      if own:
        fields |= {"train.steps": 2, "train.eval_every": 2}
      models[system] = Recommender.from_config("demo:tiny", **fields).fit(log)
    models["ease"].save(folder / "run")
    export.export(folder / "run", folder / "artefact", k=K, platforms=("cpu",))
  scope: dict[str, Any] = {}
  exec(served.loader(folder / "artefact"), scope)
  return Prepared(models, scope["open_artefact"](folder / "artefact"), history)


def trial(prepared: Prepared, rng: random.Random, folder: pathlib.Path) -> str:
  """Makes one request, and checks the answer by what was asked alone."""
  del folder
  to = rng.choice(["ease", "ease", "lightlm", "artefact"])
  asked = request(rng)
  if rng.random() < 0.2:
    name = rng.choice([*asked])
    asked[name] = rng.choice(NONSENSE)
  if to == "artefact":
    return _ask_artefact(prepared, asked, rng)
  given = {name: _in_a_form(value, rng) for name, value in asked.items()}
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("ignore")
      found = prepared.models[to].recommend(**given)
  except UserError as error:
    if _is_right(prepared, asked) or not str(error).isprintable():
      raise AssertionError(f"refused: {error}, asked {asked!r:.300}") from error
    return f"{to}: refused"
  lists: dict[str, list[tuple[str, float]]] = {}
  for user, rank, item, score in found.iter_rows():
    rows = lists.setdefault(user, [])
    rows.append((item, score))
    assert rank == len(rows), "ranks do not count from 1"
  check(prepared, asked, lists, full=to == "ease")
  return f"{to}: answered"


def request(rng: random.Random) -> dict[str, Any]:
  """A request of lists and plain values, most of them right."""
  asked: dict[str, Any] = {"k": rng.choice([1, 5, 5, 5, 10, 100])}
  if rng.random() < 0.5:
    asked["users"] = _some(USERS, rng, 8)
  else:
    rows = [_some(ITEMS, rng, 12) for _ in range(rng.choice([1, 1, 2, 5]))]
    if rng.random() < 0.01:
      rows[0] = rng.choices(ITEMS, k=3_000)
    names = rng.sample([*USERS, "new", "🙂", "a\nb"], len(rows))
    asked["histories"] = dict(zip(names, rows)) if rng.random() < 0.5 else rows
  for name in ("allow", "deny"):
    if rng.random() < 0.3:
      asked[name] = _some(ITEMS, rng, 30)
  if rng.random() < 0.3:
    asked["exclude_seen"] = rng.random() < 0.5
  return asked


NONSENSE = (
  None, 0, -1, 2.5, True, math.nan, "u1", b"u1", [], {}, [None], [[]], [1.5], [True],
  ["\ud800"], [b"i1"], [{"a": 1}], object(), [object()], {"u1": None}, {"u1": 3},
  {1.5: ["i1"]}, {("a",): ["i1"]}, [["i1"], "i1"], np.zeros(3), np.array(5), 10**30,
  polars.DataFrame({"a": [1]}), pyarrow.table({"a": [1, 2]}), float("inf"), range(3),
  np.array([["i1", "i2"]]), np.array(["NaT"], "datetime64[s]"), [10**400],
)  # fmt: skip


def _some(ids: list[str], rng: random.Random, most: int) -> list[Any]:
  """Some ids: now and then twice, unknown, or as a number."""
  found: list[Any] = rng.choices(ids, k=rng.randint(rng.random() < 0.9, most))
  found += [i for i in ("nobody", "", " i1", "I1", 7, -5, 2**70) if rng.random() < 0.04]
  rng.shuffle(found)
  return found


def _in_a_form(value: Any, rng: random.Random) -> Any:
  """The same list as another kind of object that people have."""
  if isinstance(value, dict):
    return {name: _in_a_form(ids, rng) for name, ids in value.items()}
  if type(value) is not list or rng.random() < 0.5:
    return value
  if not all(isinstance(one, str) for one in value) or any(
    "\ud800" in v for v in value
  ):
    if all(isinstance(one, list) for one in value):
      return [_in_a_form(one, rng) for one in value]
    return rng.choice([tuple, iter, Column])(value)
  return rng.choice(
    [tuple, iter, np.array, polars.Series, pyarrow.array, dict.fromkeys, Column]
  )(value)


class Column:
  """What pandas has: a column that is iterable, and no list."""

  def __init__(self, values: list[Any]):
    self.values = values

  def __iter__(self):
    return iter(self.values)

  def __len__(self):
    return len(self.values)

  def __bool__(self):
    raise ValueError("the truth value of a column is ambiguous")

  def __eq__(self, other):
    return Column([value == other for value in self.values])

  __hash__ = None


def _texts(ids: Any) -> list[str] | None:
  """Ids as texts; None if the list or one of them is none."""
  ids = ids.tolist() if isinstance(ids, np.ndarray) else ids
  if not isinstance(ids, list | tuple | range | dict):
    return None
  if any(type(i) not in (str, int) or "\ud800" in str(i) for i in ids):
    return None
  return [str(i) for i in ids]


def _wanted(prepared: Prepared, asked: dict[str, Any]) -> dict[str, list[str]]:
  """Who has to be answered, in order, with the known items of their histories."""
  known = set(ITEMS)
  users, histories = asked.get("users"), asked.get("histories")
  if users is not None:
    return {
      u: prepared.history[u] for u in _texts(users) or () if u in prepared.history
    }
  if histories is None:
    return {user: prepared.history[user] for user in sorted(USERS)}
  if not isinstance(histories, dict):
    histories = dict(enumerate(histories))
  rows = {}
  for name, items in histories.items():
    own = prepared.history.get(str(name), []) if items is None else _texts(items)
    rows[str(name)] = [item for item in own or () if item in known]
  return {name: items for name, items in rows.items() if items}


def _open(asked: dict[str, Any]) -> set[str]:
  allow, deny = asked.get("allow"), asked.get("deny")
  found = set(ITEMS) if allow is None else set(ITEMS) & set(_texts(allow) or ())
  return found - set(_texts(deny) or ())


def _is_right(prepared: Prepared, asked: dict[str, Any]) -> bool:
  """Whether a request has to be answered."""
  k, seen = asked.get("k"), asked.get("exclude_seen", True)
  lists = [asked[n] for n in ("users", "allow", "deny") if asked.get(n) is not None]
  histories = asked.get("histories")
  if isinstance(histories, dict):
    lists += [[*histories], *(h for h in histories.values() if h is not None)]
  elif histories is not None:
    rows = histories.tolist() if isinstance(histories, np.ndarray) else histories
    lists += rows if isinstance(rows, list) else [None]
  return (
    type(k) is int
    and k > 0
    and type(seen) is bool
    and all(_texts(ids) is not None for ids in lists)
    and bool(_wanted(prepared, asked))
    and bool(_open(asked))
  )


def check(
  prepared: Prepared, asked: dict[str, Any], lists: dict[str, Any], *, full: bool
) -> None:
  """Asserts what has to hold of lists, {user: [(item, score)]}.

  `full`: whether each list has as many items as there are.
  """
  assert _is_right(prepared, asked), f"answered: {asked!r:.300}"
  wanted, opened = _wanted(prepared, asked), _open(asked)
  order = [name for name in wanted if name in lists]
  assert [*lists] == order, "others were answered, or in another order"
  for name, history in wanted.items():
    rows = lists.get(name, [])
    items, scores = [item for item, _ in rows], [score for _, score in rows]
    left = opened - set(history) if asked.get("exclude_seen", True) else opened
    assert len(set(items)) == len(items), "an item twice"
    assert set(items) <= left, f"{set(items) - left} may not be recommended"
    assert all(map(math.isfinite, scores))
    assert scores == sorted(scores, reverse=True), "scores are out of order"
    most = min(asked["k"], len(left))
    assert len(items) == most if full else len(items) <= most
    if most:
      assert items, "nobody is left without an item that is open"


def _ask_artefact(prepared: Prepared, asked: dict[str, Any], rng: random.Random) -> str:
  """The loader takes lists of texts, and raises ValueErrors."""
  histories = asked.get("histories", [["i1"]])
  allow = asked.get("allow")
  if isinstance(histories, dict):
    histories = [*histories.values()]
  given: dict[str, Any] = {"histories": histories}
  if isinstance(histories, list):
    given["histories"] = [_in_a_form(row, rng) for row in histories]
  if allow is not None:
    given["allow"] = _in_a_form(allow, rng)
  if "users" in asked:
    given["users"] = _in_a_form(asked["users"], rng)
  try:
    found = prepared.artefact(**given)
  except ValueError as error:
    if "\n" in str(error):
      raise AssertionError("more than a line") from error
    return "artefact: refused"
  rows = [_texts(row) or [] for row in histories]
  assert len(found) == len(rows)
  opened = {"k": K} | ({} if allow is None else {"allow": allow})
  for row, answer in zip(rows, found):
    # Unlike a recommender it answers who has no known item.
    if set(row) & set(ITEMS) and _open(opened):
      check(
        prepared,
        opened | {"histories": {"0": row}},
        {"0": answer} if answer else {},
        full=True,
      )
  return "artefact: answered"


KINDS = (
  Kind("requests", "a request is answered rightly or refused", 100_000, prepare, trial),
)
