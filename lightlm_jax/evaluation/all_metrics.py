"""All that the results hold about one system on one set of requests."""

import time
from typing import Any

from jax.sharding import Mesh
import numpy as np

from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.evaluation import evaluator, exposure, slices, uncertainty, users
from lightlm_jax.evaluation.evaluator import Ranks
from lightlm_jax.systems.base import Built, ScoresItems


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
  """Evaluates the requests by both rules.

  Args:
    built: the system.
    params: its parameters, on the device.
    split: popularity is counted in its training log.
    requests: of the split.
    batch_size: requests in a batch.
    mesh: devices that share a batch.
    code_IL: the items' hierarchical ids, for the diversity of lists; None = none.
    k: recommendations in a list; metrics at more are those of a list of k.

  Returns:
    Fields of the results, and the rank of each target. The fields are
    users_per_second, metrics {rule: …}, intervals {rule: {metric: [low, high]}} (95 %,
    over users), slices {rule: {dimension: {slice: {users, mean}}}}, repeated_targets
    (requests whose target is in their history, a miss where seen items are excluded),
    exposure {rule: …}.
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
  values = {rule: users.values(r.rank_N, r.ties_N) for rule, r in ranks.items()}
  # Scores of all items serve both rules at once; a search is made for each.
  passes = 1 if isinstance(built.system, ScoresItems) else len(evaluator.RULES)
  found = {
    "users_per_second": passes * len(requests) / seconds,
    "metrics": evaluator.summarise_rules(ranks),
    "intervals": {
      rule: {
        name: list(uncertainty.interval(value_N)) for name, value_N in metrics.items()
      }
      for rule, metrics in values.items()
    },
    "slices": {
      rule: slices.summarise(metrics, labels) for rule, metrics in values.items()
    },
    "repeated_targets": int(requests.repeated_N.sum()),
    "exposure": {
      rule: exposure.summarise(r.items_NK, bought_I, code_IL)
      for rule, r in ranks.items()
      if r.items_NK is not None
    },
  }
  return found, ranks
