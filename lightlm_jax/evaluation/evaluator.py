"""Ranks each request's target among all items, for any system, under two rules.

Rule `seen_excluded`: items of the request's whole history cannot be recommended, and a
target among them is a miss. Rule `seen_allowed`: every item can be recommended.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.evaluation.metrics import summarise
from lightlm_jax.inference import batched_inference
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import item_scores
from lightlm_jax.systems.base import Built, ScoresItems, System

RULES = ("seen_excluded", "seen_allowed")
K = 20  # length of the lists: the largest cut-off of the metrics


class Ranks(NamedTuple):
  """The rank of each request's target; int32 arrays in the order of the requests."""

  rank_N: np.ndarray  # 1 + the number of items strictly above the target; 0 = miss
  ties_N: np.ndarray  # the number of other items with exactly the target's score
  # The recommended items, padded with -1; equal scores by ascending index (no metric
  # depends on that). None = no lists were made.
  items_NK: np.ndarray | None = None


def evaluate(
  built: Built,
  params: Any,
  requests: Requests,
  *,
  num_items: int,
  batch_size: int,
  k: int = K,
  mesh: Mesh | None = None,
  rules: Sequence[str] = RULES,
  lists: bool = True,
  allowed_I: np.ndarray | None = None,
  user_ids: np.ndarray | None = None,
) -> dict[str, Ranks]:
  """Ranks every request's target among all items, or among a candidate set.

  For a system that scores every item, the items that score above the target or equal
  to it are counted. For other systems the rank is the target's position in the list
  from `recommend`; a target without a valid position in that list is a miss.

  Args:
    built: the system; its method `prepare`, if any, runs once for all batches.
    params: its parameters, on the device.
    requests: N > 0 requests, each with a target.
    num_items: I, the size of the catalogue.
    batch_size: requests in a batch; with a mesh a multiple of its "data" axis.
    k: length of the lists; it does not limit ranks that are counted from scores.
    mesh: devices that share each batch along the axis "data"; None = one device.
    rules: the rules to evaluate, out of `RULES`; they are the keys of the result.
    lists: whether to return lists; if ranks come from lists, they are always returned.
    allowed_I: bool, true for the items that can be recommended; any other target is a
      miss. None = all.
    user_ids: raw ids, for error messages; None = users are named by index.

  Raises:
    UserError: no requests, a batch size that the mesh does not divide, or a NaN score.
  """
  _check(built, requests, num_items, batch_size, mesh)
  copied = batched_inference.everywhere(mesh)
  params, built = batched_inference.prepared(built, params, mesh)
  system = built.system
  count, catalogue = program(
    built, k=k, rules=rules, lists=lists, allowed_I=allowed_I, everywhere=copied
  )
  catalogue = batched_inference.put(catalogue, copied)

  def ask(batch, excluded_BE):
    return count(params, built.tables, batch, catalogue, excluded_BE)

  result_R2N = np.zeros((len(rules), 2, len(requests)), dtype=np.int32)
  lists_RNK: Any = [None] * len(rules)
  if lists or not isinstance(system, ScoresItems):
    lists_RNK = np.full((len(rules), len(requests), k), -1, dtype=np.int32)
  for index, (result_R2B, nan_B, *items_RBK) in batched_inference.answers(
    ask, built, requests, batch_size=batch_size, mesh=mesh
  ):
    batched_inference.refuse_nan(
      system, requests.user_N[index], nan_B[: len(index)], user_ids
    )
    result_R2N[..., index] = result_R2B[..., : len(index)]
    if items_RBK:
      shown_RBK = items_RBK[0][:, : len(index)]
      lists_RNK[:, index, : shown_RBK.shape[2]] = shown_RBK

  if "seen_excluded" in rules:
    result_R2N[rules.index("seen_excluded"), :, requests.repeated_N] = 0
  if allowed_I is not None:
    result_R2N[..., ~allowed_I[requests.target_N]] = 0
  return {
    rule: Ranks(result_2N[0], result_2N[1], items_NK)
    for rule, result_2N, items_NK in zip(rules, result_R2N, lists_RNK)
  }


