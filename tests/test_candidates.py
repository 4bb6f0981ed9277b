"""The best continuations of all beams against sorting every one of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_search import quick_jit

from lightlm_jax.decoding import candidates
from lightlm_jax.decoding.candidates import Listed, Masked, Scale

ROWS = 3


def random_scale(rng, K):
  """Beams of several lengths and normalisers; the last of each row is an empty slot."""
  log_prob_BK = -rng.integers(8, size=(ROWS, K)).astype(np.float32)
  log_prob_BK[:, 1:][:, -1:] = -np.inf
  norm_BK = rng.choice(np.float32([1, 2, 4]), (ROWS, K))
  total_BK = rng.integers(4, size=(ROWS, K)).astype(np.float32)
  return Scale(log_prob_BK, total_BK, norm_BK, rng.random((ROWS, K)) < 0.2)


def random_open(rng, K, V, finished_BK):
  """Full nodes, sparse ones and empty ones; a finished beam has one continuation."""
  share_BK1 = rng.choice([0, 0.05, 0.5, 1], (ROWS, K))[..., None]
  open_BKV = rng.random((ROWS, K, V)) < share_BK1
  itself_V = np.arange(V) == 0
  return np.where(finished_BK[..., None], itself_V, open_BKV)


def packed(open_BKV):
  """uint32 [B, K, W]."""
  rest = -open_BKV.shape[-1] % 32
  padded = np.pad(open_BKV, ((0, 0), (0, 0), (0, rest)))
  return np.packbits(padded, axis=-1, bitorder="little").view(np.uint32)


def sorted_slowly(open_BKV, logits_BKV, scale, k):
  """(key, beam, token) of the k best of each row, of equals the first."""
  rows = []
  for row, open_KV in enumerate(open_BKV):
    found = []
    for beam, token in np.argwhere(open_KV).tolist():
      gain = logits_BKV[row, beam, token] - scale.total_BK[row, beam]
      gain = 0 if scale.finished_BK[row, beam] else gain
      key = (scale.log_prob_BK[row, beam] + gain) / scale.norm_BK[row, beam]
      found.append((np.float32(key), beam, token))
    found.sort(key=lambda one: -one[0])  # stable
    rows.append([one for one in found if one[0] > -np.inf][:k])
  return rows


@functools.partial(quick_jit, static_argnames="k")
def best(children, logits_BKV, scale, k):
  return children.best(logits_BKV, scale, k)


@pytest.mark.parametrize("V", [5, 32, 40, 70])
@pytest.mark.parametrize(("K", "k"), [(1, 2), (1, 8), (6, 6), (6, 300), (20, 4)])
def test_both_forms_keep_the_best_of_all_and_of_equals_the_first(V, K, k):
  for seed in range(5):
    rng = np.random.default_rng(seed)
    scale = random_scale(rng, K)
    open_BKV = random_open(rng, K, V, scale.finished_BK)
    # Few different values: many are equal, as they are in bfloat16.
    logits_BKV = rng.integers(-6, 6, (ROWS, K, V)).astype(np.float32)
    logits_BKV[scale.finished_BK, 0] = -np.inf  # which nobody looks at
    expected = sorted_slowly(open_BKV, logits_BKV, scale, k)
    for children in (Masked(packed(open_BKV)), as_list(open_BKV)):
      found = jax.device_get(best(children, logits_BKV, scale, k=k))
      assert found.key_BK.shape == (ROWS, min(k, K * V))
      for row, beams in enumerate(expected):
        real = len(beams)
        assert np.isneginf(found.key_BK[row, real:]).all()
        kept = (x[row, :real].tolist() for x in (found.parent_BK, found.token_BK))
        assert list(zip(*kept)) == [one[1:] for one in beams]
        np.testing.assert_allclose(found.key_BK[row, :real], [b[0] for b in beams])


def as_list(open_BKV):
  """`Listed` of all tokens, the open ones first, as a trie has them."""
  order_BKV = np.argsort(~open_BKV, axis=-1, kind="stable")
  return Listed(
    order_BKV.astype(np.int32), np.take_along_axis(open_BKV, order_BKV, axis=-1)
  )


def test_what_is_closed_has_no_logit():
  rng = np.random.default_rng(0)
  finished_BK = np.zeros((ROWS, 4), bool)
  open_BKV = random_open(rng, 4, 40, finished_BK)
  logits_BKV = rng.normal(size=open_BKV.shape).astype(np.float32)
  expected = np.where(open_BKV, logits_BKV, -np.inf)
  masked = Masked(packed(open_BKV)).logits(jnp.asarray(logits_BKV))
  np.testing.assert_array_equal(masked, expected)
  listed = as_list(open_BKV)
  found = listed.logits(jnp.asarray(logits_BKV))
  in_order = np.take_along_axis(expected, listed.token_BKC, axis=-1)
  np.testing.assert_array_equal(found, in_order)


@pytest.mark.parametrize("V", [5, 32, 40, 64])
def test_every_token_is_open_and_no_more_than_the_vocabulary(V):
  finished_BK = np.array([[True, False]])
  (word_KW,) = jax.device_get(candidates.every_token(finished_BK, V)).word_BKW
  bit_KV = np.unpackbits(word_KW.view(np.uint8), axis=-1, bitorder="little")
  assert np.flatnonzero(bit_KV[0]).tolist() == [0]
  assert np.flatnonzero(bit_KV[1]).tolist() == list(range(V))


def test_the_integers_of_floats_keep_their_order():
  value = np.float32([-np.inf, -3e38, -1.5, -1e-45, 0.0, 1e-45, 1.5, 3e38, np.inf])
  integers = np.asarray(candidates._as_integers(value))
  assert (np.diff(integers) > 0).all()
  np.testing.assert_array_equal(candidates._as_floats(integers), value)
