"""Metrics of how recommendations are distributed over the catalogue."""

import numpy as np

HEAD = 0.2  # the most popular share of the catalogue, called the head
K = 10


def summarise(
  items_NK: np.ndarray, bought_I: np.ndarray, code_IL: np.ndarray | None = None
) -> dict[str, float]:
  """Returns all exposure metrics of lists, cut to their first 10 recommendations.

  Args:
    items_NK: indices of the items recommended for N requests; -1 = no item.
    bought_I: number of training interactions of each item.
    code_IL: hierarchical codes of the items, padded with -1; None = no diversity.

  Returns:
    gini@10, head_share@10, coverage@10 (share of the catalogue that is recommended at
    least once), invalid@10 (share of list positions without an item), popularity@10
    (mean training interactions of a recommended item, 0 if no item is recommended),
    novelty@10 and, if codes are given, diversity@10.
  """
  first_NK = items_NK[:, :K]
  shown_I = np.bincount(first_NK[first_NK >= 0], minlength=len(bought_I))
  popularity = shown_I @ bought_I.astype(np.float64) / max(shown_I.sum(), 1)
  summary = {
    f"gini@{K}": gini(shown_I),
    f"head_share@{K}": head_share(shown_I, bought_I),
    f"coverage@{K}": float(np.mean(shown_I > 0)),
    f"invalid@{K}": float(np.mean(first_NK < 0)),
    f"popularity@{K}": float(popularity),
    f"novelty@{K}": novelty(shown_I, bought_I),
  }
  if code_IL is not None:
    summary[f"diversity@{K}"] = intra_list_diversity(items_NK, code_IL)
  return summary


def gini(count_I: np.ndarray) -> float:
  """Returns the Gini coefficient of I counts, from 0 (equal) to (I - 1) / I."""
  ascending_I = np.sort(count_I).astype(np.float64)
  I, total = len(ascending_I), ascending_I.sum()
  if not total:
    return 0.0
  rank_I = np.arange(1, I + 1)
  return float(((2 * rank_I - I - 1) * ascending_I).sum() / (I * total))


def head_share(shown_I: np.ndarray, bought_I: np.ndarray) -> float:
  """Returns the share of recommendations that go to the most popular 20 % of items.

  If several items tie at the border of these 20 %, each counts by the same fraction, so
  that the order of items does not matter. Arguments as in `novelty`.
  """
  size = max(1, round(HEAD * len(bought_I)))
  border = np.sort(bought_I)[::-1][size - 1]
  above_I, level_I = bought_I > border, bought_I == border
  part = (size - above_I.sum()) / level_I.sum()
  shown = shown_I[above_I].sum() + part * shown_I[level_I].sum()
  return float(shown / max(shown_I.sum(), 1))


def novelty(shown_I: np.ndarray, bought_I: np.ndarray) -> float:
  """Returns the mean self-information of the recommended items, in bits.

  shown_I counts each item's recommendations, bought_I its training interactions. An
  item's self-information is -log2 of its share of all training interactions (Zhou et
  al. 2010; Vargas & Castells 2011). An item without training interactions counts as
  having one. Without recommendations novelty is 0.
  """
  share_I = np.maximum(bought_I, 1) / max(bought_I.sum(), 1)
  return float(shown_I @ -np.log2(share_I) / max(shown_I.sum(), 1))


def intra_list_diversity(items_NK: np.ndarray, code_IL: np.ndarray) -> float:
  """Returns the mean distance between the codes of a list's items, from 0 to 1.

  The distance of two items is 1 - (length of their codes' common prefix) / (length of
  the longer code). It is averaged over all pairs of a list's first 10 items (Ziegler
  et al. 2005, with another distance), then over all lists of at least two items; 0 if
  there is no such list. Codes and lists are padded with -1.
  """
  items_NK = items_NK[:, :K]
  real_NK = items_NK >= 0
  code_NKL = code_IL[np.maximum(items_NK, 0)]
  length_NK = (code_NKL >= 0).sum(axis=-1)
  distance_N, pairs_N = np.zeros(len(items_NK)), np.zeros(len(items_NK))
  # One position against all later ones, as all pairs would not fit in memory.
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
