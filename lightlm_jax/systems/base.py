"""What a system is: the one interface that training, evaluation and serving see."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lightlm_jax.data.packing import Rows


class System(NamedTuple):
  """A recommender as pure functions; what does not apply is None.

  `tables` is a pytree of device arrays that a system needs beside its parameters
  (codes, trie, …). It is always an argument, so that another catalogue of the same
  capacity compiles nothing.

  Attributes:
    name: as in `config.system`.
    example: "target" (one example a position), "drawn" (as many, the target any
      item of the user), "sequence" (a row of packed histories, every position trained),
      or None for systems that are fitted.
    max_history: how many of the last items it reads, 0 = the user alone; None = all.
    rows: how examples share rows in training; None = each has its own.
    tables: see above.
    rank_I: [I] int32 numpy, each catalogue item's place in code order.
    init: rng → params.
    loss: (params, tables, batch, rng) → (scalar, metrics): "tokens" that the batch
      really holds (items, where an item is one), and "places" that it has for them.
    fit: train interactions → params, for systems without gradients.
    recommend: (params, tables, batch, allowed, *, k) → Recommendations.
    scores: (params, tables, batch) → [B, I] float32, for systems that score every
      item; the evaluator then counts the items above and level with the target.
    nll: (params, tables, batch) → [B] float32, -log p(target | source) in nats over
      all that could have been written in its place; None for systems whose scores are
      no logits.
    hallucinated: (params, tables, batch) → [B, K] bool, the beams of a search without
      the trie that are no item, for systems that write ids.
    prepare: (params, tables) → tables with what all requests share, such as the items'
      vectors, for whoever asks often. Where they are given in place of `tables`,
      `scores` and `recommend` say the same, and sooner.
    state: (params, tables, batch) → [B, D] float32, what the model makes of a source
      before it writes: see decoding/latent.py.
  """

  name: str
  example: str | None
  max_history: int | None
  tables: Any
  rank_I: Any
  rows: Rows | None = None
  init: Callable | None = None
  loss: Callable | None = None
  fit: Callable | None = None
  recommend: Callable | None = None
  scores: Callable | None = None
  nll: Callable | None = None
  hallucinated: Callable | None = None
  prepare: Callable | None = None
  state: Callable | None = None
