"""Decoding by memory: identities of L2D, and a plain search as an oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.decoding import latent

N, I, D, B = 60, 12, 5, 7
NEVER = 3  # an item that follows in no example


@pytest.fixture(scope="module")
def made():
  rng = np.random.default_rng(0)
  item_N = rng.choice(np.delete(np.arange(I), NEVER), N).astype(np.int32)
  state_ND = (rng.normal(size=(N, D)) + item_N[:, None] / 4).astype(np.float16)
  asked_BD = rng.normal(size=(B, D)).astype(np.float32) + 1
  return state_ND, item_N, asked_BD


def memory_of(state_ND, item_N, prior=0.0):
  return latent.build(jnp.asarray(state_ND), jnp.asarray(item_N), I, prior)


def order(score_BI):
  return np.argsort(-np.asarray(score_BI), axis=1, kind="stable")


def plainly(state_ND, item_N, asked_D, nearest):
  """Items by distance, one loop after the other."""
  state_ND = state_ND.astype(np.float64)

  def by_mean(kept):
    found = {}
    for item in set(item_N[kept].tolist()):
      mean_D = state_ND[kept][item_N[kept] == item].mean(axis=0)
      found[item] = np.linalg.norm(asked_D - mean_D)
    return sorted(found, key=found.get)

  distance_N = np.linalg.norm(state_ND - asked_D, axis=1)
  first = by_mean(np.argsort(distance_N, kind="stable")[:nearest])
  rest = [item for item in by_mean(np.arange(N)) if item not in first]
  return first + rest


@pytest.mark.parametrize(
  ("nearest", "chunk"), [(1, 7), (4, 16), (25, 7), (N, 16), (4, 16_384), (N, 16_384)]
)
def test_local_is_what_a_plain_search_finds(made, nearest, chunk, monkeypatch):
  monkeypatch.setattr(latent, "CHUNK", chunk)
  state_ND, item_N, asked_BD = made
  score_BI = latent.local_scores(asked_BD, memory_of(state_ND, item_N), nearest)
  for asked_D, order_I in zip(asked_BD, order(score_BI)):
    assert order_I[:-1].tolist() == plainly(state_ND, item_N, asked_D, nearest)
    assert order_I[-1] == NEVER


def test_all_of_memory_as_neighbours_is_the_global_score(made):
  state_ND, item_N, asked_BD = made
  memory = memory_of(state_ND, item_N)
  everywhere = latent.global_scores(asked_BD, memory)
  np.testing.assert_allclose(
    latent.local_scores(asked_BD, memory, N), everywhere, rtol=1e-5
  )
  distance = np.linalg.norm(asked_BD[:, None] - np.asarray(memory.mean_ID), axis=2)
  seen = np.arange(I) != NEVER
  np.testing.assert_allclose(everywhere[:, seen], 1 / distance[:, seen], rtol=1e-4)
  assert (everywhere[:, NEVER] == -np.inf).all()


@pytest.mark.parametrize("prior", [0.0, 1.0, 5.0])
def test_with_a_prior_it_is_the_posterior_of_normal_states(made, prior):
  state_ND, item_N, asked_BD = made
  memory = memory_of(state_ND, item_N, prior)
  state_ND = state_ND.astype(np.float64)
  items = np.delete(np.arange(I), NEVER)
  mean_JD = np.stack([state_ND[item_N == item].mean(axis=0) for item in items])
  variance = np.square(state_ND - mean_JD[np.searchsorted(items, item_N)]).mean()
  square_BJ = np.square(asked_BD[:, None] - mean_JD).sum(axis=2)
  often_J = np.bincount(item_N, minlength=I)[items]
  assert len(set(often_J)) > 2
  expected = items[order(prior * np.log(often_J) - square_BJ / (2 * variance))]
  for scores in (
    latent.global_scores(asked_BD, memory),
    latent.local_scores(asked_BD, memory, N),
  ):
    np.testing.assert_array_equal(order(scores)[:, :-1], expected)
    assert (np.asarray(scores)[:, items] > 0).all()


def test_one_neighbour_ranks_its_item_first(made):
  state_ND, item_N, asked_BD = made
  score_BI = latent.local_scores(asked_BD, memory_of(state_ND, item_N), 1)
  distance_BN = np.linalg.norm(asked_BD[:, None] - state_ND[None], axis=2)
  assert (order(score_BI)[:, 0] == item_N[distance_BN.argmin(axis=1)]).all()
  # A request that memory holds is its own nearest.
  own = latent.local_scores(state_ND.astype(np.float32), memory_of(state_ND, item_N), 1)
  assert (order(own)[:, 0] == item_N).all()


@pytest.mark.parametrize("nearest", [6, N])
def test_the_order_of_memory_changes_nothing(made, nearest):
  state_ND, item_N, asked_BD = made
  other_N = np.random.default_rng(1).permutation(N)
  a = latent.local_scores(asked_BD, memory_of(state_ND, item_N), nearest)
  other = memory_of(state_ND[other_N], item_N[other_N])
  b = latent.local_scores(asked_BD, other, nearest)
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert (order(a) == order(b)).all()


def test_rows_that_only_fill_the_memory_are_no_neighbours(made):
  state_ND, item_N, asked_BD = made
  few = memory_of(state_ND[:9], item_N[:9])
  room = ((0, 50), (0, 0))
  filled = memory_of(
    np.pad(state_ND[:9], room), np.pad(item_N[:9], (0, 50), constant_values=-1)
  )
  for nearest in (3, 9):
    np.testing.assert_allclose(
      latent.local_scores(asked_BD, few, nearest),
      latent.local_scores(asked_BD, filled, nearest),
      rtol=1e-6,
    )
  # More than there are: all of them.
  np.testing.assert_allclose(
    latent.local_scores(asked_BD, few, 9),
    latent.local_scores(asked_BD, filled, 30),
    rtol=1e-6,
  )


def test_distances_of_float16_are_float32(made):
  state_ND, _, asked_BD = made
  found = latent.squared_distances(asked_BD, jnp.asarray(state_ND))
  assert found.dtype == jnp.float32
  expected = np.square(asked_BD[:, None].astype(np.float64) - state_ND[None]).sum(2)
  np.testing.assert_allclose(found, expected, rtol=1e-5)
  assert jax.jit(latent.squared_distances)(asked_BD, asked_BD).shape == (B, B)
