"""The reference implementation's road to ids, its faults included: to be caught."""

import dataclasses

import numpy as np

from lightlm_jax.data import splits
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.evaluation.audit import Ids
from lightlm_jax.ids import graph, spectral
from lightlm_jax.ids.codes import stack_codes


def leaking_log(log: Interactions) -> Interactions:
  """What the reference takes for training: every item's users but the last two.

  Held-out items are in, except where the user happens to be among the last.
  """
  order_E = np.lexsort((log.user_E, log.item_E))
  item_E = log.item_E[order_E]
  from_end_E = np.searchsorted(item_E, item_E, side="right") - np.arange(len(item_E))
  kept_E = np.sort(order_E[from_end_E > 2])
  length_U = np.bincount(log.user_E[kept_E], minlength=log.num_users)
  return dataclasses.replace(
    log, offset_U1=np.cumsum([0, *length_U]), item_E=log.item_E[kept_E]
  )


def reference_ids(
  log: Interactions, seed: int, *, branching: int, leaf_size: int
) -> Ids:
  """SCI of users on the leaking graph, of items on the training interactions."""
  leaking = leaking_log(log)
  train = splits.leave_one_out(log).train
  options = {"branching": branching, "leaf_size": leaf_size, "levels": 2, "seed": seed}
  codes = []
  for adjacency in (graph.items_together(train), graph.users_together(leaking)):
    path_NL = stack_codes(
      [np.array(path) for path in spectral.cluster_paths(adjacency, **options)]
    )
    codes.append(path_NL)
  return Ids(*codes, leaking.user_E, leaking.item_E)
