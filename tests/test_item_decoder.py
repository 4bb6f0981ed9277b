"""The Llama-style decoder: against transformers' numbers, and what reads what."""

import functools
import pathlib

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.models import decoder
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import next_item
from lightlm_jax.training import state as state_lib

# Written by parity_llama.py, with transformers' LlamaModel.
GOLDEN = pathlib.Path(__file__).with_name("golden") / "llama.npz"
GOLDEN_CONFIG = decoder.Config(D=16, N=2, H=4, G=2, F=24, dropout_rate=0.0)
I = 30


def net_and_params(**shape):
  config = decoder.Config(D=16, N=2, H=2, G=1, F=24, dropout_rate=0.0, **shape)
  net = decoder.Transformer(config)
  x_BLD = jnp.zeros((1, 4, 16))
  init = jax.jit(net.init)
  return net, init(jax.random.key(0), x_BLD, jnp.ones((1, 4), jnp.int32))["params"]


@functools.partial(jax.jit, static_argnames="net")
def read(net, params, x_BLD, segment_BL):
  return net.apply({"params": params}, x_BLD, segment_BL)


def vectors(*shape):
  return np.random.default_rng(0).normal(size=(*shape, 16)).astype(np.float32)


def test_the_states_are_those_of_llama():
  golden = dict(np.load(GOLDEN))
  x_BLD, hidden_BLD = golden.pop("x_BLD"), golden.pop("hidden_BLD")
  params = traverse_util.unflatten_dict(golden, sep="/")
  net = decoder.Transformer(GOLDEN_CONFIG)
  with jax.default_matmul_precision("highest"):
    ours = read(net, params, x_BLD, np.ones(x_BLD.shape[:2], np.int32))
  np.testing.assert_allclose(ours, hidden_BLD, atol=1e-5)


@pytest.mark.parametrize("causal", [True, False])
def test_which_positions_are_seen_by_gradient(causal):
  """Those up to it of its own segment, or all of its own segment."""
  net, params = net_and_params(causal=causal)
  segment_BL = np.array([[1, 1, 2, 2, 2, 0, 0]], np.int32)
  x_BLD = vectors(1, 7)

  @jax.jit
  @jax.grad
  def gradient(x_BLD, place):
    return net.apply({"params": params}, x_BLD, segment_BL)[0, place].sum()

  for place in range(5):
    seen_L = np.abs(gradient(x_BLD, place)[0]).max(axis=-1) > 0
    expected_L = segment_BL[0] == segment_BL[0, place]
    if causal:
      expected_L &= np.arange(7) <= place
    assert seen_L.tolist() == expected_L.tolist()


def test_a_segment_may_stand_anywhere():
  net, params = net_and_params()
  x_BLD = vectors(1, 4)
  alone = read(net, params, x_BLD, np.ones((1, 4), np.int32))
  beside = np.concatenate([vectors(1, 3) * 2, x_BLD, vectors(1, 2)], axis=1)
  segment_BL = np.array([[1, 1, 1, 2, 2, 2, 2, 3, 3]], np.int32)
  packed = read(net, params, beside, segment_BL)
  np.testing.assert_allclose(packed[:, 3:7], alone, rtol=1e-4, atol=1e-5)


def test_turned_products_know_distances_alone():
  query, key = vectors(1, 1), vectors(1, 1)[:, ::-1] + 1
  at = np.repeat(query, 12, axis=1), np.repeat(key, 12, axis=1)
  turned_LA, other_LA = (decoder.rotated(jnp.asarray(x))[0] for x in at)
  product_LL = np.asarray(turned_LA @ other_LA.T)
  for distance in range(-11, 12):
    on_diagonal = np.diagonal(product_LL, distance)
    np.testing.assert_allclose(on_diagonal, on_diagonal[0], rtol=1e-4, atol=1e-4)
  assert np.ptp(product_LL[0]) > 0.5


def build(**fields):
  fields = {name.replace("__", "."): value for name, value in fields.items()}
  config = config_lib.load("item_decoder", "tiny", fields)
  return next_item.item_decoder(config, I).system


def test_an_output_table_of_its_own():
  tied, untied = (
    jax.eval_shape(build(model__tied=tied).init, jax.random.key(0))
    for tied in (True, False)
  )
  assert "output" not in tied
  assert untied["output"].shape == untied["embedding"].shape == (I, 32)
  counts = [state_lib.count_parameters(params) for params in (tied, untied)]
  assert counts[0]["non_embedding"] == counts[1]["non_embedding"]
  assert counts[1]["total"] - counts[0]["total"] == I * 32


def test_queries_that_share_keys_have_fewer_weights():
  def size(heads):
    system = build(model__num_heads=4, model__num_kv_heads=heads)
    params = jax.eval_shape(system.init, jax.random.key(0))
    return params["transformer"]["block_0"]["attention"]["key"]["kernel"].size

  assert size(4) == 4 * size(1)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("input.history", 0, "input.history is 0; it must be at least 1"),
    ("model.num_kv_heads", 3, "num_heads 2 does not divide over .*num_kv_heads 3"),
    ("model.num_heads", 32, "a head of width 1 cannot be rotated"),
    ("train.loss", "bce", "choose one of full, sampled, binary"),
    ("train.negatives", 0, "at least 1"),
  ],
)
def test_what_cannot_be_built_is_refused_in_a_line(field, value, message):
  overrides = {"model.num_kv_heads": 1} if field == "model.num_heads" else {}
  config = config_lib.load("item_decoder:tiny", overrides=overrides | {field: value})
  with pytest.raises(UserError, match=message):
    config_lib.check(config)


def test_another_system_s_config_is_refused():
  with pytest.raises(UserError, match="start from --config=item_decoder"):
    config_lib.load("sasrec:tiny", overrides={"system": "item_decoder"})
