"""What a report says of one system on one set of requests."""

import time
from typing import Any

from jax.sharding import Mesh
import numpy as np

from lightlm_jax.data.splits import Requests, Split
from lightlm_jax.evaluation import evaluator, exposure
from lightlm_jax.systems.base import System


def judge(
  system: System,
  params: Any,
  split: Split,
  requests: Requests,
  *,
  batch_size: int,
  mesh: Mesh,
) -> dict[str, Any]:
  """Asks `requests` by both rules.

  Returns:
    users_per_second, metrics {rule: …}, repeated_targets (requests whose target is in
    their history, a miss where seen items are excluded) and exposure {rule: …}, None
    for systems that score every item.
  """
  began = time.monotonic()
  ranks = evaluator.evaluate(
    system,
    params,
    requests,
    num_items=split.train.num_items,
    batch_size=batch_size,
    mesh=mesh,
  )
  seconds = time.monotonic() - began
  bought_I = np.bincount(split.train.item_E, minlength=split.train.num_items)
  # Scores of all items serve both rules at once; a search is made for each.
  passes = 1 if system.scores else len(evaluator.RULES)
  lists = {rule: r.items_NK for rule, r in ranks.items() if r.items_NK is not None}
  return {
    "users_per_second": passes * len(requests) / seconds,
    "metrics": evaluator.summarise_rules(ranks),
    "repeated_targets": int(evaluator.target_seen(requests).sum()),
    "exposure": {
      rule: exposure.summarise(items_NK, bought_I) for rule, items_NK in lists.items()
    }
    or None,
  }
