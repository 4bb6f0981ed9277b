"""Times a training example as the model, the batch and the log grow."""

from collections.abc import Iterator, Sequence
import logging
import math
from typing import Any

import numpy as np

from lightlm_jax.benchmarks import record, shapes, training_step

logger = logging.getLogger(__name__)

# The base shape, of which one quantity at a time grows.
_BASE = {
  "model__num_layers": 6,
  "model__num_decoder_layers": 6,
  "train__batch_size": 64,
}


def model(
  widths: Sequence[int], depths: Sequence[int], batches: Sequence[int], dtype: str
) -> Iterator[tuple[str, int, dict[str, Any]]]:
  """Yields (quantity that grows, its size, fields for `shapes.config`) for each case.

  Heads are always 64 wide, the feed-forward 16; encoder and decoder are equally deep.
  """
  base = _BASE | {"model__dtype": dtype, "model__d_model": min(widths, default=64)}
  for D in widths:
    yield "width", D, base | {"model__d_model": D}
  for N in depths:
    layers = {"model__num_layers": N, "model__num_decoder_layers": N}
    yield "depth", N, base | layers
  for B in batches:
    yield "batch", B, base | {"train__batch_size": B}


def run(
  grown: Sequence[tuple[str, int, dict[str, Any]]],
  log_sizes: Sequence[int],
  repeats: int,
) -> Iterator[dict[str, Any]]:
  """Times a training example in every case and prints a table.

  The model and the batch grow on the paper's task. The log grows for a model of
  histories that is small enough to reveal the cost of the feed.

  Args:
    grown: cases from `model`.
    log_sizes: numbers of interactions of synthetic logs.
    repeats: see `timing.measure`.

  Yields:
    `grows`, `size`, microseconds_an_example, and the fields of `training_step.row`.
  """
  logger.info("growth: cost per training example")
  heads = ("grows", "size", "μs per example", *training_step.HEADS[2:], "feed, s")
  line = record.table(heads, width=14)
  cases = [
    (grows, size, shapes.config("paper", **_heads(fields)), 20_000)
    for grows, size, fields in grown
  ]
  tiny = shapes.config("tiny", train__history_buckets=())
  cases += [("log", size, tiny, size) for size in log_sizes]
  known = {}  # the base shape occurs several times
  for grows, size, config, interactions in cases:
    case = config, interactions
    if case not in known:
      source = shapes.made(interactions, prompt=config.input.prompt)
      (known[case],) = training_step.compare({"": config}, source, repeats).values()
    row = known[case]
    micro = 1e6 / row["examples_per_second"]
    cells = list(training_step.cells(row))[2:]
    line(grows, f"{size:,}", f"{micro:,.1f}", *cells, f"{row['feed_seconds']:.2f}")
    yield {"grows": grows, "size": size, "microseconds_an_example": micro} | row


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """Fits {quantity: exponent of the cost per example in it} on log-log scales.

  `rows` come from `run`; a quantity with a single size gets no exponent.
  """
  found = {}
  for grows in dict.fromkeys(row["grows"] for row in rows):
    points = {
      row["size"]: row["microseconds_an_example"]
      for row in rows
      if row["grows"] == grows
    }
    if len(points) > 1:
      x, y = np.log([*points]), np.log([*points.values()])
      found[grows] = float(np.polyfit(x, y, 1)[0])
  return found


def say_exponents(found: dict[str, float]) -> None:
  powers = (f"{grows}^{power:.2f}" for grows, power in found.items())
  logger.info(f"cost per example grows as {', '.join(powers)}")


def _heads(fields: dict[str, Any]) -> dict[str, Any]:
  return fields | {"model__num_heads": math.ceil(fields["model__d_model"] / 64)}
