"""Builds the report's sections on recommended lists: popularity, example users."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow
import pyarrow.compute as pc

from lightlm_jax.evaluation.users import SHOWN
from lightlm_jax.reporting import charts
from lightlm_jax.reporting.advice import note, without
from lightlm_jax.reporting.run_files import Log, Run, at
from lightlm_jax.reporting.sections import RULES

EXPOSURE = {
  "coverage@10": ("share of the catalogue recommended to at least one user", True),
  "gini@10": ("inequality of exposure; 0: equal, 1: a single item", False),
  "head_share@10": ("share of exposure of the most popular fifth of items", True),
  "popularity@10": ("mean training interactions of recommended items", False),
  "novelty@10": ("mean self-information of recommended items, in bits", False),
  "diversity@10": ("distance of the ids within a list; 1: no common prefix", False),
  "invalid@10": ("share of ranks without an item", True),
}
USERS = 8  # number of example users
LETTERS = 160  # an item's text is cut here, as some are whole descriptions
HISTORY = 6  # number of last history items that are shown


def popularity(
  runs: Sequence[Run], log: Log | None, no_log: str | None
) -> dict[str, Any]:
  """Returns metrics of exposure and, if `log` is not None, Lorenz curves of the lists.

  If `log` is None, `no_log` says why.
  """
  lines = without(runs, "table of users", lambda run: run.users is not None)
  listed = [
    (run.name if len(runs) > 1 else "recommended", run.users, series)
    for series, run in enumerate(runs, start=1)
    if run.users is not None
  ]
  figures = []
  if listed and log is None:
    lines.append(note(f"Item popularity needs the log: {no_log}"))
  elif log is not None and listed:
    item_ids = log.train.item_ids
    bought_I = np.bincount(log.train.item_E, minlength=len(item_ids))
    target_I = np.bincount(log.requests.target_N, minlength=len(item_ids))
    for rule, title in RULES.items():
      counts = [(name, shown(users, rule, item_ids), s) for name, users, s in listed]
      # The last colours, which are free if there are few runs.
      counts += [("targets", target_I, 8), ("training interactions", bought_I, 16)]
      curves = [
        charts.Line(name, *concentration(count_I, bought_I), series)
        for name, count_I, series in counts
      ]
      at_fifth = ", ".join(
        f"{c.name} {100 * np.interp(0.2, c.x, c.y):.0f} %" for c in curves
      )
      chart = charts.lines(
        curves,
        x="share of the catalogue, most popular first",
        y="cumulative share",
        label=f"Concentration on popular items, {title}. {at_fifth}",
        shares=True,
      )
      legend = [(curve.name, curve.series) for curve in curves]
      text = f"Share of the most popular fifth of items: {at_fifth}."
      figures.append({"title": title, "note": text, "legend": legend, "chart": chart})
  return {"figures": figures, "exposure": _exposure(runs), "missing": lines}


def examples(
  runs: Sequence[Run], log: Log | None, no_log: str | None
) -> dict[str, Any]:
  """Returns example users: target, each run's list and, if `log` is given, history."""
  lines = without(runs, "table of users", lambda run: run.users is not None)
  tables = {run.name: run.users for run in runs if run.users is not None}
  if not tables:
    return {"users": [], "missing": lines, "how": ""}
  titles, requests = {}, {}
  if log is None:
    lines.append(note(f"Histories and item texts need the log: {no_log}"))
  else:
    titles = dict(zip(log.train.item_ids.tolist(), log.titles or ()))
    raw_N = log.train.user_ids[log.requests.user_N].tolist()
    requests = {raw: n for n, raw in enumerate(raw_N)}
  rule = "seen_excluded"
  first, *_ = tables
  users = []
  for n in choose(hits(tables[first], rule)):
    rows = {name: table.slice(n, 1).to_pylist()[0] for name, table in tables.items()}
    row = rows[first]
    history = []
    if log is not None and row["user"] in requests:
      history = log.train.item_ids[log.requests.row(requests[row["user"]])].tolist()
    users.append(
      {
        "user": row["user"],
        "history": [_text(item, titles) for item in history[-HISTORY:]],
        "more": len(history) > HISTORY,
        "length": row["history_length"],
        "target": _text(row["target"], titles),
        "lists": [_list(name, row, rule, titles) for name, row in rows.items()],
      }
    )
  how = (
    f"The first users by raw id: {USERS // 2} hits of {first} at {SHOWN} and "
    f"{USERS - USERS // 2} misses, if there are as many. Rule: {RULES[rule]}."
  )
  return {"users": users, "missing": lines, "how": how}


