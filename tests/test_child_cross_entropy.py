"""The loss under the trie is the brute-force one, and so are its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.decoding import trie
from lightlm_jax.decoding.child_cross_entropy import TokenBias, child_cross_entropy

N, D = 75, 6


def codes(kind):
  """Codes [I, L] of a trie, and the size of their vocabulary."""
  rng = np.random.default_rng(0)
  if kind == "one token":
    return rng.permutation(40)[:, None].astype(np.int32) + 2, 50
  if kind == "even":  # every node has as many children
    first, second = np.divmod(np.arange(63), 7)
    return np.stack([first, 9 + second], axis=1).astype(np.int32), 16
  every = np.unique(rng.integers(0, 9, (400, 3)), axis=0) + 9 * np.arange(3)
  if kind == "ragged":
    # A code that has ended must not begin another one.
    short = every[:, 0] == every[0, 0]
    every = np.concatenate([every[~short], [[every[0, 0], -1, -1]]])
    alone = every[:, 0] == 1
    every = np.concatenate([every[~alone], [[1, 30, -1], [1, 31, 18]]])
  return every.astype(np.int32), 40


def naive(state_NLD, table_VD, code_IL, target_N, label_smoothing):
  """The same, from a mask of the tokens that follow each prefix in the catalogue."""
  code_NL = code_IL[target_N]
  total_NL = []
  for level in range(code_IL.shape[1]):
    prefix_NIL = code_NL[:, None, :level] == code_IL[None, :, :level]
    follows_NI = prefix_NIL.all(axis=2) & (code_IL[None, :, level] >= 0)
    mask_NV = np.zeros((len(code_NL), len(table_VD)), bool)
    n, i = np.nonzero(follows_NI)
    mask_NV[n, code_IL[i, level]] = True
    real_N = code_NL[:, level] >= 0
    mask_NV[~real_N] = True
    logits_NV = jnp.where(mask_NV, state_NLD[:, level] @ table_VD.T, -jnp.inf)
    log_prob_NV = jax.nn.log_softmax(logits_NV)
    own_N = jnp.take_along_axis(log_prob_NV, np.maximum(code_NL, 0)[:, level, None], 1)
    even_N = jnp.where(mask_NV, log_prob_NV, 0).sum(axis=1) / mask_NV.sum(axis=1)
    loss_N = -(1 - label_smoothing) * own_N[:, 0] - label_smoothing * even_N
    total_NL.append(jnp.where(real_N, loss_N, 0))
  return jnp.stack(total_NL, axis=1)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["one token", "even", "full", "ragged"])
def test_it_is_the_softmax_over_what_may_follow(kind, label_smoothing):
  code_IL, V = codes(kind)
  tree = jax.tree.map(jnp.asarray, trie.build(code_IL, V, 0)[0])
  rng = np.random.default_rng(1)
  L = code_IL.shape[1]
  state_NLD = jnp.asarray(rng.normal(size=(N, L, D)), jnp.float32)
  table_VD = jnp.asarray(rng.normal(size=(V, D)), jnp.float32)
  weight_NL = jnp.asarray(rng.normal(size=(N, L)), jnp.float32)
  # Popular nodes, so that some have several chunks; and rows without a target.
  target_N = np.minimum(rng.geometric(0.05, N) - 1, len(code_IL) - 1)
  target_N[:20] = 0
  code_NL = np.where(np.arange(N)[:, None] % 9 == 8, -1, code_IL[target_N])

  def ours(state_NLD, table_VD):
    loss_NL = child_cross_entropy(
      state_NLD, table_VD, tree, jnp.asarray(code_NL), label_smoothing
    )
    return (loss_NL * weight_NL).sum(), loss_NL

  def theirs(state_NLD, table_VD):
    loss_NL = naive(state_NLD, table_VD, code_IL, target_N, label_smoothing)
    loss_NL = jnp.where(code_NL >= 0, loss_NL, 0)
    return (loss_NL * weight_NL).sum(), loss_NL

  (_, found_NL), found = jax.jit(jax.value_and_grad(ours, (0, 1), has_aux=True))(
    state_NLD, table_VD
  )
  (_, wanted_NL), wanted = jax.value_and_grad(theirs, (0, 1), has_aux=True)(
    state_NLD, table_VD
  )
  np.testing.assert_allclose(found_NL, wanted_NL, rtol=1e-5, atol=1e-5)
  assert np.abs(wanted_NL).max() > 1
  for ours_X, theirs_X in zip(found, wanted):
    np.testing.assert_allclose(ours_X, theirs_X, rtol=1e-4, atol=1e-5)


def test_the_probabilities_of_all_items_sum_to_one():
  """A state that does not depend on the target: then these are all items' chances."""
  code_IL, V = codes("ragged")
  tree = jax.tree.map(jnp.asarray, trie.build(code_IL, V, 0)[0])
  rng = np.random.default_rng(2)
  table_VD = jnp.asarray(rng.normal(size=(V, D)), jnp.float32)
  state_LD = jnp.asarray(rng.normal(size=(code_IL.shape[1], D)), jnp.float32)
  state_ILD = jnp.broadcast_to(state_LD[None], (len(code_IL), *state_LD.shape))
  loss_IL = jax.jit(child_cross_entropy)(state_ILD, table_VD, tree, code_IL)
  assert np.exp(-loss_IL.sum(axis=1)).sum() == pytest.approx(1, abs=1e-4)


