"""The transformer and its search against an independent T5, by that T5's numbers.

`python tests/parity_t5.py --write` makes golden/t5.npz with transformers' T5, from
weights of ours; without `--write` it compares the two at the paper's shape. What both
need stands here, so that the tests need neither torch nor transformers.
"""

import functools
import pathlib
from typing import NamedTuple

from flax import traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.decoding import beam, trie
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems import lightlm
from lightlm_jax.systems import token_sequences as text

GOLDEN = pathlib.Path(__file__).with_name("golden") / "t5.npz"
CONFIG = encoder_decoder.Config(
  V=40, W=6, D=32, N=2, num_decoder_layers=3, H=4, A=8, F=6, dropout_rate=0.0
)
BEAM_SIZE = 20
LENGTH_PENALTY = 1.0

ERROR_BAR = 1e-4  # of ||ours - theirs|| / ||theirs||
SCORE_BAR = 1e-4  # of a code's score; codes that are closer may be swapped


class Inputs(NamedTuple):
  """A batch as the model reads it: sources right-aligned, targets padded with -1."""

  token_BS: np.ndarray
  word_BS: np.ndarray
  segment_BS: np.ndarray
  target_BL: np.ndarray


@functools.partial(jax.jit, static_argnames="net")
def outputs(net, params, inputs: Inputs) -> dict[str, jax.Array]:
  """All that is compared: states (0 at padding), logits, loss, a gradient a path."""
  target_BL = inputs.target_BL

  def loss(params):
    apply = functools.partial(net.apply, {"params": params})
    encoded_BSD, memory = _begin(apply, inputs)
    told_BKL = lightlm.shift_right(target_BL)[:, None]
    segment_BK = jnp.ones((len(target_BL), 1), jnp.int32)
    state_BKLD = apply(told_BKL, memory, segment_BK, method="states")
    logits_BKLV = apply(state_BKLD, method="logits")
    logits_BLV = logits_BKLV[:, 0]
    real_BL = target_BL >= 0
    cross_entropy_BL = lightlm.token_cross_entropy(logits_BLV, target_BL, 0.0)
    per_target_B = (cross_entropy_BL * real_BL).sum(1) / real_BL.sum(1)
    return per_target_B.mean(), (encoded_BSD, logits_BLV)

  with jax.default_matmul_precision("highest"):
    (value, aux), gradient = jax.value_and_grad(loss, has_aux=True)(params)
  encoded_BSD, logits_BLV = aux
  return {
    "encoded_BSD": encoded_BSD * (inputs.segment_BS > 0)[..., None],
    "logits_BLV": logits_BLV,
    "loss": value,
  } | traverse_util.flatten_dict({"gradients": gradient}, sep="/")


def _begin(apply, inputs: Inputs):
  """The encoder's states and their cross-attention keys and values."""
  encoded_BSD = apply(*inputs[:3], method="encode")
  return encoded_BSD, apply(
    encoded_BSD, inputs.segment_BS, method="precompute_cross_kv"
  )


@functools.partial(jax.jit, static_argnames="net")
def _find(net, params, inputs: Inputs, item_trie):
  apply = functools.partial(net.apply, {"params": params})
  _, kv = _begin(apply, inputs)

  def step(token_BK, parent_BK, cache):
    segment_BK = jnp.ones_like(token_BK)
    arguments = token_BK, parent_BK, kv, segment_BK, cache
    state_BKD, cache = apply(*arguments, method="extend")
    return apply(state_BKD, method="logits"), cache

  options = beam.Options(
    beam_size=BEAM_SIZE, start_token=text.START, length_penalty=LENGTH_PENALTY
  )
  beams = beam.search(
    step,
    encoder_decoder.Cache(),
    item_trie,
    None,
    options,
    B=len(inputs.token_BS),
  )
  return beam.recommendations(beams, item_trie, options, k=BEAM_SIZE)


def search(net, params, inputs: Inputs, code_IL: np.ndarray):
  """The best codes [B, K, L] of each row's source, best first, and scores [B, K]."""
  item_trie, _ = trie.build(code_IL, net.config.V, 2**24)
  with jax.default_matmul_precision("highest"):
    found = _find(net, params, inputs, jax.device_put(item_trie))
  assert np.asarray(found.valid_BK).all()
  return code_IL[np.asarray(found.items_BK)], np.asarray(found.scores_BK)


