"""Times L2D decoding (arXiv 2509.11524), by a state index, against beam search.

Weights are not trained and states are random, which does not change the cost.
"""

from collections.abc import Callable, Sequence
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.benchmarks import end_to_end, timing
from lightlm_jax.decoding import latent
from lightlm_jax.decoding.top_k import top_k
from lightlm_jax.systems import token_sequences as text

logger = logging.getLogger(__name__)

NEAREST = 100
_PATIENCE = 60.0  # maximum seconds for all calls at a batch size


def run(
  work: end_to_end.Workload,
  batches: Sequence[int],
  examples: int,
  repeats: int,
  t5_searcher: Callable | None,
) -> list[dict[str, Any]]:
  """Times beam search, L2D and T5 in turn at every batch size; prints a table.

  Args:
    work: a model and a catalogue.
    batches: batch sizes, in users.
    examples: number of training examples in the state index.
    repeats: minimum number of timed rounds.
    t5_searcher: `t5.searcher`; None = without T5.

  Returns:
    A row per batch size, with ms_a_user, speedup_over_beam and `seconds` of beam search
    (beam), L2D with global and with local scores (global, local) and T5 (t5).
  """
  logger.info(
    f"{work.name}: ms per user; {examples:,} states in the index, {NEAREST} nearest"
  )
  names = ("beam", "global", "local", *(("t5",) if t5_searcher else ()))
  logger.info("  " + "".join(f"{head:>10}" for head in ("batch", *names, "beam/glob.")))
  index = made(work, examples)
  rows = []
  for B in batches:
    source = work.source(B)
    everything, _ = jax.device_put(end_to_end.filters(work.trie, B))
    find = end_to_end.recommender(work)
    ask = asker(work)
    calls = {
      "beam": functools.partial(find, work.params, work.trie, source, everything),
      "global": functools.partial(ask, work.params, index, source, None),
      "local": functools.partial(ask, work.params, index, source, NEAREST),
    }
    if t5_searcher:
      calls["t5"] = t5_searcher(work, B)
    times = timing.interleaved(calls, repeats=repeats, patience=_PATIENCE)
    ms = {name: 1e3 * time.median / B for name, time in times.items()}
    rows.append(
      {
        "workload": work.name,
        "batch": B,
        "beams": work.beam_size,
        "examples": examples,
        "nearest": NEAREST,
        "ms_a_user": ms,
        "speedup_over_beam": {name: ms["beam"] / ms[name] for name in names},
        "seconds": {name: time._asdict() for name, time in times.items()},
      }
    )
    cells = [f"{B}", *(f"{ms[name]:,.3f}" for name in names)]
    cells.append(f"x {ms['beam'] / ms['global']:.1f}")
    logger.info("  " + "".join(f"{cell:>10}" for cell in cells))
  return rows


def made(work: end_to_end.Workload, examples: int) -> latent.StateIndex:
  """Builds a state index of random states, each with a uniformly drawn item."""
  rng = np.random.default_rng(0)
  shape = examples, work.net.config.D
  state_ND = rng.standard_normal(shape, np.float32).astype(np.float16)
  num_items = len(work.code_IL)
  item_N = rng.integers(num_items, size=examples, dtype=np.int32)
  state_ND, item_N = jax.device_put((state_ND, item_N))
  return latent.build(state_ND, item_N, num_items)


def asker(work: end_to_end.Workload) -> Callable:
  """Returns a compiled function (params, index, source, nearest) → (scores, items).

  `nearest` is the number of states for L2D's local scores; None = global scores.
  """

  @functools.partial(jax.jit, static_argnames="nearest")
  def ask(params, index, source: text.Source, nearest):
    apply = functools.partial(work.net.apply, {"params": params})
    encoded_BSD = apply(*source, method="encode")
    read = apply(encoded_BSD, source.segment_BS, method="precompute_cross_kv")
    start_B11 = jnp.full((len(encoded_BSD), 1, 1), text.START)
    segment_B1 = jnp.ones_like(start_B11[..., 0])
    state_BD = apply(start_B11, read, segment_B1, method="states")[:, 0, 0]
    state_BD = state_BD.astype(jnp.float32)
    if nearest is None:
      score_BI = latent.global_scores(state_BD, index)
    else:
      score_BI = latent.local_scores(state_BD, index, nearest)
    return top_k(score_BI, work.beam_size)

  return ask