def program(
  built: Built,
  *,
  k: int = K,
  rules: Sequence[str] = RULES,
  lists: bool = True,
  allowed_I: np.ndarray | None = None,
  everywhere: NamedSharding | None = None,
) -> tuple[Callable, Any]:
  """Returns a jitted program to rank a batch's targets, and its argument `catalogue`.

  The program maps (params, tables, batch, catalogue, excluded_BE) to ranks and ties,
  int32 [rules, 2, B]; a bool [B], true for requests with a NaN score; and the items of
  lists, [rules, B, K], if `lists` is true or ranks come from lists. `tables` is
  `built.tables`. `catalogue`, on the host, says which items can be recommended.
  `everywhere` is the results' sharding, None = one device; the rest as in `evaluate`.
  """
  system, rank_I = built.system, built.rank_I
  if isinstance(system, ScoresItems):
    item_of_rank_I = np.argsort(rank_I).astype(np.int32)
    allowed_I = np.ones(len(rank_I), bool) if allowed_I is None else allowed_I
    shown = min(k, len(rank_I)) if lists else 0
    counter = _counter(system, tuple(rules), shown, everywhere)
    return counter, (item_of_rank_I, allowed_I)
  catalogue = allowed_lib.no_shared_mask()
  if allowed_I is not None:
    catalogue = allowed_lib.shared_masks(allowed_I[None], rank_I)
  return _finder(system, tuple(rules), k, everywhere), catalogue


def mean(
  built: Built, params: Any, requests: Requests, of: str, *, batch_size: int, mesh: Mesh
) -> float:
  """Returns the float64 mean of the values that a system's method gives for requests.

  Args:
    built, params, requests, batch_size, mesh: see `evaluate`.
    of: the method's name. "nll" gives -log p(target | source) in nats. The softmax
      includes seen items, as in training, and the means of systems can be compared.
      "invalid_beams" is true for beams of an unconstrained search that are no item id.
  """
  copied = batched_inference.everywhere(mesh)
  params, built = batched_inference.prepared(built, params, mesh)
  method = batched_inference.compiled(built.system, of, copied)

  def ask(batch, excluded_BE):
    return method(params, built.tables, batch)

  total = count = 0
  for index, values in batched_inference.answers(
    ask, built, requests, batch_size=batch_size, mesh=mesh
  ):
    total += float(values[: len(index)].sum(dtype=np.float64))
    count += values[: len(index)].size
  return total / count


def summarise_rules(ranks: dict[str, Ranks]) -> dict[str, dict[str, float]]:
  """Returns {rule: {metric: mean over requests}} from the result of `evaluate`."""
  return {rule: summarise(r.rank_N, r.ties_N) for rule, r in ranks.items()}