def relative_errors(ours: dict, theirs: dict) -> dict[str, float]:
  """The error of each array by its name; both sides must have the same ones."""
  assert set(ours) == set(theirs)
  wide = {name: np.asarray(array, np.float64) for name, array in theirs.items()}
  return {
    name: float(np.linalg.norm(ours[name] - array) / np.linalg.norm(array))
    for name, array in wide.items()
  }


def worst(errors: dict[str, float], quantity: str) -> tuple[float, str]:
  """The largest error of a quantity's arrays, and the name of its array."""
  # NaN first: whatever it is compared with, it passes no bar.
  return max(
    ((error, name) for name, error in errors.items() if name.startswith(quantity)),
    key=lambda pair: (np.isnan(pair[0]), pair[0]),
  )


def agree(code_KL, score_K, expected_KL, expected_K) -> bool:
  """The same codes in the same order with the same scores, but for near ties.

  Codes whose scores are closer than the bar may be swapped, also with the first one
  that is not in the list.
  """
  last = len(expected_K) - 1
  rank_of = {tuple(code): rank for rank, code in enumerate(code_KL.tolist())}
  rank_K = [rank_of.get(tuple(code), last) for code in expected_KL.tolist()]
  return bool(
    len(rank_of) == len(expected_K)
    and (np.abs(score_K - expected_K) < SCORE_BAR).all()
    and (np.abs(expected_K[rank_K] - expected_K) < SCORE_BAR).all()
  )


class Golden:
  """The file's arrays, and our model with the file's weights."""

  def __init__(self):
    with np.load(GOLDEN) as file:
      arrays = traverse_util.unflatten_dict(dict(file), sep="/")
    # Stored as float16, which holds them exactly: half the size.
    self.params = jax.tree.map(lambda leaf: leaf.astype(np.float32), arrays["params"])
    self.inputs = Inputs(**arrays["inputs"])
    self.code_IL = arrays["code_IL"]
    self.top_BKL, self.score_BK = arrays["top_BKL"], arrays["score_BK"]
    self.t5 = traverse_util.flatten_dict(arrays["t5"], sep="/")
    self.net = encoder_decoder.EncoderDecoder(CONFIG)

  def errors(self, params):
    ours = jax.device_get(outputs(self.net, params, self.inputs))
    return relative_errors(ours, self.t5)


@pytest.fixture(scope="module")
def golden():
  return Golden()


@pytest.fixture(scope="module")
def errors(golden):
  return golden.errors(golden.params)


@pytest.mark.parametrize("quantity", ["encoded_BSD", "logits_BLV", "loss", "gradients"])
def test_t5_computes_the_same(errors, quantity):
  error, name = worst(errors, quantity)
  assert error <= ERROR_BAR, name


def test_every_parameter_has_a_gradient_of_t5(golden):
  paths = traverse_util.flatten_dict({"gradients": golden.params}, sep="/")
  assert {name for name in golden.t5 if name.startswith("gradients/")} == set(paths)


def test_each_parameter_counts(golden):
  """None could be 1% off, or unused, and pass."""
  flat = traverse_util.flatten_dict(golden.params)
  for path, leaf in flat.items():
    params = traverse_util.unflatten_dict(flat | {path: leaf * np.float32(1.01)})
    others = golden.errors(params)
    for quantity in ("logits_BLV", "gradients"):
      assert worst(others, quantity)[0] > 10 * ERROR_BAR, path


def test_t5_finds_the_same_codes(golden):
  found = search(golden.net, golden.params, golden.inputs, golden.code_IL)
  expected = golden.top_BKL, golden.score_BK
  for row in zip(*found, *expected):
    assert agree(*row)
  # It is no order that any source would give.
  for row in range(1, len(golden.top_BKL)):
    assert not agree(
      *(array[0] for array in found), *(array[row] for array in expected)
    )


def test_only_near_ties_may_be_swapped():
  code_KL, score_K = np.array([[2], [3], [4], [5]]), np.array([-1, -2, -2.00005, -3])
  swapped, other = code_KL[[0, 2, 1, 3]], np.array([[2], [3], [4], [6]])
  assert agree(code_KL, score_K, code_KL, score_K)
  assert agree(swapped, score_K, code_KL, score_K)
  assert agree(other, score_K, code_KL, score_K)
  assert not agree(code_KL[[1, 0, 2, 3]], score_K, code_KL, score_K)
  assert not agree(code_KL[[0, 1, 3, 2]], score_K, code_KL, score_K)
  assert not agree(np.array([[2], [6], [4], [5]]), score_K, code_KL, score_K)
  assert not agree(code_KL, score_K - 0.001, code_KL, score_K)
