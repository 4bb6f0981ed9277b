"""Splits a log into training, validation and test; a SHA-256 identifies the split.

Training takes the start of each user's history (for some users nothing) and keeps the
whole catalogue. Validation and test each hold at most one request per user: a target
item, and the user's whole history before it. `withhold` turns some items into cold
items; `learn_from` leaves some users out of training.
"""

from collections.abc import Callable
import dataclasses
import hashlib
import json
from typing import Any

import numpy as np

from lightlm_jax.config import RunConfig, schema
from lightlm_jax.data.interactions import (
  Interactions,
  concatenate_rows,
  first_of_rows,
  hash_keys,
  offsets_of_kept,
  without_items,
)
from lightlm_jax.runtime.errors import UserError

# Seed of `withhold`; fixed, so that a share withholds the same items in every run.
WITHHELD_SEED = 0
# Key of the hash in `learn_from`; differs from the key that numbers the users.
SHARE_SEED = 1


@dataclasses.dataclass(frozen=True)
class Requests:
  """N held-out requests: each has a user, a history, and the next item to predict."""

  user_N: np.ndarray  # [N] int32
  offset_N1: np.ndarray  # [N + 1] int64, where each history starts in item_E
  item_E: np.ndarray  # [E] int32, oldest first in each history
  target_N: np.ndarray  # [N] int32

  def __len__(self) -> int:
    return len(self.user_N)

  @property
  def length_N(self) -> np.ndarray:
    """[N] int64: the length of each history."""
    return np.diff(self.offset_N1)

  @property
  def repeated_N(self) -> np.ndarray:
    """[N] bool: True if the request's own history contains its target."""
    row_E = np.repeat(np.arange(len(self)), self.length_N)
    repeated_E = self.item_E == self.target_N[row_E]
    return np.bincount(row_E[repeated_E], minlength=len(self)) > 0

  def row(self, n: int) -> np.ndarray:
    """Returns the history of one request, oldest first."""
    return self.item_E[self.offset_N1[n] : self.offset_N1[n + 1]]

  def take(self, index: np.ndarray) -> "Requests":
    """Returns the requests at `index`, in that order."""
    length = self.length_N[index]
    return Requests(
      user_N=self.user_N[index],
      offset_N1=np.concatenate([[0], np.cumsum(length)]),
      item_E=concatenate_rows(self.item_E, self.offset_N1[:-1][index], length),
      target_N=self.target_N[index],
    )

  def without_items(self, out_I: np.ndarray) -> "Requests":
    """Returns the requests; their histories lose the items that are True in `out_I`."""
    keep_E = ~out_I[self.item_E]
    offset_N1 = offsets_of_kept(self.offset_N1, keep_E)
    return dataclasses.replace(self, offset_N1=offset_N1, item_E=self.item_E[keep_E])


@dataclasses.dataclass(frozen=True)
class Split:
  """Training interactions, and the requests for validation and test, if any."""

  kind: str
  train: Interactions  # all users, the whole catalogue; no held-out interactions
  validation: Requests | None
  test: Requests | None
  sha256: str
  parameters: dict[str, float] = dataclasses.field(default_factory=dict)
  cut_times: dict[str, int] | None = None  # seconds since 1970, only from `temporal`
  withheld_I: np.ndarray | None = None  # [I] bool, cold items, only from `withhold`


def of_run(config: RunConfig, log: Interactions) -> Split:
  """Returns a run's split, with the share `config.data.share` of users in training."""
  return learn_from(make(config.split, log), config.data.share)


def make(config: schema.Split, log: Interactions) -> Split:
  """Returns the split of `config`; raises UserError if the log does not support it."""
  names = PARAMETERS.get(config.kind, ())
  given = {name: getattr(config, name) for name in names}
  return withhold(SPLITS[config.kind](log, **given), config.withheld)


def leave_one_out(log: Interactions) -> Split:
  """Holds out each user's last item for test, and the last but one for validation.

  At test the validation item is part of the history. Users with fewer than three
  interactions are only trained on.
  """
  length_U = log.length_U
  held_out_U = length_U >= 3
  return _split(
    "leave_one_out",
    log,
    np.where(held_out_U, length_U - 2, length_U),
    _requests_at(log, held_out_U, length_U - 2),
    _requests_at(log, held_out_U, length_U - 1),
  )


