"""Spread of the recommendations over the catalogue, and diversity of the lists."""

import numpy as np

HEAD = 0.2  # share of the catalogue, most bought first, that counts as its head
K = 10


def summarise(
  items_NK: np.ndarray, bought_I: np.ndarray, code_IL: np.ndarray | None = None
) -> dict[str, float]:
  """The figures of a report, over the first `K` recommendations of each request.

  Args:
    items_NK: catalogue indices, -1 where a list has no item.
    bought_I: training interactions of each item.
    code_IL: hierarchical codes of the items, padded with -1; None where there are none.

  Returns:
    gini@10, head_share@10, coverage@10 (share of the catalogue that somebody is
    shown), invalid@10 (share of the places that hold no item), popularity@10,
    novelty@10 and, with codes, diversity@10.
  """
  first_NK = items_NK[:, :K]
  shown_I = np.bincount(first_NK[first_NK >= 0], minlength=len(bought_I))
  summary = {
    f"gini@{K}": gini(shown_I),
    f"head_share@{K}": head_share(shown_I, bought_I),
    f"coverage@{K}": float(np.mean(shown_I > 0)),
    f"invalid@{K}": float(np.mean(first_NK < 0)),
    f"popularity@{K}": mean_popularity(shown_I, bought_I),
    f"novelty@{K}": novelty(shown_I, bought_I),
  }
  if code_IL is not None:
    summary[f"diversity@{K}"] = intra_list_diversity(items_NK, code_IL)
  return summary


def gini(count_I: np.ndarray) -> float:
  """Gini coefficient of counts: 0 = all equal, (I - 1) / I = one item has them all."""
  ascending_I = np.sort(count_I).astype(np.float64)
  I, total = len(ascending_I), ascending_I.sum()
  if not total:
    return 0.0
  rank_I = np.arange(1, I + 1)
  return float(((2 * rank_I - I - 1) * ascending_I).sum() / (I * total))


def head_share(shown_I: np.ndarray, bought_I: np.ndarray) -> float:
  """Share of what is shown that falls to the most bought `HEAD` of the catalogue.

  Items bought equally often at its border share what they are shown, so that no item
  number decides who belongs to it.
  """
  size = max(1, round(HEAD * len(bought_I)))
  border = np.sort(bought_I)[::-1][size - 1]
  above_I, level_I = bought_I > border, bought_I == border
  part = (size - above_I.sum()) / level_I.sum()
  shown = shown_I[above_I].sum() + part * shown_I[level_I].sum()
  return float(shown / max(shown_I.sum(), 1))


def mean_popularity(shown_I: np.ndarray, bought_I: np.ndarray) -> float:
  """Training interactions of an item that is shown, on average over all showings.

  Of nothing shown 0.
  """
  return float(shown_I @ bought_I.astype(np.float64) / max(shown_I.sum(), 1))


def novelty(shown_I: np.ndarray, bought_I: np.ndarray) -> float:
  """Mean self-information in bits of what is shown: how unlikely one knows it.

  An item tells -log2 of its share of the training interactions (Zhou et al. 2010;
  Vargas & Castells 2011). One that was never bought would tell infinitely much: it
  counts as if it was bought once, as the most that this log can tell of an item. Of
  nothing shown 0.
  """
  share_I = np.maximum(bought_I, 1) / max(bought_I.sum(), 1)
  return float(shown_I @ -np.log2(share_I) / max(shown_I.sum(), 1))


def intra_list_diversity(items_NK: np.ndarray, code_IL: np.ndarray) -> float:
  """The diversity of lists by the items' codes: 0 = one item, 1 = no common prefix.

  Two items are as far apart as the share of their code's levels below their common
  prefix, of the longer code's where they differ in length. The mean over all pairs of
  a list's first `K` places (Ziegler et al. 2005, with another distance), then over all
  lists of two items or more; 0 where there is none.

  Args:
    items_NK: catalogue indices, -1 where a list has no item.
    code_IL: hierarchical codes of the items, padded with -1 at the end.
  """
  items_NK = items_NK[:, :K]
  real_NK = items_NK >= 0
  code_NKL = code_IL[np.maximum(items_NK, 0)]
  length_NK = (code_NKL >= 0).sum(axis=-1)
  distance_N, pairs_N = np.zeros(len(items_NK)), np.zeros(len(items_NK))
  # One place against all after it: pairs of places of all lists at once fill memory.
  for place in range(items_NK.shape[1] - 1):
    one_N1L, others_NKL = code_NKL[:, place, None], code_NKL[:, place + 1 :]
    equal_NKL = (one_N1L == others_NKL) & (one_N1L >= 0)
    common_NK = np.logical_and.accumulate(equal_NKL, axis=-1).sum(axis=-1)
    longer_NK = np.maximum(length_NK[:, place, None], length_NK[:, place + 1 :])
    both_NK = real_NK[:, place, None] & real_NK[:, place + 1 :]
    distance_N += ((1 - common_NK / longer_NK) * both_NK).sum(axis=-1)
    pairs_N += both_NK.sum(axis=-1)
  listed_N = pairs_N > 0
  return float((distance_N / np.maximum(pairs_N, 1)).sum() / max(listed_N.sum(), 1))
