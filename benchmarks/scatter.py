"""Times the gradient of embeddings, the sum of float32 rows for each token.

Some versions of jaxlib make it hundreds of times too slow on NVIDIA GPUs. Tokens by
Zipf's law, compared with uniform ones, show the cost of frequent tokens.
"""

from collections.abc import Callable, Iterator, Sequence
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.benchmarks import record, shapes, timing

logger = logging.getLogger(__name__)

SLOW = 10  # warn if the scatter-add takes this many times as long as an alternative


def scatter_add(token_N: jax.Array, grad_ND: jax.Array, V: int) -> jax.Array:
  """Computes the embedding gradient, [V, D], by autodiff, as training does."""
  table_VD = jnp.zeros((V, grad_ND.shape[1]), grad_ND.dtype)
  return jax.vjp(lambda table_VD: table_VD[token_N], table_VD)[1](grad_ND)[0]


def sorted_sum(token_N: jax.Array, grad_ND: jax.Array, V: int) -> jax.Array:
  """Computes the embedding gradient, [V, D], as a sum over rows sorted by token."""
  order_N = jnp.argsort(token_N)
  return jax.ops.segment_sum(
    grad_ND[order_N], token_N[order_N], num_segments=V, indices_are_sorted=True
  )


def one_hot(token_N: jax.Array, grad_ND: jax.Array, V: int) -> jax.Array:
  """Computes the embedding gradient, [V, D], as a product with one-hot tokens."""
  hot_NV = jax.nn.one_hot(token_N, V, dtype=grad_ND.dtype)
  return jnp.einsum("nv,nd->vd", hot_NV, grad_ND, precision=jax.lax.Precision.HIGHEST)


FORMS = {"scatter-add": scatter_add, "sorted": sorted_sum, "one-hot": one_hot}


def run(
  sizes: Sequence[tuple[int, int, int]],
  repeats: int,
  warn: Callable[[str], None],
) -> Iterator[dict[str, Any]]:
  """Times FORMS on Zipf and uniform tokens; prints a table; warns of a slow scatter.

  Args:
    sizes: (tokens N, vocabulary V, width D) of each case.
    repeats: see `timing.measure`.
    warn: function that is called with the text of a warning.

  Yields:
    milliseconds of each form (fastest call), `ratio` (time of the scatter-add over that
    of the fastest alternative) and `difference`, the largest difference of a form from
    the scatter-add, relative to the largest value.
  """
  logger.info("embedding gradient, float32, ms")
  line = record.table(("tokens, vocabulary x width", "tokens are", *FORMS, "ratio"))
  for N, V, D in sizes:
    rng = np.random.default_rng(N)
    grad_ND = jax.device_put(rng.normal(size=(N, D)).astype(np.float32))
    kinds = {
      "Zipf": shapes.zipf(rng, V, N),
      "uniform": rng.integers(V, size=N, dtype=np.int32),
    }
    for kind, token_N in kinds.items():
      row = _measure(jax.device_put(token_N), grad_ND, V, repeats)
      row = {"tokens": N, "vocabulary": V, "width": D, "kind": kind} | row
      ms = [f"{row['milliseconds'][name]:,.3f}" for name in FORMS]
      line(f"{N:,}, {V:,} x {D:,}", kind, *ms, f"{row['ratio']:.2f}")
      if row["ratio"] > SLOW:
        warn(
          f"warning: the scatter-add of {N:,} tokens ({kind}) takes {row['ratio']:.0f} "
          f"times as long as an alternative; jaxlib 0.10.2 and 0.11.0 are known for "
          "that on NVIDIA GPUs: use another version"
        )
      yield row


def _measure(token_N, grad_ND, V: int, repeats: int) -> dict[str, Any]:
  programs = {name: jax.jit(form, static_argnums=2) for name, form in FORMS.items()}
  found = {name: form(token_N, grad_ND, V) for name, form in programs.items()}
  largest = float(jnp.abs(found["scatter-add"]).max())
  times = timing.interleaved(
    {
      name: lambda form=form: form(token_N, grad_ND, V)
      for name, form in programs.items()
    },
    repeats=repeats,
    patience=30.0,
  )
  best = {name: time.best for name, time in times.items()}
  others = [second for name, second in best.items() if name != "scatter-add"]
  return {
    "milliseconds": {name: 1e3 * second for name, second in best.items()},
    "ratio": best["scatter-add"] / min(others),
    "difference": max(
      float(jnp.abs(found["scatter-add"] - other).max()) / largest
      for other in found.values()
    ),
    "seconds": {name: time._asdict() for name, time in times.items()},
  }
