"""What an example costs as the model, the batch and the log grow."""

from collections.abc import Callable, Iterator, Sequence
import math
from typing import Any

import numpy as np

from lightlm_jax.benchmarks import record, shapes, training_step

# The presets beside whose shape one thing grows.
_BASE = {
  "model__num_layers": 6,
  "model__num_decoder_layers": 6,
  "train__batch_size": 64,
}


def model(
  widths: Sequence[int], depths: Sequence[int], batches: Sequence[int], dtype: str
) -> Iterator[tuple[str, int, dict[str, Any]]]:
  """What grows, how far, and the fields of the config that make it so.

  Heads keep their width of 64, the feed-forward its 16; layers are as many on both
  sides.
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
  say: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
  """Times every size, and says the table.

  The model and the batch grow on the paper's task; the log under a model with
  histories, so small that the feed would be seen.

  Args:
    grown: from `model`.
    log_sizes: interactions of made logs.
    repeats: see `timing.measure`.
    say: prints a line.

  Yields:
    `grows`, `size`, microseconds_an_example, and what `training_step.row` tells.
  """
  say("growth: what an example costs")
  heads = ("grows", "size", "μs an example", *training_step.HEADS[2:], "feed, s")
  line = record.table(say, heads, width=14)
  cases = [
    (grows, size, shapes.config("paper", **_heads(fields)), 20_000)
    for grows, size, fields in grown
  ]
  tiny = shapes.config("tiny", train__history_buckets=())
  cases += [("log", size, tiny, size) for size in log_sizes]
  known = {}  # one size is of several things that grow
  for grows, size, config, interactions in cases:
    case = config.to_json(), interactions
    if case not in known:
      source = shapes.made(interactions, prompt=config.input.prompt)
      (known[case],) = training_step.compare({"": config}, source, repeats).values()
    row = known[case]
    micro = 1e6 / row["examples_per_second"]
    told = list(training_step.cells(row))[2:]
    line(grows, f"{size:,}", f"{micro:,.1f}", *told, f"{row['feed_seconds']:.2f}")
    yield {"grows": grows, "size": size, "microseconds_an_example": micro} | row


def exponents(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
  """The power of its size by which an example's cost grows: a line in log-log.

  Args:
    rows: of `run`; what has one size alone has no exponent.
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


def say_exponents(found: dict[str, float], say: Callable[[str], None]) -> None:
  powers = (f"{grows}^{power:.2f}" for grows, power in found.items())
  say(f"an example costs by {', '.join(powers)}")


def _heads(fields: dict[str, Any]) -> dict[str, Any]:
  return fields | {"model__num_heads": math.ceil(fields["model__d_model"] / 64)}
