"""Balanced SCI: clusters of equal size, otherwise as near as can be."""

import numpy as np
import pytest

from lightlm_jax.config.data_groups import Ids
from lightlm_jax.data.synthetic import Shop, make_shop
from lightlm_jax.ids import spectral


def distances(value_NK, centre_CK):
  return ((value_NK[:, None] - centre_CK[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize(("N", "C"), [(60, 6), (61, 6), (7, 7), (5, 1)])
def test_no_cluster_exceeds_its_share_and_nobody_would_change(N, C, monkeypatch):
  """Deferred acceptance is stable: whoever is nearer to a full cluster is in it."""
  monkeypatch.setattr(spectral, "_BALANCE_ROUNDS", 1)
  rng = np.random.default_rng(N)
  # Most points are around one centre.
  value_NK = rng.normal(size=(N, 3)) * 0.3
  centre_CK = np.concatenate([np.zeros((1, 3)), rng.normal(size=(C - 1, 3))])
  label_N = spectral.equal_clusters(value_NK, centre_CK)
  capacity = -(-N // C)
  size_C = np.bincount(label_N, minlength=C)
  assert size_C.max() <= capacity
  far_NC = distances(value_NK, centre_CK)
  own_N = far_NC[np.arange(N), label_N]
  for n, c in zip(*np.nonzero(far_NC < own_N[:, None] - 1e-9)):
    assert size_C[c] == capacity
    assert own_N[label_N == c].max() <= far_NC[n, c] + 1e-9


def test_what_is_balanced_already_stays():
  centre_CK = np.eye(4) * 10
  label_N = np.repeat(np.arange(4), 5)
  value_NK = centre_CK[label_N] + np.random.default_rng(0).normal(size=(20, 4))
  found_N = spectral.equal_clusters(value_NK, centre_CK)
  np.testing.assert_array_equal(found_N, label_N)


def largest(train, **fields):
  """The most items below a first token, and how many first tokens there are."""
  config = Ids(branching=9, leaf_size=8, levels=1, **fields)
  items_IL, users_UL = spectral.spectral_ids(train, config, seed=0)
  assert len(users_UL) == train.num_users
  assert len(np.unique(items_IL, axis=0)) == train.num_items
  return max(np.unique(items_IL[:, 0], return_counts=True)[1])


@pytest.mark.parametrize("graph", ["bipartite", "items", "separate"])
def test_ids_are_as_even_as_asked(graph):
  train = make_shop(Shop(num_users=200))[0]
  even = largest(train, graph=graph, balanced=True)
  assert even <= -(-train.num_items // 9)
  assert even < largest(train, graph=graph)