@functools.lru_cache(maxsize=16)
def _counter(
  system: ScoresItems, rules: tuple[str, ...], shown: int, out: NamedSharding | None
) -> Callable:
  """Returns a jitted program that counts items with a target's score or a higher one.

  It counts for each rule, and also returns the `shown` best items unless `shown` is 0.
  `out` is the sharding of the results, None = one device.
  """

  def count(params, tables, batch, catalogue, excluded_BE):
    item_of_rank_I, allowed_I = catalogue
    num_items = len(item_of_rank_I)
    # Forces one copy of the scores: recomputed in several fusions, the same sum may be
    # rounded differently, so that an item lies above itself.
    scores_BI = jax.lax.optimization_barrier(system.scores(params, tables, batch))
    if scores_BI.shape[1] != num_items:
      raise ValueError(f"scores of {scores_BI.shape[1]} items, not {num_items}")
    target_B1 = jnp.maximum(batch.target_B, 0)[:, None]
    score_B1 = jnp.take_along_axis(scores_BI, target_B1, axis=1)
    other_BI = (jnp.arange(num_items)[None] != target_B1) & allowed_I[None]
    rank_B = 1 + jnp.sum(other_BI & (scores_BI > score_B1), axis=1, dtype=jnp.int32)
    ties_B = jnp.sum(other_BI & (scores_BI == score_B1), axis=1, dtype=jnp.int32)

    is_item_BE = excluded_BE < num_items
    seen_BE = item_of_rank_I[jnp.minimum(excluded_BE, num_items - 1)]
    is_item_BE &= allowed_I[seen_BE]
    seen_score_BE = jnp.take_along_axis(scores_BI, seen_BE, axis=1)
    seen_above_BE = is_item_BE & (seen_score_BE > score_B1)
    seen_level_BE = is_item_BE & (seen_score_BE == score_B1)
    by_rule = {
      "seen_excluded": (
        rank_B - jnp.sum(seen_above_BE, axis=1, dtype=jnp.int32),
        ties_B - jnp.sum(seen_level_BE, axis=1, dtype=jnp.int32),
      ),
      "seen_allowed": (rank_B, ties_B),
    }
    result_R2B = jnp.stack([jnp.stack(by_rule[rule]) for rule in rules])
    is_nan_B = jnp.any(jnp.isnan(scores_BI), axis=1)
    if not shown:
      return result_R2B, is_nan_B

    all_BI = jnp.broadcast_to(allowed_I[None], scores_BI.shape)
    row_B1 = jnp.arange(len(all_BI))[:, None]
    # Padding has the index num_items, outside the row, and is dropped.
    unseen_BI = all_BI.at[row_B1, jnp.where(is_item_BE, seen_BE, num_items)].set(
      False, mode="drop"
    )
    allowed_BI = {"seen_excluded": unseen_BI, "seen_allowed": all_BI}
    tops = (item_scores.top_items(scores_BI, allowed_BI[r], shown) for r in rules)
    return result_R2B, is_nan_B, jnp.stack([top.items_BK for top in tops])

  return jax.jit(count, out_shardings=out)


@functools.lru_cache(maxsize=16)
def _finder(
  system: System, rules: tuple[str, ...], k: int, out: NamedSharding | None
) -> Callable:
  """Returns a jitted program that finds targets in lists of k items; see `_counter`."""

  def find(params, tables, batch, prefix_MI1, excluded_BE):
    excluded = {"seen_excluded": excluded_BE, "seen_allowed": excluded_BE[:, :0]}
    rank_RB, nan_RB, items_RBK = [], [], []
    for rule in rules:
      allowed = Allowed(prefix_MI1, jnp.zeros_like(batch.target_B), excluded[rule])
      best = system.recommend(params, tables, batch, allowed, k=k)
      hit_BK = best.valid_BK & (best.items_BK == batch.target_B[:, None])
      first_B = jnp.argmax(hit_BK, axis=1).astype(jnp.int32)
      rank_RB.append(jnp.where(jnp.any(hit_BK, axis=1), 1 + first_B, 0))
      nan_RB.append(jnp.any(jnp.isnan(best.scores_BK), axis=1))
      items_RBK.append(best.items_BK)
    rank_RB = jnp.stack(rank_RB)
    result_R2B = jnp.stack([rank_RB, jnp.zeros_like(rank_RB)], axis=1)
    return result_R2B, jnp.any(jnp.stack(nan_RB), axis=0), jnp.stack(items_RBK)

  return jax.jit(find, out_shardings=out)


def _check(
  built: Built, requests: Requests, num_items: int, batch_size: int, mesh: Mesh | None
) -> None:
  if not len(requests):
    raise UserError(
      "there is nothing to evaluate: the split holds no requests; "
      "give users with at least 3 interactions or another split.kind"
    )
  if mesh is not None and batch_size % mesh.shape["data"]:
    raise UserError(
      f"batches of {batch_size} requests do not divide over the {mesh.shape['data']} "
      "devices of mesh.data; choose a batch size that is a multiple of it"
    )
  if len(built.rank_I) != num_items:
    name = built.system.name
    raise ValueError(f"{name} ranks {len(built.rank_I)} of {num_items} items")
