"""Systems for tests, with compiled methods or made of a function; and the feed."""

from collections.abc import Callable
import dataclasses

import jax

from lightlm_jax.data import feed
from lightlm_jax.systems import base, item_scores

METHODS = (
  "init loss scores nll state prepare invalid_beams exact_scores recommend".split()
)
gather = jax.jit(feed.gather, static_argnames=("plan", "bucket"))


class Compiled:
  """A built system: its tables and so on, and its methods, compiled.

  Attributes:
    built: the system as it is.
  """

  def __init__(self, built: base.Built):
    self.built = built

  def __getattr__(self, name):
    if name in base.Built._fields:
      return getattr(self.built, name)
    value = getattr(self.built.system, name)
    if name in METHODS:
      value = jax.jit(value, static_argnames="k" if name == "recommend" else ())
      setattr(self, name, value)
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored(item_scores.ItemScorer):
  """Scores items by a function of params, tables and batch."""

  name: str = "fake"
  function: Callable

  def scores(self, params, tables, batch):
    return self.function(params, tables, batch)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listed(base.System):
  """Makes lists by a function, and scores nothing."""

  name: str = "lists"
  function: Callable

  def recommend(self, params, tables, batch, allowed, *, k):
    return self.function(params, tables, batch, allowed, k=k)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithoutScores(base.System):
  """Another system's lists, without its scores."""

  name: str = "lists"
  of: base.System

  def recommend(self, params, tables, batch, allowed, *, k):
    return self.of.recommend(params, tables, batch, allowed, k=k)


def without_scores(built: base.Built) -> base.Built:
  """The same lists, ranked by their places."""
  of = built.system
  return built._replace(system=WithoutScores(of=of, max_history=of.max_history))