def ratio(
  log: Interactions, *, validation_share: float = 0.1, test_share: float = 0.1
) -> Split:
  """Cuts each user's row into a training, a validation and a test part.

  Validation and test get their shares of the row's length, rounded down but at least
  one item. The target is the first item of a part, and the history is everything before
  it: at test this includes the whole validation part. The later items of a part are
  neither trained on nor predicted. Users with fewer than three interactions are only
  trained on.
  """
  _check_shares(validation_share, test_share)
  length_U = log.length_U
  held_out_U = length_U >= 3

  def part_U(share, most_U):
    # In floating point a product such as .29 * 100 is slightly below the whole number.
    size_U = np.floor(share * length_U + 1e-9).astype(np.int64)
    return np.where(held_out_U, np.clip(size_U, 1, most_U), 0)

  test_U = part_U(test_share, length_U - 2)
  validation_U = part_U(validation_share, length_U - 1 - test_U)
  return _split(
    "ratio",
    log,
    length_U - test_U - validation_U,
    _requests_at(log, held_out_U, length_U - test_U - validation_U),
    _requests_at(log, held_out_U, length_U - test_U),
    validation_share=validation_share,
    test_share=test_share,
  )


def temporal(
  log: Interactions,
  *,
  validation_share: float = 0.1,
  test_share: float = 0.1,
  gap: int = 0,
) -> Split:
  """Trains on everything before a cut time, and predicts in two windows after it.

  The windows open at quantiles of the log's times. The last `test_share` of all
  interactions lie in the test window. The share `validation_share` lies between the
  starts of the two windows. Equal times make both shares approximate. The last `gap`
  seconds before a window are not in training or validation. In terms of `cut_times`:

    train          time < train_end = validation_start - gap
    validation     validation_start <= time < validation_end = test_start - gap
    test           test_start <= time

  The target is a user's first interaction in the window; the history is all that the
  user did before, also in a gap and the validation window. A user without earlier
  interactions has no request. If a user's earlier interactions all lie in a gap or the
  validation window, the training row is empty, but there is a request
  (evaluation/slices.py reports these users separately). Interactions at the same time
  keep the order of the log.

  Raises:
    UserError: the log has no times, nothing to train on, or no request in a window.
  """
  _check_shares(validation_share, test_share)
  if log.time_E is None:
    raise UserError(
      "config.split.kind is 'temporal', but this log has no times, only an order; "
      "times come with u.data (data.name=ml-100k), otherwise choose ratio or "
      "leave_one_out"
    )
  sorted_E = np.sort(log.time_E)
  last = len(sorted_E) - 1
  validation_start, test_start = (
    int(sorted_E[min(round(share * len(sorted_E)), last)])
    for share in (1 - validation_share - test_share, 1 - test_share)
  )
  cut_times = {
    "train_end": validation_start - gap,
    "validation_start": validation_start,
    "validation_end": test_start - gap,
    "test_start": test_start,
  }
  before = {
    name: np.bincount(log.user_E[log.time_E < cut], minlength=log.num_users)
    for name, cut in cut_times.items()
  }

  def first_of_window(start_U, end_U):
    return _requests_at(log, (start_U >= 1) & (start_U < end_U), start_U)

  validation = first_of_window(before["validation_start"], before["validation_end"])
  test = first_of_window(before["test_start"], log.length_U)
  for lost, number in (
    ("nothing to train on", before["train_end"].sum()),
    ("no request in the validation window", len(validation)),
    ("no request in the test window", len(test)),
  ):
    if not number:
      raise UserError(
        f"config.split of kind temporal with validation_share={validation_share}, "
        f"test_share={test_share}, gap={gap} leaves {lost}: a request needs an "
        "interaction in the window and an earlier one; change the shares or the gap"
      )
  shares = {"validation_share": validation_share, "test_share": test_share}
  train_U = before["train_end"]
  split = _split("temporal", log, train_U, validation, test, **shares, gap=gap)
  return dataclasses.replace(split, cut_times=cut_times)


def everything(log: Interactions) -> Split:
  """Makes the whole log training data, to deploy a model (`split.kind = "none"`)."""
  return Split("none", log, None, None, _digest("none", log, {}))