def concentration(
  count_I: np.ndarray, bought_I: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the Lorenz curve of counts over items, the most bought items first.

  Items bought equally often form one straight piece: their order does not matter.

  Args:
    count_I: [I] how often each item is recommended, or is a target.
    bought_I: [I] training interactions of each item.

  Returns:
    x_P, y_P: [P] float64, the P points of the curve: cumulative shares, from 0 to 1, of
    the catalogue (x) and of the counts (y). All y are 0 if nothing is counted.
  """
  _, group_I = np.unique(-bought_I, return_inverse=True)
  items_G = np.bincount(group_I)
  count_G = np.bincount(group_I, weights=count_I)
  x_P = np.append(0, np.cumsum(items_G)) / len(bought_I)
  y_P = np.append(0, np.cumsum(count_G)) / max(count_I.sum(), 1)
  return x_P, y_P


def shown(users: pyarrow.Table, rule: str, item_ids: np.ndarray) -> np.ndarray:
  """Counts each of I `item_ids` in the lists of `rule` (seen_allowed, …): [I] int64."""
  raw = users[f"{rule}_items"].combine_chunks().flatten()
  index = pc.index_in(raw, value_set=pyarrow.array(item_ids))  # pyright: ignore
  return np.bincount(index.drop_null().to_numpy(), minlength=len(item_ids))


def hits(users: pyarrow.Table, rule: str) -> np.ndarray:
  """Returns [N] bool: whether the target is in the top SHOWN however ties break."""
  rank_N, ties_N = (users[f"{rule}_{part}"].to_numpy() for part in ("rank", "ties"))
  return (rank_N > 0) & (rank_N + ties_N <= SHOWN)


def choose(hit_N: np.ndarray, size: int = USERS) -> list[int]:
  """Returns the sorted indices of the first size / 2 hits and first size / 2 misses.

  If there are too few of one kind, more of the other make up `size`.
  """
  hit, miss = np.flatnonzero(hit_N), np.flatnonzero(~hit_N)
  from_hits = min(len(hit), max(size // 2, size - len(miss)))
  rows = np.concatenate([hit[:from_hits], miss[: size - from_hits]])
  return np.sort(rows).tolist()


def _exposure(runs: Sequence[Run]) -> dict[str, Any] | None:
  """Returns metrics of exposure, in columns by rule and run; None = no run has any."""
  found = [run for run in runs if at(run.results, "exposure")]
  rows = []
  for name, (meaning, is_share) in EXPOSURE.items():
    values = [at(r.results, "exposure", rule, name) for rule in RULES for r in found]
    if any(value is not None for value in values):
      row = {"name": name, "meaning": meaning, "is_share": is_share, "values": values}
      rows.append(row)
  return {"runs": [run.name for run in found], "rows": rows} if rows else None


def _list(name: str, row: dict[str, Any], rule: str, titles) -> dict[str, Any]:
  return {
    "run": name,
    "rank": row[f"{rule}_rank"],
    "ties": row[f"{rule}_ties"],
    "is_seen": row["target_seen"],
    "items": [
      _text(item, titles) | {"hit": item == row["target"]}
      for item in row[f"{rule}_items"]
    ],
  }


def _text(item: str, titles: dict[str, str]) -> dict[str, str]:
  """Returns {"text": an item's title or raw id, "id": its raw id, "" if the same}."""
  title = charts.clip(titles.get(item) or item, LETTERS)
  return {"text": title, "id": "" if _letters(item) == _letters(title) else item}


def _letters(text: str) -> str:
  return "".join(filter(str.isalnum, text)).casefold()
