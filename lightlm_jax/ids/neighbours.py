"""Nearest items by their attributes, such as brand and category."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

# Pairs of a new and a known item in memory at once: 50 MB if every pair has a cosine.
PAIRS_AT_ONCE = 2**22
# Cosines that agree to so many decimals are ties, whatever the order of summation.
DECIMALS = 9


def by_attributes(
  attributes: Sequence[np.ndarray], new_N: np.ndarray, known_M: np.ndarray, k: int
) -> list[np.ndarray]:
  """Returns the known items nearest to each new item, by cosine over attributes.

  An attribute weighs log((1 + M) / (1 + m)) if m of the M known items have it, so that
  one that all items have counts nothing. Items with cosine 0 are not neighbours.

  Args:
    attributes: the distinct attributes of each catalogue item, int, numbered from 0.
    new_N, known_M: int, catalogue indices.
    k: most neighbours of an item.

  Returns:
    N int arrays of at most k catalogue indices, nearest first, ties by index.
  """
  size = 1 + max((int(row.max()) for row in attributes if len(row)), default=0)
  new_NA, known_MA = (_rows(attributes, items, size) for items in (new_N, known_M))
  known_A = np.bincount(known_MA.indices, minlength=size)
  weight_A = np.log((1 + len(known_M)) / (1 + known_A))
  new_NA, known_AM = _unit(new_NA, weight_A), _unit(known_MA, weight_A).T.tocsr()
  chunk = max(1, PAIRS_AT_ONCE // max(1, len(known_M)))
  nearest = []
  for start in range(0, len(new_N), chunk):
    cosine_RM = new_NA[start : start + chunk] @ known_AM
    for begin, end in zip(cosine_RM.indptr[:-1], cosine_RM.indptr[1:]):
      cosine_P = np.round(cosine_RM.data[begin:end], DECIMALS)
      nearest.append(_first(known_M[cosine_RM.indices[begin:end]], cosine_P, k))
  return nearest


def _rows(attributes, items: np.ndarray, size: int) -> scipy.sparse.csr_array:
  """Returns [N, A]: 1 where the item has the attribute."""
  rows = [attributes[item] for item in items]
  offset_N1 = np.cumsum([0] + [len(row) for row in rows])
  index_E = np.concatenate([np.empty(0, np.int64), *rows])
  return scipy.sparse.csr_array(
    (np.ones(len(index_E)), index_E, offset_N1), shape=(len(rows), size)
  )


def _unit(table_NA: scipy.sparse.csr_array, weight_A: np.ndarray):
  """Returns weighted rows normalised to length one; a zero row stays zero."""
  weighted_NA = scipy.sparse.csr_array(table_NA @ scipy.sparse.diags_array(weight_A))
  norm_N = np.sqrt(weighted_NA.power(2).sum(axis=1))
  scale_N = np.divide(1, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
  return scipy.sparse.csr_array(scipy.sparse.diags_array(scale_N) @ weighted_NA)


def _first(item_P: np.ndarray, cosine_P: np.ndarray, k: int) -> np.ndarray:
  """Returns the k items with the greatest cosine above 0, ties by index."""
  least = np.partition(cosine_P, -k)[-k] if len(cosine_P) > k else 0
  keep_P = (cosine_P > 0) & (cosine_P >= least)  # including all ties with the k-th
  item_P, cosine_P = item_P[keep_P], cosine_P[keep_P]
  return item_P[np.lexsort((item_P, -cosine_P))[:k]]
