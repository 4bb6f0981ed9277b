"""What is trained on and what is held out, with a digest that names the split.

Every split trains on the beginnings of the users' rows, of some users perhaps on
nothing, and keeps the whole catalogue. It asks a user at most once for validation and
once at test, each time for one item, after everything of this user that came before.
`withhold` makes some items of a split new on the day of the test, `learn_from` leaves
the rows of some users out of training.
"""

from collections.abc import Callable
import dataclasses
import datetime
import hashlib
import json
from typing import Any

import ml_collections
import numpy as np

from lightlm_jax.data.interactions import (
  Interactions,
  concatenate_rows,
  first_of_rows,
  hash_keys,
  offsets_of_kept,
  without_items,
)
from lightlm_jax.runtime.errors import UserError

# Of the draw of `withhold`: one share means the same items in every run.
WITHHELD_SEED = 0
# Of the hash of `learn_from`, another than the one that numbers the users.
SHARE_SEED = 1


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
    """The same questions, the items of `out_I` (bool) left out of the histories."""
    keep_E = ~out_I[self.item_E]
    return dataclasses.replace(
      self,
      offset_N1=offsets_of_kept(self.offset_N1, keep_E),
      item_E=self.item_E[keep_E],
    )


@dataclasses.dataclass(frozen=True)
class Split:
  """Training interactions and, where the protocol holds items out, two sets of them."""

  kind: str
  train: Interactions  # every user and the whole catalogue, held-out items removed
  validation: Requests | None
  test: Requests | None
  sha256: str
  parameters: dict[str, float] = dataclasses.field(default_factory=dict)
  cut_times: dict[str, int] | None = None  # seconds; of splits by time: see `temporal`
  withheld_I: np.ndarray | None = None  # [I] bool, items new at test: see `withhold`


def of_run(config: ml_collections.ConfigDict, log: Interactions) -> Split:
  """The split of a run: what `config.split` asks for, learned from `data.share` of it.

  Raises:
    UserError: as `make` and `learn_from`.
  """
  return learn_from(make(config.split, log), config.data.get("share", 1.0))


def make(config: ml_collections.ConfigDict, log: Interactions) -> Split:
  """The split that `config.split` asks for; fields that it lacks have their defaults.

  Raises:
    UserError: this log cannot be split like that.
  """
  names = PARAMETERS.get(config.kind, ())
  given = {name: config[name] for name in names if name in config}
  split = SPLITS[config.kind](log, **given)
  return withhold(split, config.get("withheld", 0.0))


def leave_one_out(log: Interactions) -> Split:
  """Test = each user's last item, validation = the last but one, train = the rest.

  The validation item joins the input at test. Users with fewer than three
  interactions are trained on and asked nothing.
  """
  length_U = log.length_U
  asked_U = length_U >= 3
  user_N = np.flatnonzero(asked_U)
  return Split(
    kind="leave_one_out",
    train=first_of_rows(log, np.where(asked_U, length_U - 2, length_U)),
    validation=_requests(log, user_N, length_U[user_N] - 2),
    test=_requests(log, user_N, length_U[user_N] - 1),
    sha256=_digest("leave_one_out", log),
  )


def ratio(
  log: Interactions, *, validation_share: float = 0.1, test_share: float = 0.1
) -> Split:
  """Each user's row in three parts: the first is trained on, the others ask once each.

  The last two parts have their shares of the row's length, rounded down and at least
  one item; training has the rest. The first item of a part is asked for, after all
  that came before it: at test the whole validation part joins the input. What follows
  it in the part is neither trained on nor asked for. Users with fewer than three
  interactions are trained on and asked nothing.

  Raises:
    UserError: the shares leave nothing to train on.
  """
  _check_shares(validation_share, test_share)
  length_U = log.length_U
  asked_U = length_U >= 3

  def part_U(share, most_U):
    # A product such as .29 * 100 comes out a little below the whole number.
    size_U = np.floor(share * length_U + 1e-9).astype(np.int64)
    return np.where(asked_U, np.clip(size_U, 1, most_U), 0)

  test_U = part_U(test_share, length_U - 2)
  validation_U = part_U(validation_share, length_U - 1 - test_U)
  keep_U = length_U - test_U - validation_U
  user_N = np.flatnonzero(asked_U)
  parameters = {"validation_share": validation_share, "test_share": test_share}
  return Split(
    kind="ratio",
    train=first_of_rows(log, keep_U),
    validation=_requests(log, user_N, keep_U[user_N]),
    test=_requests(log, user_N, (keep_U + validation_U)[user_N]),
    sha256=_digest("ratio", log, parameters),
    parameters=parameters,
  )


