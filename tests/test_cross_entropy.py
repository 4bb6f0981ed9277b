"""Cross-entropy in chunks, and from samples, against the plain formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.models import cross_entropy


def plain_loss(hidden_ND, table_ID, label_N, weight_N):
  log_prob_NI = jax.nn.log_softmax(hidden_ND @ table_ID.T)
  own_N = jnp.take_along_axis(log_prob_NI, label_N[:, None], axis=1)[:, 0]
  return -(weight_N * own_N).sum()


def made_example(kept, I=11):
  rng = np.random.default_rng(0)
  N, D = 23, 5
  hidden_ND = rng.normal(size=(N, D)).astype(np.float32)
  table_ID = rng.normal(size=(I, D)).astype(np.float32)
  label_N = rng.integers(I, size=N).astype(np.int32)
  weight_N = (rng.random(N) < kept) * rng.uniform(0.5, 2, N)
  return jax.device_put((hidden_ND, table_ID, label_N, weight_N.astype(np.float32)))


def value_and_gradients(loss, arguments):
  # Through something more, so that the cotangent is not 1.
  scaled = jax.value_and_grad(lambda *a: 3 * loss(*a), argnums=(0, 1))
  return jax.jit(scaled)(*arguments)


CHUNKS = [{"chunk": n} for n in (1, 4, 7, 64)] + [{"items": n} for n in (1, 4, 11, 64)]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("kept", [0.0, 0.5, 1.0])
def test_the_chunked_loss_and_its_gradients_are_the_plain_ones(chunks, kept):
  arguments = made_example(kept)
  # Where a position weighs nothing, any label may stand.
  loose = (*arguments[:2], jnp.where(arguments[3] > 0, arguments[2], -1), arguments[3])
  chunk, items = chunks.get("chunk", cross_entropy.CHUNK), chunks.get("items")

  def chunked(*a):
    return cross_entropy.linear_cross_entropy(*a, chunk, items)[0]

  value, grads = value_and_gradients(chunked, loose)
  expected, expected_grads = value_and_gradients(plain_loss, arguments)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for grad, expected_grad in zip(grads, expected_grads):
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(chunked(*loose), plain_loss(*arguments), rtol=1e-5)
  _, normal_N = cross_entropy.linear_cross_entropy(*loose, chunk, items)
  wanted_N = jax.nn.logsumexp(arguments[0] @ arguments[1].T, axis=1)
  real_N = arguments[3] > 0
  np.testing.assert_allclose(normal_N[real_N], wanted_N[real_N], rtol=1e-5)


def test_a_large_catalogue_never_has_all_logits_at_once():
  N, I, D = 512, cross_entropy.LARGE + 1, 4
  shapes = ((N, D), "float32"), ((I, D), "float32"), ((N,), "int32"), ((N,), "float32")
  arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]

  def total(*a):
    return cross_entropy.linear_cross_entropy(*a)[0]

  loss = jax.grad(total, argnums=(0, 1))
  memory = jax.jit(loss).lower(*arguments).compile().memory_analysis()
  a_chunk = 4 * N * cross_entropy.ITEMS
  assert memory.temp_size_in_bytes < 4 * a_chunk + 4 * 4 * I * D < 4 * N * I


def test_samples_of_every_item_give_the_whole_loss():
  """Each item as often as any other: the estimate's own item is all that it misses."""
  arguments = made_example(0.7)
  negative_M = np.tile(np.arange(11, dtype=np.int32), 3)

  def sampled(*a):
    return cross_entropy.sampled_cross_entropy(*a, negative_M)

  value, grads = value_and_gradients(sampled, arguments)
  expected, expected_grads = value_and_gradients(plain_loss, arguments)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  for grad, expected_grad in zip(grads, expected_grads):
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-4, atol=1e-5)


def test_samples_come_to_the_whole_loss_on_average():
  arguments = made_example(1.0, I=60)
  sampled = jax.jit(functools.partial(cross_entropy.sampled_cross_entropy, *arguments))
  total = np.mean(
    [
      sampled(jax.random.randint(key, (40,), 0, 60))
      for key in jax.random.split(jax.random.key(0), 200)
    ]
  )
  expected = plain_loss(*arguments)
  # The logarithm of an unbiased sum is a little below: by half its relative variance.
  np.testing.assert_allclose(total, expected, rtol=0.05)
