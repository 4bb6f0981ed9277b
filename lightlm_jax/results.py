"""A run's results: one dictionary for programs, one table for people."""

import importlib.metadata
import platform
from typing import Any

import jax
import rich.console
import rich.table

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
COLUMNS = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")


def versions() -> dict[str, str]:
  """What the figures were made with."""
  found = {name: importlib.metadata.version(name) for name in PACKAGES}
  return {"python": platform.python_version(), **found}


def devices() -> list[str]:
  """The kind of each device, in order."""
  return [device.device_kind for device in jax.devices()]


def table(results: dict[str, Any]) -> rich.table.Table:
  """The test metrics of the run and of what stands beside it, both rules."""
  title = f"{results['dataset']}, test, {results['num_users']:,} users, full ranking"
  made = rich.table.Table(title=title, title_justify="left", min_width=72)
  made.add_column("")
  for rule in ("seen excluded", "seen allowed"):
    for column in COLUMNS:
      head = (
        f"{rule}\n{column.upper()}" if column == COLUMNS[0] else f"\n{column.upper()}"
      )
      made.add_column(head, justify="right")
  rows = dict(results["baselines"])
  ceiling = rows.pop("best_possible", None)
  for name, metrics in rows.items():
    made.add_row(name, *_cells(metrics))
  made.add_row(results["system"], *_cells(results["metrics"]), style="bold")
  if ceiling:
    made.add_row("best possible", *_cells(ceiling))
  return made


def sentences(results: dict[str, Any]) -> list[str]:
  """What the table does not say."""
  lines = []
  if results["params"]:
    lines.append(
      f"{results['params']['total']:,} parameters, "
      f"{results['params']['non_embedding']:,} outside the embeddings; best at step "
      f"{results['best_step']}; {results['train_seconds']:.0f} s of training at "
      f"{results['examples_per_second']:,.0f} examples/s; "
      f"{results['users_per_second']:,.0f} users/s in evaluation"
    )
  if results["hallucination_rate"] is not None:
    lines.append(
      f"without the trie {100 * results['hallucination_rate']:.1f} % of the beams "
      "would be no item; with it none"
    )
  ceiling = results.get("expected_best_ndcg@10")
  if ceiling:
    reached = results["metrics"]["seen_excluded"]["ndcg@10"] / ceiling
    lines.append(
      f"the generator's best possible NDCG@10 (seen excluded, expected): {ceiling:.4f}; "
      f"reached: {100 * reached:.0f} %"
    )
  return lines


def show(results: dict[str, Any], console: rich.console.Console) -> None:
  """Prints the table and the sentences, wide enough for a pipe."""
  if results["metrics"]:
    width = max(console.width, 100)
    console.print(table(results), width=width)
  for line in sentences(results):
    console.print(line, highlight=False, soft_wrap=True)


def _cells(metrics: dict[str, dict[str, float]]) -> list[str]:
  return [
    f"{metrics[rule][column]:.4f}".lstrip("0")
    for rule in ("seen_excluded", "seen_allowed")
    for column in COLUMNS
  ]