def temporal(
  log: Interactions,
  *,
  validation_share: float = 0.1,
  test_share: float = 0.1,
  gap: int = 0,
) -> Split:
  """One clock for everybody: train on what came before, ask about two windows after.

  The windows open at quantiles of the log's times: the test's so that it holds
  `test_share` of all interactions, the validation's so that it holds
  `validation_share` of them before that (more where several have the very time of the
  cut). The last `gap` seconds before each window are in neither training nor the
  validation window. With the names of `Split.cut_times`:

    train          time < train_end = validation_start - gap
    validation     validation_start <= time < validation_end = test_start - gap
    test           test_start <= time

  A request is a user's first interaction in the window, after everything of this user
  before the window: items of the gap too, and at test those of the validation window,
  are known by then. It wants at least one earlier interaction: who is not known at all
  yet is asked nothing. Who is known from the gap or the validation window alone is
  asked, and has an empty row in training (evaluation/slices.py tells them apart). Of
  items of a user at the very same time the log's order decides which is first.

  Raises:
    UserError: the log has no times, or nothing to train on or nobody to ask in one of
      the windows.
  """
  _check_shares(validation_share, test_share)
  if log.time_E is None:
    raise UserError(
      "config.split.kind is 'temporal', but this log has no times, only an order; "
      "times come with u.data (data.name=ml-100k), otherwise choose ratio or "
      "leave_one_out"
    )
  time_E = np.sort(log.time_E)
  last = len(time_E) - 1
  validation_start, test_start = (
    int(time_E[min(round(share * len(time_E)), last)])
    for share in (1 - validation_share - test_share, 1 - test_share)
  )
  cut_times = {
    "train_end": validation_start - gap,
    "validation_start": validation_start,
    "validation_end": test_start - gap,
    "test_start": test_start,
  }
  user_E = log.user_E
  before = {
    name: np.bincount(user_E[log.time_E < cut], minlength=log.num_users)
    for name, cut in cut_times.items()
  }

  def first_of_window(start_U, end_U):
    user_N = np.flatnonzero((start_U >= 1) & (start_U < end_U))
    return _requests(log, user_N, start_U[user_N])

  validation = first_of_window(before["validation_start"], before["validation_end"])
  test = first_of_window(before["test_start"], log.length_U)
  parameters = {
    "validation_share": validation_share,
    "test_share": test_share,
    "gap": gap,
  }
  for name, number in (
    ("nothing to train on", before["train_end"].sum()),
    ("nobody to ask in the validation window", len(validation)),
    ("nobody to ask in the test window", len(test)),
  ):
    if not number:
      given = ", ".join(f"{name}={value}" for name, value in parameters.items())
      raise UserError(
        f"config.split of kind temporal with {given} leaves {name}: who is asked wants "
        "an interaction in the window and one before it; change the shares or the gap"
      )
  return Split(
    kind="temporal",
    train=first_of_rows(log, before["train_end"]),
    validation=validation,
    test=test,
    sha256=_digest("temporal", log, parameters),
    parameters=parameters,
    cut_times=cut_times,
  )


def everything(log: Interactions) -> Split:
  """Nothing held out: for the model that goes to work (`split.kind = "none"`)."""
  return Split("none", log, None, None, _digest("none", log))


def withhold(split: Split, share: float) -> Split:
  """A split in which some items of the catalogue are new on the day of the test.

  So many items are drawn, popular or not, at least one. They are taken out of the
  training rows and out of the histories of validation and test, and validation does
  not ask for them. Test asks all that it asked, also those whose history is empty now:
  its requests for these items are those of a cold start.

  Args:
    split: of any kind.
    share: of the catalogue's items, rounded to whole ones; 0 leaves the split as it is.

  Raises:
    UserError: there is no such share, or it leaves nothing to train on or nobody to
      ask at validation.
  """
  if not 0 <= share < 1:
    raise UserError(
      f"config.split.withheld is {share}; it must be 0 or more and below 1: the share "
      "of the items that training never sees"
    )
  if not share:
    return split
  rng = np.random.default_rng(WITHHELD_SEED)
  num_items = split.train.num_items
  drawn = rng.choice(num_items, max(1, round(share * num_items)), replace=False)
  withheld_I = np.zeros(num_items, dtype=bool)
  withheld_I[drawn] = True
  train = without_items(split.train, withheld_I)
  validation, test = split.validation, split.test
  if validation is not None:
    known = np.flatnonzero(~withheld_I[validation.target_N])
    validation = validation.take(known).without_items(withheld_I)
  for lost, what in (
    (not len(train.item_E), "nothing to train on"),
    (split.validation and not validation, "nobody to ask at validation"),
  ):
    if lost:
      raise UserError(
        f"config.split.withheld={share} withholds {len(drawn):,} of {num_items:,} "
        f"items and leaves {what}; lower it"
      )
  parameters = {"withheld": share, "seed": WITHHELD_SEED}
  return dataclasses.replace(
    split,
    train=train,
    validation=validation,
    test=None if test is None else test.without_items(withheld_I),
    sha256=_digest_of_part(split, parameters),
    parameters={**split.parameters, "withheld": share},
    withheld_I=withheld_I,
  )


