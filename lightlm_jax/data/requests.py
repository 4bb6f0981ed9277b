"""Held-out requests: a user's history, and the item that followed it."""

import dataclasses

import numpy as np

from lightlm_jax.data.interactions import (
  Interactions,
  concatenate_rows,
  offsets_of_kept,
)


@dataclasses.dataclass(frozen=True)
class Requests:
  """N held-out requests: after this history, which item did the user interact with?

  The history of request n is `item_E[offset_N1[n]:offset_N1[n + 1]]`.
  """

  user_N: np.ndarray  # [N] int32
  offset_N1: np.ndarray  # [N + 1] int64
  item_E: np.ndarray  # [E] int32, oldest first in each row
  target_N: np.ndarray  # [N] int32

  def __len__(self) -> int:
    return len(self.user_N)

  @property
  def length_N(self) -> np.ndarray:
    """[N] int64: the length of each history."""
    return np.diff(self.offset_N1)

  @property
  def repeated_N(self) -> np.ndarray:
    """[N] bool: whether the target is in the request's own history."""
    row_E = np.repeat(np.arange(len(self)), self.length_N)
    repeated_E = self.item_E == self.target_N[row_E]
    return np.bincount(row_E[repeated_E], minlength=len(self)) > 0

  def row(self, n: int) -> np.ndarray:
    """The history of one request, oldest first."""
    return self.item_E[self.offset_N1[n] : self.offset_N1[n + 1]]

  def take(self, index: np.ndarray) -> "Requests":
    """The requests at `index`, in that order."""
    length = self.length_N[index]
    return Requests(
      user_N=self.user_N[index],
      offset_N1=np.concatenate([[0], np.cumsum(length)]),
      item_E=concatenate_rows(self.item_E, self.offset_N1[:-1][index], length),
      target_N=self.target_N[index],
    )

  def without_items(self, out_I: np.ndarray) -> "Requests":
    """Returns the requests with the items of `out_I` (bool) removed from histories."""
    keep_E = ~out_I[self.item_E]
    return dataclasses.replace(
      self,
      offset_N1=offsets_of_kept(self.offset_N1, keep_E),
      item_E=self.item_E[keep_E],
    )


def requests_at(
  log: Interactions, user_N: np.ndarray, position_N: np.ndarray
) -> Requests:
  """Returns requests for the item at one position of each user's row.

  Args:
    log: all interactions.
    user_N: int, the users.
    position_N: int, a position in each user's row; the history is what precedes it.
  """
  start_N = log.offset_U1[user_N]
  return Requests(
    user_N=user_N.astype(np.int32),
    offset_N1=np.concatenate([[0], np.cumsum(position_N)]),
    item_E=concatenate_rows(log.item_E, start_N, position_N),
    target_N=log.item_E[start_N + position_N],
  )
