"""A run's results: one dictionary for programs, one table for people."""

from collections.abc import Callable
import importlib.metadata
import platform
from typing import Any

import jax

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
COLUMNS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")


def versions() -> dict[str, str]:
  """What the figures were made with."""
  found = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {"python": platform.python_version(), **found}


def devices() -> list[str]:
  """The kind of each device, in order."""
  return [device.device_kind for device in jax.devices()]


def table(results: dict[str, Any]) -> list[str]:
  """Lines of at most 80 columns: the run and what stands beside it, both rules."""
  heads = "".join(f"{name:>8}" for name in ("HR@5", "HR@10", "NDCG@5", "NDCG@10"))
  lines = [
    f"{results['dataset']}: test, {results['num_users']:,} users, all items ranked",
    f"{'':13}{'seen excluded':>32} {'seen allowed':>32}",
    f"{'':13}{heads} {heads}",
  ]
  rows = {**results["baselines"], results["system"]: results["metrics"]}
  if "best_possible" in rows:
    rows["best possible"] = rows.pop("best_possible")
  for name, metrics in rows.items():
    lines.append(
      f"{name:13}{_cells(metrics['seen_excluded'])} {_cells(metrics['seen_allowed'])}"
    )
  return lines


def sentences(results: dict[str, Any]) -> list[str]:
  """What the table does not say."""
  lines = []
  if results["params"]:
    lines.append(
      f"{results['params']['total']:,} parameters, "
      f"{results['params']['non_embedding']:,} outside the embeddings; best at step "
      f"{results['best_step']}; {results['train_seconds']:.0f} s of training at "
      f"{results['examples_per_second']:,.0f} examples/s"
    )
    if results["users_per_second"]:
      lines[-1] += f"; {results['users_per_second']:,.0f} users/s in evaluation"
  if results["hallucination_rate"] is not None:
    lines.append(
      f"without the trie {100 * results['hallucination_rate']:.1f} % of the beams "
      "would be no item; with it none"
    )
  ceiling = results.get("expected_best_ndcg@10")
  if ceiling:
    reached = results["metrics"]["seen_excluded"]["ndcg@10"] / ceiling
    lines.append(
      f"best possible NDCG@10 of the generator, seen excluded, expected {ceiling:.4f}; "
      f"reached {100 * reached:.0f} %"
    )
  return lines


def show(results: dict[str, Any], say: Callable[[str], None]) -> None:
  """Says the table and the sentences, a line at a time."""
  for line in [*(table(results) if results["metrics"] else []), *sentences(results)]:
    say(line)


def _cells(metrics: dict[str, float]) -> str:
  return "".join(f"{metrics[column]:8.4f}" for column in COLUMNS)
