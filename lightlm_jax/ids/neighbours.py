"""Items that are alike by what is known of them, such as a brand, whoever buys them."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse

# Pairs of a new and a known item looked at together: 50 MB where all have a cosine.
PAIRS_AT_ONCE = 2**22
# Cosines that agree so far are equal: the order of a sum is no reason to go first.
DECIMALS = 9


def by_attributes(
  attributes: Sequence[np.ndarray], new_N: np.ndarray, known_M: np.ndarray, k: int
) -> list[np.ndarray]:
  """The known items nearest to each new one, by the cosine of what they are.

  An item is the vector of its attributes' weights: log((1 + M) / (1 + m)) where m of
  the M known items have the attribute, so that what they all have says nothing. New
  items weigh nothing in this. Items of cosine 0 are no neighbours.

  Args:
    attributes: int, of each item of the catalogue, each once, numbered from 0.
    new_N: int, catalogue indices.
    known_M: int, catalogue indices.
    k: the most neighbours of an item.

  Returns:
    N int arrays of at most k catalogue indices, nearest first, of equals the lower.
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
  """[N, A]: 1 where the item has the attribute."""
  rows = [attributes[item] for item in items]
  offset_N1 = np.cumsum([0] + [len(row) for row in rows])
  index_E = np.concatenate([np.empty(0, np.int64), *rows])
  return scipy.sparse.csr_array(
    (np.ones(len(index_E)), index_E, offset_N1), shape=(len(rows), size)
  )


def _unit(table_NA: scipy.sparse.csr_array, weight_A: np.ndarray):
  """Rows of weights brought to length one; a row without weight stays 0."""
  weighted_NA = (table_NA @ scipy.sparse.diags_array(weight_A)).tocsr()
  norm_N = np.sqrt(weighted_NA.power(2).sum(axis=1))
  scale_N = np.divide(1, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
  return (scipy.sparse.diags_array(scale_N) @ weighted_NA).tocsr()


def _first(item_P: np.ndarray, cosine_P: np.ndarray, k: int) -> np.ndarray:
  """The k items of the greatest cosine above 0, of equals the lower."""
  least = np.partition(cosine_P, -k)[-k] if len(cosine_P) > k else 0
  keep_P = (cosine_P > 0) & (cosine_P >= least)  # all that are level with the k-th
  item_P, cosine_P = item_P[keep_P], cosine_P[keep_P]
  return item_P[np.lexsort((item_P, -cosine_P))[:k]]
