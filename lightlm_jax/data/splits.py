"""What is trained on and what is held out, with a digest that names the split."""

import dataclasses
import hashlib

import numpy as np

from lightlm_jax.data.interactions import Interactions, concatenate_rows


@dataclasses.dataclass(frozen=True)
class Requests:
  """Held-out questions: after this history, which item did this user buy next?

  N requests; the history of request n is `item_E[offset_N1[n]:offset_N1[n + 1]]`.
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


@dataclasses.dataclass(frozen=True)
class Split:
  """Training interactions and, where the protocol holds items out, two sets of them."""

  kind: str
  train: Interactions  # every user and the whole catalogue, held-out items removed
  validation: Requests | None
  test: Requests | None
  sha256: str


def leave_one_out(log: Interactions) -> Split:
  """Test = each user's last item, validation = the last but one, train = the rest.

  The validation item joins the input at test. Users with fewer than three
  interactions are trained on and asked nothing.
  """
  length_U = log.length_U
  asked_U = length_U >= 3
  keep_U = np.where(asked_U, length_U - 2, length_U)
  start_U = log.offset_U1[:-1]
  train = dataclasses.replace(
    log,
    offset_U1=np.concatenate([[0], np.cumsum(keep_U)]),
    item_E=concatenate_rows(log.item_E, start_U, keep_U),
  )
  user_N = np.flatnonzero(asked_U).astype(np.int32)

  def held_out(from_end: int) -> Requests:
    history_length = length_U[user_N] - from_end
    return Requests(
      user_N=user_N,
      offset_N1=np.concatenate([[0], np.cumsum(history_length)]),
      item_E=concatenate_rows(log.item_E, start_U[user_N], history_length),
      target_N=log.item_E[start_U[user_N] + history_length],
    )

  return Split(
    kind="leave_one_out",
    train=train,
    validation=held_out(2),
    test=held_out(1),
    sha256=_digest("leave_one_out", log),
  )


def everything(log: Interactions) -> Split:
  """Nothing held out: for the model that goes to work (`split.kind = "none"`)."""
  return Split("none", log, None, None, _digest("none", log))


SPLITS = {"leave_one_out": leave_one_out, "none": everything}


def _digest(kind: str, log: Interactions) -> str:
  """SHA-256 of the kind and of the log by raw ids: what makes two runs comparable."""
  digest = hashlib.sha256(kind.encode())
  for ids in (log.user_ids, log.item_ids):
    digest.update("\n".join(ids).encode() + b"\n\n")
  digest.update(log.offset_U1.astype("<i8").tobytes())
  digest.update(log.item_E.astype("<i4").tobytes())
  return digest.hexdigest()