def withhold(split: Split, share: float) -> Split:
  """Returns the split with a share of the catalogue's items turned into cold items.

  The items are drawn uniformly, at least one unless the share is 0. Their interactions
  are removed from the training rows and from all histories. Validation drops requests
  with a withheld target. Test keeps all its requests, even if a history becomes empty;
  the test requests with a withheld target measure cold start.

  Raises:
    UserError: the share leaves nothing to train on or no validation request.
  """
  if not share:
    return split
  rng = np.random.default_rng(WITHHELD_SEED)
  num_items = split.train.num_items
  drawn = rng.choice(num_items, max(1, round(share * num_items)), replace=False)
  withheld_I = np.isin(np.arange(num_items), drawn)
  train = without_items(split.train, withheld_I)
  validation, test = split.validation, split.test
  if validation is not None:
    known = np.flatnonzero(~withheld_I[validation.target_N])
    validation = validation.take(known).without_items(withheld_I)
  for lost, what in (
    (not len(train.item_E), "nothing to train on"),
    (split.validation and not validation, "no validation request"),
  ):
    if lost:
      raise UserError(
        f"config.split.withheld={share} withholds {len(drawn):,} of {num_items:,} "
        f"items and leaves {what}; lower it"
      )
  return dataclasses.replace(
    split,
    train=train,
    validation=validation,
    test=None if test is None else test.without_items(withheld_I),
    withheld_I=withheld_I,
    **_named(split, {"withheld": share}, WITHHELD_SEED),
  )


def learn_from(split: Split, share: float) -> Split:
  """Returns the split with about `share` of the users in training, and all requests.

  Whether a user is in training depends on `share` and a keyed hash of the raw id, not
  on the log. A larger share keeps all users of a smaller share. Users who are not in
  training get an empty training row. Raises UserError if nobody is left to train on.
  """
  if share == 1:
    return split
  log = split.train
  fraction_U = hash_keys(log.user_ids.tolist(), SHARE_SEED)[:, 0] / 2.0**64
  train = first_of_rows(log, np.where(fraction_U < share, log.length_U, 0))
  if not len(train.item_E):
    raise UserError(
      f"config.data.share={share} leaves none of {log.num_users:,} users to learn "
      "from; raise it"
    )
  named = _named(split, {"share": share}, SHARE_SEED)
  return dataclasses.replace(split, train=train, **named)


SPLITS: dict[str, Callable[..., Split]] = {
  "leave_one_out": leave_one_out,
  "ratio": ratio,
  "temporal": temporal,
  "none": everything,
}
# The fields of config.split that each kind reads.
PARAMETERS = {
  "ratio": ("validation_share", "test_share"),
  "temporal": ("validation_share", "test_share", "gap"),
}


def _check_shares(validation_share: float, test_share: float) -> None:
  low, total = min(validation_share, test_share), validation_share + test_share
  if not (low > 0 and total < 1):
    raise UserError(
      f"config.split.validation_share ({validation_share}) and test_share "
      f"({test_share}) must be above 0 and together below 1: training has the rest"
    )


def _requests_at(
  log: Interactions, asked_U: np.ndarray, position_U: np.ndarray
) -> Requests:
  """Builds requests for item `position_U[u]` of each user u that `asked_U` selects."""
  user_N = np.flatnonzero(asked_U)
  start_N, position_N = log.offset_U1[user_N], position_U[user_N]
  return Requests(
    user_N=user_N.astype(np.int32),
    offset_N1=np.concatenate([[0], np.cumsum(position_N)]),
    item_E=concatenate_rows(log.item_E, start_N, position_N),
    target_N=log.item_E[start_N + position_N],
  )


def _split(
  kind: str,
  log: Interactions,
  train_U: np.ndarray,
  validation: Requests,
  test: Requests,
  **parameters: float,
) -> Split:
  """Builds the split that trains on the first `train_U[u]` interactions of user u."""
  train = first_of_rows(log, train_U)
  sha256 = _digest(kind, log, parameters)
  return Split(kind, train, validation, test, sha256, parameters)


def _digest(kind: str, log: Interactions, parameters: dict[str, float]) -> str:
  """Returns the SHA-256 of the kind, its parameters and the log (raw ids, times).

  Results of runs with equal digests are comparable.
  """
  digest = hashlib.sha256(kind.encode())
  if parameters:
    digest.update(json.dumps(parameters, sort_keys=True).encode())
  for ids in (log.user_ids, log.item_ids):
    digest.update("\n".join(ids).encode() + b"\n\n")
  digest.update(log.offset_U1.astype("<i8").tobytes())
  digest.update(log.item_E.astype("<i4").tobytes())
  if log.time_E is not None:
    digest.update(log.time_E.astype("<i8").tobytes())
  return digest.hexdigest()


def _named(split: Split, parameter: dict[str, float], seed: int) -> dict[str, Any]:
  """Returns `parameters` with `parameter` added; `sha256` covers `seed` too."""
  named = f"{split.sha256} {json.dumps(parameter | {'seed': seed}, sort_keys=True)}"
  return {
    "parameters": split.parameters | parameter,
    "sha256": hashlib.sha256(named.encode()).hexdigest(),
  }
