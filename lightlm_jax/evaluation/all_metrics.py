"""Computes the metrics in results.json, for a run's system and for its baselines."""

from collections.abc import Iterable, Iterator
import time
from typing import Any

from jax.sharding import Mesh
import numpy as np

from lightlm_jax.data.interactions import Interactions
from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.evaluation import evaluator, exposure, slices, uncertainty, users
from lightlm_jax.evaluation.evaluator import Ranks
from lightlm_jax.systems.base import Built, Fitted, ScoresItems


def all_metrics(
  built: Built,
  params: Any,
  split: Split,
  requests: Requests,
  *,
  batch_size: int,
  mesh: Mesh,
  code_IL: np.ndarray | None = None,
  k: int = evaluator.K,
) -> tuple[dict[str, Any], dict[str, Ranks]]:
  """Evaluates a system with seen items excluded and with seen items allowed.

  Args:
    built, params, requests, batch_size, mesh: see `evaluator.evaluate`.
    split: its training interactions define the popularity of items.
    code_IL: the items' hierarchical ids, for diversity; None = no such metric.
    k: length of the lists; if ranks come from lists, targets after place k are misses.

  Returns:
    A dict of fields of results.json, and the `Ranks` of each rule, "seen_excluded" and
    "seen_allowed". Fields: users_per_second; metrics {rule: {metric: mean}}; intervals
    {rule: {metric: [low, high]}} (95 %, over users); slices {rule: {dimension: {slice:
    {users, mean}}}}; repeated_targets (number of requests whose history has the target;
    they are misses if seen items are excluded); exposure {rule: {metric: value}}.
  """
  began = time.monotonic()
  ranks = evaluator.evaluate(
    built,
    params,
    requests,
    num_items=split.train.num_items,
    batch_size=batch_size,
    k=k,
    mesh=mesh,
    user_ids=split.train.user_ids,
  )
  seconds = time.monotonic() - began
  bought_I = np.bincount(split.train.item_E, minlength=split.train.num_items)
  labels = slices.label(requests, split.train)
  # One scoring of all items serves both rules; a search is run for each.
  passes = 1 if isinstance(built.system, ScoresItems) else len(evaluator.RULES)
  found = {
    "users_per_second": passes * len(requests) / seconds,
    "metrics": evaluator.summarise_rules(ranks),
    "intervals": {},
    "slices": {},
    "repeated_targets": int(requests.repeated_N.sum()),
    "exposure": {},
  }
  for rule, (rank_N, ties_N, items_NK) in ranks.items():
    assert items_NK is not None
    values = users.values(rank_N, ties_N)
    intervals = {name: list(uncertainty.interval(v_N)) for name, v_N in values.items()}
    found["intervals"][rule] = intervals
    found["slices"][rule] = slices.summarise(values, labels)
    found["exposure"][rule] = exposure.summarise(items_NK, bought_I, code_IL)
  return found, ranks


def baselines(
  systems: Iterable[Built], split: Split, *, batch_size: int, mesh: Mesh
) -> dict[str, dict[str, dict[str, float]]]:
  """Fits systems on the training interactions and evaluates them on the test split.

  Returns:
    {name: {rule: {metric: mean}}}, the rule being seen_excluded or seen_allowed.
  """
  assert split.test is not None
  results = {}
  for built in systems:
    assert isinstance(built.system, Fitted)
    ranks = evaluator.evaluate(
      built,
      built.system.fit(split.train),
      split.test,
      num_items=split.train.num_items,
      batch_size=batch_size,
      mesh=mesh,
      lists=False,
      user_ids=split.train.user_ids,
    )
    results[built.system.name] = evaluator.summarise_rules(ranks)
  return results


def samples(
  requests: Requests, ranks: Ranks, log: Interactions, titles: list[str] | None
) -> Iterator[str]:
  """Yields text on the first three requests: last items, recommendations, target."""
  assert ranks.items_NK is not None

  def names(items: np.ndarray) -> str:
    raw = log.item_ids
    return ", ".join((titles[i] if titles else "") or f"item {raw[i]}" for i in items)

  for n, items_K in enumerate(ranks.items_NK[:3, :3]):
    user, bought = log.user_ids[requests.user_N[n]], names(requests.target_N[n : n + 1])
    yield f"user {user} had … {names(requests.row(n)[-3:])}"
    yield f"  next: {names(items_K[items_K >= 0])}   (bought: {bought})"