def test_a_bias_is_added_to_its_tokens_alone_and_learns_alone():
  """Each token has one place in this trie, on either level."""
  code_IL = np.array([[0, 3], [0, 4], [0, 5], [1, -1], [2, 6], [2, 7]], np.int32)
  tree = jax.tree.map(jnp.asarray, trie.build(code_IL, 9, 0)[0])
  rng = np.random.default_rng(3)
  state_NLD = jnp.asarray(rng.normal(size=(6, 2, D)), jnp.float32)
  table_VD = jnp.asarray(rng.normal(size=(9, D)), jnp.float32)
  tokens_of_levels = (0, 1, 2, 9), (3, 4, 5, 6, 7, 8, 9)  # 9 = none
  token_NLE = np.stack(
    [
      rng.permuted(np.tile(of_level, (6, 1)), axis=1)[:, :3]
      for of_level in tokens_of_levels
    ],
    axis=1,
  )
  token_NLE[:, :, 2] = token_NLE[:, :, 1]  # twice
  value_NLE = jnp.asarray(rng.normal(size=token_NLE.shape), jnp.float32)
  one_N2D = jnp.broadcast_to(jnp.eye(6)[:, None], (6, 2, 6))

  def loss(state_NLD, table_VD, value_NLE):
    bias = TokenBias(jnp.asarray(token_NLE), value_NLE)
    found_NL = child_cross_entropy(state_NLD, table_VD, tree, code_IL, bias=bias)
    return found_NL.sum(), found_NL

  def plain(state_NLD, table_VD):
    return child_cross_entropy(state_NLD, table_VD, tree, code_IL).sum()

  def widened(value_NLE):
    """The same loss by states and tokens of one dimension more for each row."""
    row_N11 = np.arange(6)[:, None, None]
    added_NV = jnp.zeros((6, 10)).at[row_N11, token_NLE].add(value_NLE)
    wide_VD = jnp.concatenate([table_VD, added_NV[:, :9].T], axis=1)
    wide_NLD = jnp.concatenate([state_NLD, one_N2D], axis=2)
    found_NL = child_cross_entropy(wide_NLD, wide_VD, tree, code_IL)
    return found_NL.sum(), found_NL

  gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
  (_, found_NL), found = jax.jit(gradient)(state_NLD, table_VD, value_NLE)
  gradient = jax.value_and_grad(widened, has_aux=True)
  (_, wanted_NL), of_value = jax.jit(gradient)(value_NLE)
  np.testing.assert_allclose(found_NL, wanted_NL, rtol=1e-5)
  wanted = *jax.grad(plain, argnums=(0, 1))(state_NLD, table_VD), of_value
  assert (np.abs(of_value) > 1e-3).any(axis=(0, 2)).all()
  for found_X, wanted_X in zip(found, wanted):
    np.testing.assert_allclose(found_X, wanted_X, rtol=1e-4, atol=1e-6)
