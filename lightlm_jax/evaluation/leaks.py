"""Tests whether held-out interactions or the numbering of items influence the ids.

The tests are metamorphic. The ids are built again after held-out items were exchanged
between users: the ids must not change. They are also built after users and items were
renumbered: the quality of the ids must not change.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import scipy.stats

from lightlm_jax.data import splits
from lightlm_jax.data.interactions import Interactions, keep_rows
from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.evaluation import metrics
from lightlm_jax.ids import quality
from lightlm_jax.ids.codes import split_last

SPEARMAN_LIMIT = 0.05
NOISE_SEEDS = (1, 2, 3)  # further seeds, to see how far figures move by chance
MARGIN = 0.02  # tolerance for agreement and NDCG, beyond twice the seeds' spread
CHUNK = 512  # requests ranked at once


class Ids(NamedTuple):
  """The ids that a method built, and the interactions that it read for them."""

  items_IL: np.ndarray  # int32 codes, padded with -1
  users_UL: np.ndarray
  user_E: np.ndarray
  item_E: np.ndarray


# (whole log including held-out items, seed) → ids
Build = Callable[[Interactions, int], Ids]
SplitOf = Callable[[Interactions], Split]


def audit(
  build: Build, log: Interactions, split_of: SplitOf, *, seed: int
) -> dict[str, Any]:
  """Tests on a log whether ids leak held-out interactions or the items' numbering.

  Args:
    build: builds ids from a whole log and a seed; it splits the log itself.
    log: all interactions, validation and test included. An item's number is its raw id
      if all raw ids are integers, else the raw id's place in alphabetical order.
    split_of: splits a log, so that each user's training items are the first ones of the
      user's row. The row's other items are held out, even those that are not evaluated.
    seed: seeds the ids, the exchange and the renumbering.

  Returns:
    A dict: exchange {items_changed, users_changed, popularity_changed (each a share),
    vocabulary_changed (bool)}, renumber {measure: {as_is, renumbered, other_seeds}},
    spearman_last_token (see `last_token_order`), held_out_edges (a number), failures
    (lines of text) and passed (bool).
  """
  ids = build(log, seed)
  exchanged = _compare(ids, build(exchange_held_out(log, seed, split_of), seed))
  renumbered = _renumbered_figures(build, log, split_of(log), ids, seed)
  spearman, leaf_items = last_token_order(ids.items_IL, log.item_ids)
  held_out = held_out_edges(ids, log, split_of)
  failures = []
  if held_out:
    failures.append(f"{held_out:,} held-out interactions shaped the ids")
  for name, changed in exchanged.items():
    if changed:
      failures.append(
        f"exchanging held-out items between users changed {name.split('_')[0]}"
        + ("" if changed is True else f" ({100 * changed:.1f} %)")
      )
  for name, figures in renumbered.items():
    seeds = [figures["as_is"], *figures["other_seeds"]]
    middle, spread = np.mean(seeds), np.ptp(seeds)
    if abs(figures["renumbered"] - middle) > 2 * spread + MARGIN:
      failures.append(
        f"numbering users and items anew moved {name} from {figures['as_is']:.3f} to "
        f"{figures['renumbered']:.3f}; other seeds give "
        + ", ".join(f"{value:.3f}" for value in figures["other_seeds"])
      )
  # With few items, chance alone gives a large correlation.
  limit = max(SPEARMAN_LIMIT, 4 / np.sqrt(max(leaf_items, 1)))
  if abs(spearman) > limit:
    failures.append(
      f"last tokens follow the items' raw numbers (Spearman {spearman:.2f} in leaves)"
    )
  return {
    "exchange": exchanged,
    "renumber": renumbered,
    "spearman_last_token": spearman,
    "held_out_edges": held_out,
    "failures": failures,
    "passed": not failures,
  }


def exchange_held_out(
  log: Interactions, seed: int, split_of: SplitOf = splits.leave_one_out
) -> Interactions:
  """Returns the log with held-out items permuted among users; training items stay.

  An item moves to the same position, counted from the end, of another user's row, so
  that last items stay last. Timestamps do not move with the items.
  """
  held_H = np.flatnonzero(_held_out(log, split_of(log).train))
  user_H = log.user_E[held_H]
  from_end_H = log.offset_U1[user_H + 1] - held_H
  of_user_N, user_H = np.unique(user_H, return_inverse=True)
  order_N = np.random.default_rng(seed).permutation(len(of_user_N))
  taker_H = held_H[np.lexsort((user_H, from_end_H))]
  giver_H = held_H[np.lexsort((np.argsort(order_N)[user_H], from_end_H))]
  item_E = log.item_E.copy()
  item_E[taker_H] = log.item_E[giver_H]
  return dataclasses.replace(log, item_E=item_E)


def renumber(
  log: Interactions, seed: int
) -> tuple[Interactions, np.ndarray, np.ndarray]:
  """Returns the log with users and items permuted, and new_U, new_I.

  new_U has the new index of each old user, new_I the new index of each old item.
  """
  rng = np.random.default_rng(seed)
  order_U, order_I = rng.permutation(log.num_users), rng.permutation(log.num_items)
  new_U, new_I = np.argsort(order_U), np.argsort(order_I)
  item_E = new_I[log.item_E].astype(np.int32)
  renumbered = dataclasses.replace(log, item_E=item_E, item_ids=log.item_ids[order_I])
  return keep_rows(renumbered, order_U), new_U, new_I


def held_out_edges(
  ids: Ids, log: Interactions, split_of: SplitOf = splits.leave_one_out
) -> int:
  """Counts (user, item) pairs used for `ids` that `log` has only as held-out ones."""
  held_E = _held_out(log, split_of(log).train)

  def pairs(user_P, item_P):
    return np.unique(np.asarray(user_P, np.int64) * log.num_items + item_P)

  held = pairs(log.user_E[held_E], log.item_E[held_E])
  held = np.setdiff1d(held, pairs(log.user_E[~held_E], log.item_E[~held_E]))
  return int(np.isin(pairs(ids.user_E, ids.item_E), held).sum())


def last_token_order(items_IL: np.ndarray, raw_ids: np.ndarray) -> tuple[float, int]:
  """Returns Spearman's correlation of last token and raw item id, and its sample size.

  A leaf is a set of items whose ids differ only in the last token. The sample is
  all items of leaves with at least two items. Ranks are taken and standardised within
  each leaf. Without such a leaf the result is (0, 0).
  """
  stem_IL, last_I = split_last(items_IL)
  leaf_I = np.unique(stem_IL, axis=0, return_inverse=True)[1].reshape(-1)
  order_I = np.argsort(leaf_I, kind="stable")
  leaves = np.split(order_I, np.flatnonzero(np.diff(leaf_I[order_I])) + 1)
  leaves = [members for members in leaves if len(members) > 1]
  if not leaves:
    return 0.0, 0
  tokens, numbers = (
    np.concatenate([_scaled_ranks(value_I[members]) for members in leaves])
    for value_I in (last_I, _numbers(raw_ids))
  )
  return float(np.mean(tokens * numbers) / np.mean(tokens**2)), len(tokens)


def mates_ranks(
  label_U: np.ndarray, train: Interactions, requests: Requests
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the targets' rank_N and ties_N, as in `Ranks`, in a ranking by counts.

  label_U is each user's cluster. Items are ranked by how often the users of the
  requesting user's cluster bought them in `train`, ties by how often all users did.
  Items of the request's history are excluded; a target among them is a miss, with
  rank 0.
  """
  cluster_U = np.unique(label_U, return_inverse=True)[1].reshape(-1)
  shape = (cluster_U.max(initial=0) + 1, train.num_items)
  ones = np.ones(len(train.item_E))
  bought_CI = scipy.sparse.csr_array(
    (ones, (cluster_U[train.user_E], train.item_E)), shape
  )
  bought_I = np.bincount(train.item_E, minlength=train.num_items)
  rank_N = np.zeros(len(requests), np.int64)
  ties_N = np.zeros_like(rank_N)
  for start in range(0, len(requests), CHUNK):
    rows_R = np.arange(start, min(start + CHUNK, len(requests)))
    count_RI = bought_CI[cluster_U[requests.user_N[rows_R]]].toarray()
    count_RI += bought_I[None, :] / (1 + len(train.item_E))
    for r, n in enumerate(rows_R):
      count_RI[r, requests.row(int(n))] = -1
    target_R1 = np.take_along_axis(count_RI, requests.target_N[rows_R, None], axis=1)
    rank_N[rows_R] = 1 + (count_RI > target_R1).sum(axis=1)
    ties_N[rows_R] = (count_RI == target_R1).sum(axis=1) - 1
    rank_N[rows_R[target_R1[:, 0] < 0]] = 0
  return rank_N, ties_N


