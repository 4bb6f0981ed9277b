"""The interface of a system, as training, evaluation and serving see it.

A system is a value: a frozen dataclass of shapes and settings, without arrays. Systems
built from the same configuration over catalogues of the same capacity are equal, and
share every compiled program, whose static key they are. Abilities beyond `recommend`
are the protocols below: ask `isinstance(system, ScoresItems)`. All methods but `fit`
are pure functions of arrays and can be compiled. `tables` are a pytree of device arrays
that a system needs beside its parameters (codes, trie, …).
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
  """A recommender."""

  name: str  # as in `config.system`
  # "target": one example a position; "drawn": as many, the target any item of the user;
  # "sequence": a row of packed histories, every position trained; None: it is fitted.
  example: str | None = None
  max_history: int | None = None  # last items that it reads, 0 = the user alone

  def recommend(
    self, params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """The K best items that each request may get."""
    raise NotImplementedError(f"{self.name} makes no lists")


class Built(NamedTuple):
  """A system with its arrays for one catalogue and one training log."""

  system: System
  tables: Any  # padded to capacities, so that a catalogue of like size compiles nothing
  rank_I: np.ndarray  # int32, each catalogue item's place in code order
  rows: Rows | None = None  # how training examples share rows; None = each has its own
  prepared: bool = False  # whether `tables` hold what `SharesWork.prepare` adds


def apply(net: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
  """Returns `net.apply` with these parameters; the module changes no variables."""
  return net.apply({"params": params}, *args, **options)


def in_catalogue_order(system: System, tables: Any, num_items: int) -> Built:
  """A built system without codes: items are counted in catalogue order."""
  return Built(system, tables, np.arange(num_items, dtype=np.int32))


@runtime_checkable
class Trainable(Protocol):
  """Learns by gradient from untrained parameters."""

  def init(self, rng: jax.Array) -> Any: ...

  def loss(self, params: Any, tables: Any, batch: Batch, rng: jax.Array) -> Loss:
    """A scalar, and counts of the batch: "tokens" in it (items, where an item is one
    token), and "capacity_tokens", for which it has room, padding included.
    """
    ...


@runtime_checkable
class Fitted(Protocol):
  """Learns its parameters in closed form, on the host."""

  def fit(self, train: Interactions) -> Any: ...


@runtime_checkable
class ScoresItems(Protocol):
  """Scores every item, [B, I] float32; the evaluator counts those above the target."""

  def scores(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class HasLikelihood(Protocol):
  """Gives -log p(target | source) in nats, over all possible outputs, [B] float32."""

  def nll(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class HasState(Protocol):
  """Has a hidden state of a request, [B, D] float32, see decoding/latent.py."""

  def state(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class WritesFreely(Protocol):
  """Tells which beams of a search without the trie are no item, [B, K] bool."""

  def invalid_beams(self, params: Any, tables: Any, batch: Batch) -> jax.Array: ...


@runtime_checkable
class SharesWork(Protocol):
  """Does part of its work once for all requests, such as the items' vectors.

  The tables with the results of it make other methods faster and change no answer.
  """

  def prepare(self, params: Any, tables: Any) -> Any: ...