def learn_from(split: Split, share: float) -> Split:
  """A split that trains on the rows of some users only, and asks what it asked before.

  A user is in or out by a keyed hash of the raw id alone: the users of a share are
  among those of every larger one, whoever else is in the log. Who is out has an empty
  row in training, stays a user, and is asked with the whole history.

  Args:
    split: of any kind.
    share: of the users, about; 1 leaves the split as it is.

  Raises:
    UserError: there is no such share, or nobody is left to learn from.
  """
  if not 0 < share <= 1:
    raise UserError(
      f"config.data.share is {share}; it must be above 0 and at most 1: the share of "
      "the users whose interactions are learned from"
    )
  if share == 1:
    return split
  log = split.train
  place_U = hash_keys(log.user_ids.tolist(), SHARE_SEED)[:, 0] / 2.0**64
  train = first_of_rows(log, np.where(place_U < share, log.length_U, 0))
  if not len(train.item_E):
    raise UserError(
      f"config.data.share={share} leaves nobody of {log.num_users:,} users to learn "
      "from; raise it"
    )
  parameters = {"share": share, "seed": SHARE_SEED}
  return dataclasses.replace(
    split,
    train=train,
    sha256=_digest_of_part(split, parameters),
    parameters={**split.parameters, "share": share},
  )


SPLITS: dict[str, Callable[..., Split]] = {
  "leave_one_out": leave_one_out,
  "ratio": ratio,
  "temporal": temporal,
  "none": everything,
}
# The fields of config.split that a kind reads.
PARAMETERS = {
  "ratio": ("validation_share", "test_share"),
  "temporal": ("validation_share", "test_share", "gap"),
}


def manifest(split: Split, log: Interactions) -> dict[str, Any]:
  """What a split is, for people and programs: JSON, counts and no ids.

  Args:
    split: of `log`.
    log: all interactions, held-out ones included.

  Returns:
    kind, parameters, sha256; users, items and interactions of the log; cut_times and
    log_times {first, last}, ISO 8601 in UTC, None where they are not known or not
    used; train {users, items, interactions}: those that training sees; validation and
    test, None where nothing is held out: {requests, repeated_targets (in the
    request's own history), cold_targets (never in training), untrained_users (no
    interaction in training)}. Of a split that withholds items also withheld_items.
  """
  bought_I = np.bincount(split.train.item_E, minlength=log.num_items)
  length_U = split.train.length_U

  def asked(requests: Requests | None):
    # A set without requests is false, and not the same as none.
    return (
      None
      if requests is None
      else {
        "requests": len(requests),
        "repeated_targets": int(requests.repeated_N.sum()),
        "cold_targets": int((bought_I[requests.target_N] == 0).sum()),
        "untrained_users": int((length_U[requests.user_N] == 0).sum()),
      }
    )

  def iso(seconds: dict[str, int] | None):
    return seconds and {name: _iso(second) for name, second in seconds.items()}

  times = log.time_E
  known = times is not None and len(times)
  withheld = {}
  if split.withheld_I is not None:
    withheld["withheld_items"] = int(split.withheld_I.sum())
  return {
    "kind": split.kind,
    "parameters": dict(split.parameters),
    "sha256": split.sha256,
    "users": log.num_users,
    "items": log.num_items,
    "interactions": len(log.item_E),
    "log_times": iso({"first": times.min(), "last": times.max()} if known else None),
    "cut_times": iso(split.cut_times),
    "train": {
      "users": int((length_U > 0).sum()),
      "items": int((bought_I > 0).sum()),
      "interactions": len(split.train.item_E),
    },
    "validation": asked(split.validation),
    "test": asked(split.test),
  } | withheld


def _requests(log: Interactions, user_N: np.ndarray, place_N: np.ndarray) -> Requests:
  """Asks for the item at a place of each user's row, after those before it."""
  start_N = log.offset_U1[user_N]
  return Requests(
    user_N=user_N.astype(np.int32),
    offset_N1=np.concatenate([[0], np.cumsum(place_N)]),
    item_E=concatenate_rows(log.item_E, start_N, place_N),
    target_N=log.item_E[start_N + place_N],
  )


def _check_shares(validation_share: float, test_share: float) -> None:
  low, total = min(validation_share, test_share), validation_share + test_share
  if not (low > 0 and total < 1):
    raise UserError(
      f"config.split.validation_share ({validation_share}) and test_share "
      f"({test_share}) must be above 0 and together below 1: training has the rest"
    )


def _digest(
  kind: str, log: Interactions, parameters: dict[str, float] | None = None
) -> str:
  """SHA-256 of the kind and of the log by raw ids: what makes two runs comparable.

  Times are part of a log that has them.
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


def _digest_of_part(split: Split, parameters: dict[str, float]) -> str:
  """SHA-256 of a split of which less is learned or asked."""
  named = f"{split.sha256} {json.dumps(parameters, sort_keys=True)}"
  return hashlib.sha256(named.encode()).hexdigest()


def _iso(seconds: int) -> str:
  return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).isoformat()
