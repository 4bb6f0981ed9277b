"""The block top-k against `jax.lax.top_k`, its order of equals included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.decoding import top_k as top_k_lib

BLOCK, WORTH_IT = top_k_lib._BLOCK, top_k_lib._WORTH_IT
SHAPES = {
  "one number": (1, 1),
  "the largest of a few": (WORTH_IT - 1, 1),
  "the largest of enough": (WORTH_IT, 1),
  "of a part of a block more": (WORTH_IT + 1, 1),
  "all of them": (3 * BLOCK, 3 * BLOCK),
  "one short of the threshold": (5 * WORTH_IT - 1, 5),
  "at the threshold": (5 * WORTH_IT, 5),
  "one beyond the threshold": (5 * WORTH_IT + 1, 5),
  "one short of a block": (7 * WORTH_IT + BLOCK - 1, 7),
  "a long row": (40 * WORTH_IT + 5, 20),
}

ours = jax.jit(top_k_lib.top_k, static_argnames="k")
theirs = jax.jit(jax.lax.top_k, static_argnames="k")


def rows(N, k):
  """float32 [B, N], with ever more of equals and of -inf."""
  rng = np.random.default_rng(N + k)
  made = [np.zeros(N), np.full(N, -np.inf), np.arange(N), -np.arange(N)]
  made += [np.where(np.arange(N) == place, 0, -np.inf) for place in (0, N // 2, N - 1)]
  for values in (2, 3, k, N):
    made += list(rng.integers(-values, values, (4, N)) / values)
  for finite in (k - 1, k, k + 1):
    keep_BN = rng.random((4, N)).argsort(axis=1) < finite
    made += list(np.where(keep_BN, rng.integers(2, size=(4, N)), -np.inf))
  # A block's largest is what many others have too.
  made.append((np.arange(N) % BLOCK == BLOCK - 1) * 1.0)
  made.append((np.arange(N) % BLOCK == 0) * (1.0 + (np.arange(N) > N // 2)))
  return np.stack(made).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
def test_it_is_the_top_k_of_jax_with_its_order_of_equals(name):
  N, k = SHAPES[name]
  value_BN = jnp.asarray(rows(N, k))
  value_BK, place_BK = ours(value_BN, k=k)
  expected_BK, first_BK = theirs(value_BN, k=k)
  assert place_BK.dtype == first_BK.dtype
  assert (value_BK == expected_BK).all()
  assert (place_BK == first_BK).all()
  # The order of equals is that of their places, whatever jax may do.
  order_BN = np.argsort(-np.asarray(value_BN), axis=1, kind="stable")
  assert (np.asarray(place_BK) == order_BN[:, :k]).all()


@pytest.mark.parametrize(("N", "blocks"), [(WORTH_IT * 4 - 1, 0), (WORTH_IT * 4, 1)])
def test_only_a_long_row_is_cut_into_blocks(N, blocks):
  program = ours.lower(jnp.zeros((2, N)), k=4).as_text()
  assert program.count("chlo.top_k") == 1 + blocks
