"""The interface of a system, as used by training, evaluation and serving.

A system is a frozen dataclass of shapes and settings. It has no arrays. It is a static
argument of compiled programs, so equal systems share a program. A system that writes
ids does not hold the number of items: it stays equal while a catalogue grows within its
capacity (see decoding/trie.py) with the same vocabulary. Each ability beyond
`recommend` is a protocol below, to be tested as `isinstance(system, ScoresItems)`. All
methods but `fit` are pure functions of arrays and can be compiled. `tables` is a pytree
of the device arrays that a system needs beside its parameters (codes, trie, …).
"""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import flax.linen as nn
import jax
import numpy as np

from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.packing import Rows
from lightlm_jax.decoding.allowed import Allowed, Recommendations

Metrics = dict[str, Any]  # name → scalar array
Loss = tuple[jax.Array, Metrics]


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  """A recommender: shapes and settings only; its arrays are passed to its methods."""

  name: str  # as in `config.system`
  # "target": each interaction is the target of one example; "drawn": equally many
  # examples, each target drawn from all items of the user; "sequence": an example is a
  # row of packed histories, each position has a loss; None: `Fitted`, has no examples.
  example: str | None = None
  # How many of the last items are read: 0 = only the user, None = all.
  max_history: int | None = None

  def recommend(
    self, params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """Returns the K best allowed items of each request."""
    raise NotImplementedError(f"{self.name} makes no lists")


class Built(NamedTuple):
  """A system with its arrays for one catalogue and one training log."""

  system: System
  tables: Any  # padded to capacities: a catalogue of similar size needs no compilation
  rank_I: np.ndarray  # int32, each item's place in the order of the codes
  rows: Rows | None = None  # how training examples share rows; None = one example a row
  prepared: bool = False  # whether `tables` are the result of `SharesWork.prepare`


def apply(net: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
  """Runs a Flax module with `params`; passes other arguments to `net.apply`."""
  return net.apply({"params": params}, *args, **options)


def in_catalogue_order(system: System, tables: Any, num_items: int) -> Built:
  """Returns `Built` for a system without item codes: `rank_I` is 0, …, I - 1."""
  return Built(system, tables, np.arange(num_items, dtype=np.int32))


@runtime_checkable
class Trainable(Protocol):
  """A system trained by gradient descent, from the parameters of `init`."""

  def init(self, rng: jax.Array) -> Any: ...

  def loss(self, params: Any, tables: Any, batch: Batch, rng: jax.Array) -> Loss:
    """Returns the scalar loss and the counts {"tokens", "capacity_tokens"}.

    "tokens" counts the positions read and, unless examples are rows of histories, the
    positions written. "capacity_tokens" counts padding too.
    """
    ...


@runtime_checkable
class Fitted(Protocol):
  """A system whose parameters are computed in closed form, on the host."""

  def fit(self, train: Interactions) -> Any: ...


@runtime_checkable
class ScoresItems(Protocol):
  """A system whose `scores` gives every item a score, [B, I] float32."""

  def scores(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class HasLikelihood(Protocol):
  """A system whose `nll` returns -log p(target | request) in nats, [B] float32.

  p is a distribution over all items or, if the system writes ids and its loss is over
  the vocabulary, over all token sequences, including those that are no item's id.
  """

  def nll(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class Calibrates(HasLikelihood, Protocol):
  """A system of which some parameters are fitted to held-out requests after training.

  `calibration` returns their values before, by name: the temperatures' logarithms,
  which training has no use for, and biases that training has learned.
  """

  def calibration(self, params: Any) -> dict[str, jax.Array]: ...


@runtime_checkable
class HasState(Protocol):
  """A system whose `state` returns a hidden state per request, [B, D] float32."""

  def state(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class WritesFreely(Protocol):
  """A system whose beam search can do without the trie of the items' ids.

  `invalid_beams` returns which beams of such a search are no item's id, [B, K] bool.
  """

  def invalid_beams(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class SharesWork(Protocol):
  """A system with values that serve all requests, such as the items' vectors.

  `prepare` returns `tables` with these values: other methods need not compute them.
  """

  def prepare(self, params: Any, tables: Any) -> Any: ...
