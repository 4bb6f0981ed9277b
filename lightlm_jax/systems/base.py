"""The interface of a system, as training, evaluation and serving see it.

A system is a value: a frozen dataclass of shapes and settings, without arrays. Systems
built from the same configuration over catalogues of the same capacity are equal, and
share every compiled program, whose static key they are. Optional abilities, beyond
`recommend`, are the protocols below: ask `isinstance(system, ScoresItems)`.

All methods but `fit` are pure functions of arrays and can be compiled.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
  """A recommender.

  Its methods take `tables`: a pytree of device arrays that it needs beside its
  parameters (codes, trie, …), see `Built`.

  Attributes:
    name: as in `config.system`.
    example: "target" (one example a position), "drawn" (as many, the target any
      item of the user), "sequence" (a row of packed histories, every position trained),
      or None for systems that are fitted.
    max_history: how many of the last items it reads, 0 = the user alone; None = all.
  """

  name: str
  example: str | None = None
  max_history: int | None = None

  def recommend(
    self, params: Any, tables: Any, batch: Batch, allowed: Allowed, *, k: int
  ) -> Recommendations:
    """The K best items that each request may get."""
    raise NotImplementedError(f"{self.name} makes no lists")


class Built(NamedTuple):
  """A system with its arrays for one catalogue and one training log.

  Attributes:
    system: see `System`.
    tables: a pytree of arrays, padded to capacities, so that another catalogue of about
      the same size compiles nothing.
    rank_I: [I] int32 numpy, each catalogue item's place in code order.
    rows: how training examples share rows; None = each has its own.
    prepared: whether `tables` already hold what `SharesWork.prepare` adds.
  """

  system: System
  tables: Any
  rank_I: np.ndarray
  rows: Rows | None = None
  prepared: bool = False


def apply(net: nn.Module, params: Any, *args: Any, **options: Any) -> Any:
  """`net.apply` with these parameters, of a module that changes no variables."""
  return net.apply({"params": params}, *args, **options)


def in_catalogue_order(system: System, tables: Any, num_items: int) -> Built:
  """A built system without codes: items are counted in catalogue order."""
  return Built(system, tables, np.arange(num_items, dtype=np.int32))


@runtime_checkable
class Trainable(Protocol):
  """Learns by gradient."""

  def init(self, rng: jax.Array) -> Any:
    """Untrained parameters."""
    ...

  def loss(
    self, params: Any, tables: Any, batch: Batch, rng: jax.Array
  ) -> tuple[jax.Array, Metrics]:
    """A scalar, and counts of the batch.

    "tokens": tokens in the batch (items, where an item is one token);
    "capacity_tokens": tokens it has room for, padding included.
    """
    ...


@runtime_checkable
class Fitted(Protocol):
  """Learns in closed form, on the host."""

  def fit(self, train: Interactions) -> Any:
    """The parameters."""
    ...


@runtime_checkable
class ScoresItems(Protocol):
  """Scores every item; the evaluator counts items above and level with the target."""

  def scores(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """[B, I] float32."""
    ...


@runtime_checkable
class HasLikelihood(Protocol):
  """Its scores are logits."""

  def nll(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """[B] float32: -log p(target | source) in nats, over all possible outputs."""
    ...


@runtime_checkable
class HasState(Protocol):
  """Has a hidden state of a request, see decoding/latent.py."""

  def state(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """[B, D] float32."""
    ...


@runtime_checkable
class WritesFreely(Protocol):
  """Can write ids without the trie."""

  def invalid_beams(self, params: Any, tables: Any, batch: Batch) -> jax.Array:
    """[B, K] bool: which beams of an unconstrained search are no item."""
    ...


@runtime_checkable
class SharesWork(Protocol):
  """Does part of its work once for all requests."""

  def prepare(self, params: Any, tables: Any) -> Any:
    """The tables with that part, such as the items' vectors.

    Given in place of `tables`, they make `scores` and `recommend` faster, and change
    no answer.
    """
    ...
