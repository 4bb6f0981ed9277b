"""Ranks items by the mean of several models' log-probabilities, a product of experts.

Each model recommends a few items by its own search. The union of these lists is scored
by every model, as its own search or softmax would. Up to a constant of the request the
mean of log-probabilities is the logarithm of the probabilities' geometric mean (Hinton
2002, "Training products of experts by minimizing contrastive divergence").
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding.allowed import Allowed, Recommendations
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems.base import Built, HasLikelihood, System, in_catalogue_order
from lightlm_jax.systems.id_writer import IdWriter
from lightlm_jax.systems.item_scores import (
  ItemScorer,
  allowed_items,
  top_candidates,
  top_items,
)

LISTED = 40  # items that each model lists, unless more are wanted


class Tables(NamedTuple):
  """A model's own tables, and where its code order has the items of the catalogue."""

  own: Any
  rank_I: jax.Array  # int32


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ensemble(System):
  """The system `ensemble`; parameters and tables are tuples, one entry a model."""

  name: str = "ensemble"
  members: tuple[System, ...]

  def recommend(
    self,
    params: tuple,
    tables: tuple[Tables, ...],
    batch: Batch,
    allowed: Allowed,
    *,
    k: int,
  ) -> Recommendations:
    """Returns the K best of the items that any of the models lists."""
    asked = [
      _ask(member, own, table, batch, allowed)
      for member, own, table in zip(self.members, params, tables, strict=True)
    ]
    listed = [list_best(k=max(k, LISTED)) for list_best, _ in asked]
    items_BX = _joined([found.items_BK for found in listed])
    valid_BX = _joined([found.valid_BK for found in listed])
    earlier_XX = jnp.tri(items_BX.shape[1], k=-1, dtype=bool)
    same_BXX = items_BX[:, :, None] == items_BX[:, None]
    valid_BX &= ~(same_BXX & earlier_XX[None]).any(axis=2)
    log_p_MBX = []
    for place, (own, (_, log_p_of)) in enumerate(zip(listed, asked, strict=True)):
      others = [*listed[:place], *listed[place + 1 :]]
      items_BY = _joined([jnp.maximum(found.items_BK, 0) for found in others])
      before, after = jnp.split(log_p_of(items_BY), [place * own.items_BK.shape[1]], 1)
      log_p_MBX.append(_joined([before, own.scores_BK, after]))
    return top_candidates(items_BX, jnp.stack(log_p_MBX).mean(axis=0), valid_BX, k)


def build(members: list[Built]) -> Built:
  """Builds the system from trained models of the same catalogue.

  Raises:
    UserError: a model's scores are no probabilities.
  """
  for member in members:
    writes = isinstance(member.system, IdWriter)
    scores = isinstance(member.system, ItemScorer)
    if not (isinstance(member.system, HasLikelihood) and (writes or scores)):
      raise UserError(
        f"{member.system.name} gives no probabilities that could be averaged; choose "
        "members of lightlm (of one code book), lite_llm4rec, item_decoder, sasrec or "
        "bsarec, decoded by beams"
      )
  histories = [member.system.max_history for member in members]
  longest = max((h for h in histories if h is not None), default=None)
  system = Ensemble(
    members=tuple(member.system for member in members),
    max_history=None if None in histories else longest,
  )
  tables = tuple(
    Tables(member.tables, jnp.asarray(member.rank_I)) for member in members
  )
  return in_catalogue_order(system, tables, len(members[0].rank_I))


def _joined(value_BK: Sequence[jax.Array]) -> jax.Array:
  return jnp.concatenate(value_BK, axis=1)


def _ask(
  system: Any, params: Any, tables: Tables, batch: Batch, allowed: Allowed
) -> tuple[Callable[..., Recommendations], Callable[[jax.Array], jax.Array]]:
  """Returns a model's answers: (k → its best items, items [B, X] → their log p)."""
  allowed = _in_code_order(tables.rank_I, allowed)
  batch = _newest(batch, system.max_history)
  if isinstance(system, IdWriter):
    asked = system.decoder(params, tables.own, batch), tables.own, allowed
    found, scores_of = system.found, system.scores_of
    return functools.partial(found, *asked), functools.partial(scores_of, *asked)
  log_p_BI = jax.nn.log_softmax(system.scores(params, tables.own, batch))
  allowed_BI = allowed_items(allowed, log_p_BI.shape[1])
  list_best = functools.partial(top_items, log_p_BI, allowed_BI)
  return list_best, functools.partial(jnp.take_along_axis, log_p_BI, axis=1)


def _in_code_order(rank_I: jax.Array, allowed: Allowed) -> Allowed:
  """Converts `allowed` from the order of the catalogue to a model's code order."""
  prefix_MI1, num_items = allowed.prefix_MI1, rank_I.shape[0]
  if prefix_MI1.shape[0]:
    open_MI = jnp.diff(prefix_MI1, axis=1)
    open_MR = jnp.zeros_like(open_MI).at[:, rank_I].set(open_MI[:, :num_items])
    prefix_MI1 = jnp.pad(jnp.cumsum(open_MR, axis=1), ((0, 0), (1, 0)))
  excluded_BE = jnp.append(rank_I, num_items)[allowed.excluded_BE]
  return Allowed(prefix_MI1, allowed.mask_B, jnp.sort(excluded_BE, axis=1))


def _newest(batch: Batch, max_history: int | None) -> Batch:
  """Returns the batch with the last `max_history` items of each history."""
  width = batch.history_BH.shape[1]
  first = 0 if max_history is None else max(width - max_history, 0)
  return batch._replace(
    history_BH=batch.history_BH[:, first:], segment_BH=batch.segment_BH[:, first:]
  )
