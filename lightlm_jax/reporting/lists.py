"""What was recommended: how popular it is, and what some users were told.

As in sections.py, every function makes the plain data of one section.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute

from lightlm_jax.evaluation.users import SHOWN
from lightlm_jax.reporting import charts
from lightlm_jax.reporting.advice import missing, note
from lightlm_jax.reporting.run_files import Log, Run
from lightlm_jax.reporting.sections import RULES

EXPOSURE = {
  "coverage@10": ("share of the catalogue that somebody is shown", True),
  "gini@10": ("0: every item as often; 1: one item alone", False),
  "head_share@10": ("of what is shown, from the most bought fifth", True),
  "popularity@10": ("training purchases of what is shown, on average", False),
  "novelty@10": ("bits: how unlikely one knows it", False),
  "diversity@10": ("how far apart the ids of a list are; 1: no common prefix", False),
  "invalid@10": ("places that hold no item", True),
}
USERS = 8  # examples
LETTERS = 160  # of an item's text: some are whole descriptions
HISTORY = 6  # last items of an example's history


def popularity(
  runs: Sequence[Run], log: Log | None, no_log: str | None
) -> dict[str, Any]:
  """How much of the showings falls to the most bought items, and the figures of it."""
  lines = _without_users(runs)
  listed = [(n, run) for n, run in enumerate(runs, start=1) if run.users is not None]
  if listed and log is None:
    lines.append(note(f"How popular an item is stands in the log: {no_log}"))
  figures = []
  if listed and log is not None:
    bought_I = np.bincount(log.train.item_E, minlength=log.train.num_items)
    target_I = np.bincount(log.requests.target_N, minlength=log.train.num_items)
    for rule, name in RULES.items():
      curves = [
        charts.Line(
          run.name if len(runs) > 1 else "recommended",
          *concentration(shown(run.users, rule, log.train.item_ids), bought_I),
          series,
        )
        for series, run in listed
      ]
      # The last colours: those that a few runs leave free.
      curves += [
        charts.Line("bought next (targets)", *concentration(target_I, bought_I), 8),
        charts.Line("bought in training", *concentration(bought_I, bought_I), 16),
      ]
      at_fifth = ", ".join(
        f"{c.name} {100 * np.interp(0.2, c.x, c.y):.0f} %" for c in curves
      )
      figures.append(
        {
          "title": name,
          "note": f"To the most bought fifth of the catalogue go: {at_fifth}.",
          "legend": [(curve.name, curve.series) for curve in curves],
          "chart": charts.lines(
            curves,
            x="share of the catalogue, most bought first",
            y="share of all",
            label=f"Concentration on popular items, {name}. {at_fifth}",
            x_range=(0, 1),
            y_range=(0, 1),
            texts=charts.percents,
          ),
        }
      )
  return {"figures": figures, "exposure": _exposure(runs), "missing": lines}


def examples(
  runs: Sequence[Run], log: Log | None, no_log: str | None
) -> dict[str, Any]:
  """A few users: what they had, what they were recommended, what they bought."""
  lines = _without_users(runs)
  listed = [run for run in runs if run.users is not None]
  if not listed:
    return {"users": [], "missing": lines, "how": ""}
  if log is None:
    lines.append(note(f"Histories and item texts stand in the log: {no_log}"))
  rule, first = "seen_excluded", listed[0]
  chosen = choose(hits(first.users, rule))
  say = _Texts(log)
  users = []
  for n in chosen:
    row = first.users.slice(n, 1).to_pylist()[0]
    history = say.history(row["user"])
    users.append(
      {
        "user": row["user"],
        "history": history and history[-HISTORY:],
        "more": len(history) - HISTORY if history else 0,
        "length": row["history_length"],
        "target": say.text(row["target"]),
        "lists": [
          _list(run.name, run.users.slice(n, 1).to_pylist()[0], rule, say)
          for run in listed
        ],
      }
    )
  how = (
    f"The first users by raw id: {USERS // 2} whose next item is among the first "
    f"{SHOWN} of {first.name}, and {USERS - USERS // 2} whose is not, as far as there "
    f"are so many. Rule: {RULES[rule]}."
  )
  return {"users": users, "missing": lines, "how": how, "shown": SHOWN}


def concentration(
  count_I: np.ndarray, bought_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """What share of counts falls to the most bought items, from 0 to the catalogue.

  Items bought equally often make one straight piece, so that no item number decides.

  Args:
    count_I: how often each item is shown, or bought next.
    bought_I: training interactions of each.

  Returns:
    x_P, y_P: shares of the catalogue and of the counts, [P] float64 from 0 to 1 (all
    y are 0 where nothing is counted).
  """
  _, group_I = np.unique(-bought_I, return_inverse=True)
  items_G = np.bincount(group_I)
  count_G = np.bincount(group_I, weights=count_I)
  x_P = np.append(0, np.cumsum(items_G)) / len(bought_I)
  y_P = np.append(0, np.cumsum(count_G)) / max(count_I.sum(), 1)
  return x_P, y_P


def shown(users: pyarrow.Table, rule: str, item_ids: np.ndarray) -> np.ndarray:
  """[I] int64: how often each item stands in the lists of a table of users."""
  raw = users[f"{rule}_items"].combine_chunks().flatten()
  index = pyarrow.compute.index_in(raw, value_set=pyarrow.array(item_ids))
  return np.bincount(index.drop_null().to_numpy(), minlength=len(item_ids))


def hits(users: pyarrow.Table, rule: str) -> np.ndarray:
  """[N] bool: whether the target is surely within the first SHOWN."""
  rank_N, ties_N = (users[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
  return (rank_N > 0) & (rank_N + ties_N <= SHOWN)


def choose(hit_N: np.ndarray, size: int = USERS) -> list[int]:
  """Rows to show, ascending: the first hits and the first misses, half and half.

  Where there are too few of one kind the other fills up.
  """
  hit, miss = np.flatnonzero(hit_N), np.flatnonzero(~hit_N)
  from_hits = min(len(hit), max(size // 2, size - len(miss)))
  rows = np.concatenate([hit[:from_hits], miss[: size - from_hits]])
  return np.sort(rows).tolist()


def _without_users(runs: Sequence[Run]) -> list[dict[str, str | None]]:
  """A line for each finished run that left no table of users."""
  return [
    missing(run, "table of users")
    for run in runs
    if run.results and run.results.get("metrics") and run.users is None
  ]


def _exposure(runs: Sequence[Run]) -> dict[str, Any] | None:
  """A table: a figure a row, a column for each run under each rule."""
  found = [run for run in runs if run.results and run.results.get("exposure")]
  columns = [
    (run.name if len(runs) > 1 else "", rule) for rule in RULES for run in found
  ]
  by_column = [run.results["exposure"].get(rule, {}) for rule in RULES for run in found]
  rows = []
  for name, (meaning, is_share) in EXPOSURE.items():
    values = [figures.get(name) for figures in by_column]
    if any(value is not None for value in values):
      texts = [_figure(value, is_share) for value in values]
      rows.append({"name": name, "meaning": meaning, "texts": texts})
  if not rows:
    return None
  return {
    "rules": [(name, len(found)) for name in RULES.values()],
    "runs": [name for name, _ in columns] if len(runs) > 1 else [],
    "rows": rows,
  }


def _figure(value: float | None, is_share: bool) -> str:
  if value is None:
    return "–"
  return f"{100 * value:.1f} %" if is_share else f"{value:.4g}"


def _list(name: str, row: dict[str, Any], rule: str, say: "_Texts") -> dict[str, Any]:
  rank, ties = row[f"{rule}_rank"], row[f"{rule}_ties"]
  items = row[f"{rule}_items"]
  if row["target_seen"] and rule == "seen_excluded":
    place = "a miss, as what was bought had been bought before"
  elif not rank:
    place = "what was bought was not found"
  elif ties:
    place = f"what was bought shares places {rank:,} to {rank + ties:,}"
  else:
    place = f"what was bought comes at place {rank:,}"
  return {
    "run": name,
    "place": place,
    "items": [say.text(item) | {"hit": item == row["target"]} for item in items],
  }


def _letters(text: str) -> str:
  return "".join(filter(str.isalnum, text)).casefold()


class _Texts:
  """Items and histories in words, as far as the log is known."""

  def __init__(self, log: Log | None):
    self._title, self._log, self._request = {}, log, {}
    if log is not None:
      raw_N = log.train.user_ids[log.requests.user_N].tolist()
      self._request = {raw: n for n, raw in enumerate(raw_N)}
      if log.titles is not None:
        self._title = dict(zip(log.train.item_ids.tolist(), log.titles))

  def text(self, item: str) -> dict[str, str]:
    """The item's text, and its raw id where that is another."""
    title = self._title.get(item) or item
    if len(title) > LETTERS:
      title = title[: LETTERS - 1] + "…"
    return {"text": title, "id": "" if _letters(item) == _letters(title) else item}

  def history(self, user: str) -> list[dict[str, str]] | None:
    n = self._request.get(user)
    if n is None:
      return None
    items = self._log.train.item_ids[self._log.requests.row(n)]
    return [self.text(item) for item in items.tolist()]
