"""How recommendations are spread over the catalogue: what accuracy does not tell."""

import numpy as np

HEAD = 0.2  # share of the catalogue, most bought first, that counts as its head
K = 10


def summarise(items_NK: np.ndarray, bought_I: np.ndarray) -> dict[str, float]:
  """The figures of a report, over the first `K` recommendations of each request.

  Args:
    items_NK: catalogue indices, -1 where a list has no item.
    bought_I: training interactions of each item.

  Returns:
    gini@10, head_share@10, coverage@10 (share of the catalogue that somebody is
    shown) and invalid@10 (share of the places that hold no item).
  """
  first_NK = items_NK[:, :K]
  shown_I = np.bincount(first_NK[first_NK >= 0], minlength=len(bought_I))
  return {
    f"gini@{K}": gini(shown_I),
    f"head_share@{K}": head_share(shown_I, bought_I),
    f"coverage@{K}": float(np.mean(shown_I > 0)),
    f"invalid@{K}": float(np.mean(first_NK < 0)),
  }


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
