"""Every parameter has a sharding rule, or is replicated on purpose."""

import jax
import jax.numpy as jnp
import pytest
import served as small

from lightlm_jax.config import schema
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.systems import base

UNTRAINED = (*schema.BASELINES, "ensemble")
TRAINABLE = [name for name in small.NAMES if name not in UNTRAINED]


def parameters(name):
  _, built = small.built_only(name)
  assert isinstance(built.system, base.Trainable)
  shapes = jax.eval_shape(built.system.init, jax.random.key(0))
  for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
    yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


@pytest.mark.parametrize("name", TRAINABLE)
def test_every_matrix_has_a_rule_or_is_replicated_on_purpose(name):
  for path, leaf in parameters(name):
    if leaf.ndim > 1:
      by_rule = mesh_lib.rule_of(path, leaf.ndim) is not None
      assert by_rule != mesh_lib.is_replicated(path), path


def test_a_large_parameter_without_a_rule_is_named_once(logged):
  side = int(mesh_lib.LARGE**0.5)
  large, small_one = (jax.ShapeDtypeStruct((n, n), jnp.float32) for n in (side, 8))
  tree = {"new_layer": {"weights": large, "other": small_one}, "embedding": large}
  for _ in range(2):
    mesh_lib.shardings(tree, mesh_lib.make(1, 1))
  (line,) = logged
  assert f"new_layer/weights of shape [{side}, {side}]" in line