def _held_out(log: Interactions, train: Interactions) -> np.ndarray:
  """Returns which interactions of `log` are held out, [E] bool; the rest is `train`."""
  place_E = np.arange(len(log.item_E)) - np.repeat(log.offset_U1[:-1], log.length_U)
  held_E = place_E >= np.repeat(train.length_U, log.length_U)
  if not np.array_equal(log.item_E[~held_E], train.item_E):
    raise ValueError("training rows are not the beginnings of the log's rows")
  return held_E


def _compare(ids: Ids, other: Ids) -> dict[str, Any]:
  def changed(table, other_table) -> float:
    if table.shape != other_table.shape:
      return 1.0
    return float((table != other_table).any(axis=1).mean())

  def popularity(of: Ids):
    return np.bincount(of.item_E, minlength=len(of.items_IL))[:, None]

  return {
    "items_changed": changed(ids.items_IL, other.items_IL),
    "users_changed": changed(ids.users_UL, other.users_UL),
    "popularity_changed": changed(popularity(ids), popularity(other)),
    "vocabulary_changed": bool(
      ids.items_IL.max() != other.items_IL.max()
      or ids.users_UL.max() != other.users_UL.max()
    ),
  }


def _renumbered_figures(
  build: Build, log: Interactions, split: Split, ids: Ids, seed: int
):
  """Returns {measure: {as_is, renumbered, other_seeds}} for ids as is and renumbered.

  Measures: the share of training pairs (user, item) with equal first tokens, the same
  share of held-out pairs, and NDCG@10 of the ranks from `mates_ranks`.
  """
  held = split.validation
  assert held is not None

  def figures(items_IL, users_UL) -> dict[str, float]:
    pairs = {
      "agreement with training items": (split.train.user_E, split.train.item_E),
      "agreement with held-out items": (held.user_N, held.target_N),
    }
    found = {
      name: (quality.agreement(users_UL[user_P, :1], items_IL[item_P, :1]) or [0.0])[0]
      for name, (user_P, item_P) in pairs.items()
    }
    ranks = mates_ranks(users_UL[:, 0], split.train, held)
    return found | {"NDCG@10 by cluster-mates": metrics.ndcg(*ranks, k=10).mean()}

  other_log, new_U, new_I = renumber(log, seed)
  renumbered = build(other_log, seed)
  as_is = figures(ids.items_IL, ids.users_UL)
  anew = figures(renumbered.items_IL[new_I], renumbered.users_UL[new_U])
  others = [figures(*build(log, seed + offset)[:2]) for offset in NOISE_SEEDS]
  return {
    name: {
      "as_is": float(as_is[name]),
      "renumbered": float(anew[name]),
      "other_seeds": [float(other[name]) for other in others],
    }
    for name in as_is
  }


def _numbers(raw_ids: np.ndarray) -> np.ndarray:
  """Returns raw ids as integers or, if any is no integer, their alphabetical ranks."""
  try:
    return raw_ids.astype(np.int64)
  except (ValueError, OverflowError):
    return np.argsort(np.argsort(raw_ids, kind="stable"), kind="stable")


def _scaled_ranks(values: np.ndarray) -> np.ndarray:
  """Returns ranks with mean 0 and mean square 1; all 0 if the values are equal."""
  rank = scipy.stats.rankdata(values)
  rank -= rank.mean()
  return rank / np.sqrt(np.mean(rank**2)) if np.ptp(rank) else rank
