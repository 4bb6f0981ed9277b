"""Metrics of the fitted baselines on the requests of a run's test split."""

from collections.abc import Iterable

from jax.sharding import Mesh

from lightlm_jax.data.splits import Split
from lightlm_jax.evaluation import evaluator
from lightlm_jax.systems.base import Built, Fitted


def measure(
  systems: Iterable[Built], split: Split, *, batch_size: int, mesh: Mesh
) -> dict[str, dict]:
  """Fits each system on the training interactions and evaluates it on the test split.

  Returns:
    name → rule → metrics.
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
