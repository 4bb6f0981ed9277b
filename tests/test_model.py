"""The transformer against identities: padding, packing, caching and causality."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.models import encoder_decoder, layers
from lightlm_jax.training.state import count_parameters

V, W = 23, 6
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


def exact_bucket(distance, bidirectional, num_buckets=32, max_distance=128):
  """T5's published bucket of key minus query position, in whole numbers only.

  The formula's floor(log(n / exact) / log(max / exact) * steps) is the largest j with
  (n / exact)**steps >= (max / exact)**j.
  """
  bucket, n = 0, -distance
  if bidirectional:
    num_buckets //= 2
    if n < 0:
      bucket, n = num_buckets, -n
  else:
    n = max(n, 0)
  exact = num_buckets // 2
  if n < exact:
    return bucket + n
  steps = num_buckets - exact
  j = 0
  while n**steps * exact ** (j + 1) >= max_distance ** (j + 1) * exact**steps:
    j += 1
  return bucket + min(exact + j, num_buckets - 1)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_the_published_ones(bidirectional):
  distance = np.arange(-300, 301, dtype=np.int32)
  bucket = layers.relative_position_bucket(
    jnp.asarray(distance),
    bidirectional=bidirectional,
    num_buckets=32,
    max_distance=128,
  )
  assert bucket.tolist() == [exact_bucket(int(d), bidirectional) for d in distance]
  assert set(bucket.tolist()) == set(range(32)) - ({16} if bidirectional else set())


def test_rms_norm_is_its_formula():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 5, 7)).astype(np.float32) * 4
  scale = rng.normal(size=7).astype(np.float32)
  got = layers.RMSNorm().apply({"params": {"scale": scale}}, x)
  rms = np.sqrt((x.astype(np.float64) ** 2).mean(axis=-1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(got, x / rms * scale, **TOLERANCE)
  rounded = layers.RMSNorm().apply({"params": {"scale": scale}}, x.astype(jnp.bfloat16))
  assert rounded.dtype == jnp.bfloat16


def test_feed_forward_is_its_formula():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 5, 7)).astype(np.float32)
  inner = rng.normal(size=(7, 3)).astype(np.float32)
  outer = rng.normal(size=(3, 7)).astype(np.float32)
  params = {"inner": {"kernel": inner}, "outer": {"kernel": outer}}
  module = layers.FeedForward(F=3, dropout_rate=0.5, dtype=jnp.float32)
  got = module.apply({"params": params}, x)
  np.testing.assert_allclose(got, np.maximum(x @ inner, 0) @ outer, **TOLERANCE)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_its_share(rate):
  x = jnp.full((501, 403), 3.0)  # a size that four does not divide
  dropout = layers.Dropout(rate)
  assert (dropout.apply({}, x) == x).all()
  y = dropout.apply({}, x, rngs={"dropout": jax.random.key(0)})
  kept = np.asarray(y) != 0
  drop = round(rate * 256) / 256
  deviation = (drop * (1 - drop) / x.size) ** 0.5
  assert abs(kept.mean() - (1 - drop)) < 4 * deviation
  np.testing.assert_allclose(np.asarray(y)[kept], 3 / (1 - drop), rtol=1e-6)
  assert abs(float(y.mean()) / 3 - 1) < 4 * deviation / (1 - drop)
  # Neighbours share a random word, but not their fate.
  for a, b in ((kept[:, :-1], kept[:, 1:]), (kept[:-1], kept[1:])):
    covariance = (a & b).mean() - a.mean() * b.mean()
    assert abs(covariance) < 4 * drop * (1 - drop) / x.size**0.5
  other = dropout.apply({}, x, rngs={"dropout": jax.random.key(1)})
  assert (np.asarray(other) != np.asarray(y)).mean() > drop / 2


def test_dropout_of_nearly_all_is_finite():
  x = jnp.ones((64, 64))
  y = layers.Dropout(0.999).apply({}, x, rngs={"dropout": jax.random.key(0)})
  assert set(np.unique(y).tolist()) == {0, 256}


def make(dtype=jnp.float32, dropout_rate=0.3, word=W):
  config = encoder_decoder.Config(
    V=V,
    W=word,
    D=16,
    N=2,
    num_decoder_layers=2,
    H=2,
    A=8,
    F=8,
    dropout_rate=dropout_rate,
    dtype=dtype,
  )
  return encoder_decoder.EncoderDecoder(config)


def read(net, token_BS, word_BS, segment_BS, token_BKL, segment_BK):
  """The encoded source beside the logits, in one program."""
  encoded_BSD = net.encode(token_BS, word_BS, segment_BS)
  kv = net.precompute_cross_kv(encoded_BSD, segment_BS)
  return encoded_BSD, net.logits(net.states(token_BKL, kv, segment_BK))


def cross_kv(net, token_BS, word_BS, segment_BS):
  return net.precompute_cross_kv(net.encode(token_BS, word_BS, segment_BS), segment_BS)


class Model:
  """One set of parameters; every method compiled once a shape."""

  def __init__(self):
    self.net = make()
    ones = jnp.ones((1, 1), jnp.int32)
    init = jax.jit(self.net.init)
    self.params = init(
      jax.random.key(0, impl="rbg"), ones, ones, ones, ones[None], ones
    )

    def compiled(method):
      apply = functools.partial(self.net.apply, method=method)
      return functools.partial(jax.jit(apply), self.params)

    self.forward = compiled(None)
    self.read = compiled(read)
    self.cross_kv = compiled(cross_kv)
    self.logits = compiled("logits")
    extend = compiled("extend")

    def extended(*arguments):
      state_BKD, cache = extend(*arguments)
      return self.logits(state_BKD), cache

    self.extend = extended


@pytest.fixture(scope="module")
def model():
  return Model()


def source(seed, B=2, S=9):
  rng = np.random.default_rng(seed)
  return (
    rng.integers(V, size=(B, S), dtype=np.int32),
    rng.integers(W, size=(B, S), dtype=np.int32),
    np.ones((B, S), np.int32),
  )


def target(seed, B=2, K=3, L=5):
  return np.random.default_rng(seed).integers(V, size=(B, K, L), dtype=np.int32)


def left_pad(array_BS, width, value):
  return np.pad(array_BS, ((0, 0), (width, 0)), constant_values=value)


def test_padding_on_the_left_changes_nothing(model):
  token_BS, word_BS, segment_BS = source(0)
  asked = target(1), np.ones((2, 3), np.int32)
  expected = model.read(token_BS, word_BS, segment_BS, *asked)
  padded = left_pad(token_BS, 4, 7), left_pad(word_BS, 4, 3)
  encoded, logits = model.read(*padded, left_pad(segment_BS, 4, 0), *asked)
  np.testing.assert_allclose(encoded[:, 4:], expected[0], **TOLERANCE)
  np.testing.assert_allclose(logits, expected[1], **TOLERANCE)
  # In the segment the same tokens would count.
  encoded, logits = model.read(*padded, left_pad(segment_BS, 4, 1), *asked)
  assert np.abs(encoded[:, 4:] - expected[0]).max() > 0.01
  assert np.abs(logits - expected[1]).max() > 0.01


def test_two_examples_in_one_row_are_two_rows(model):
  (token, word, segment), token_BKL = source(0), target(1)
  B = len(token)
  segment_BK = np.ones((B, 3), np.int32)
  encoded, logits = model.read(token, word, segment, token_BKL, segment_BK)

  def pack(array):
    return array.reshape(1, -1, *array.shape[2:])

  def read_packed(first, second):
    each = np.array([[first], [second]], np.int32)
    return model.read(
      pack(token),
      pack(word),
      pack(segment * np.array([[1], [2]], np.int32)),
      pack(token_BKL),
      pack(segment_BK * each),
    )

  together, packed_logits = read_packed(1, 2)
  np.testing.assert_allclose(together.reshape(encoded.shape), encoded, **TOLERANCE)
  np.testing.assert_allclose(packed_logits.reshape(logits.shape), logits, **TOLERANCE)
  _, swapped_logits = read_packed(2, 1)
  assert np.abs(swapped_logits.reshape(logits.shape) - logits).max() > 0.01


def test_logits_depend_on_no_later_token(model):
  """The gradient of logits at l by what the decoder reads at m is zero for m > l."""
  params = model.params["params"]
  L = 5
  # Target tokens of their own, so that a row of the table is a position's input.
  token_BKL = np.arange(V - L, V, dtype=np.int32)[None, None]
  source_1S = tuple(array[:1] % (V - L) for array in source(0))

  def logits_of(embedding_VD):
    logits = model.net.apply(
      {"params": params | {"embedding": embedding_VD}},
      *source_1S,
      token_BKL,
      np.ones((1, 1), np.int32),
    )
    return logits[0, 0, :, : V - L].sum(axis=-1)

  gradient_LVD = jax.jit(jax.jacrev(logits_of))(params["embedding"])
  reach_LM = np.abs(gradient_LVD[:, V - L :]).sum(axis=-1)
  assert (reach_LM[np.triu_indices(L, 1)] == 0).all()
  assert (reach_LM[np.tril_indices(L)] > 1e-6).all()


def test_step_by_step_equals_teacher_forcing(model):
  source_BS, token_BKL = source(0), target(1)
  B, K, L = token_BKL.shape
  segment_BK = np.ones((B, K), np.int32)
  expected = model.forward(*source_BS, token_BKL, segment_BK)
  assert expected.dtype == jnp.float32
  assert expected.shape == (B, K, L, V)
  np.testing.assert_allclose(
    model.read(*source_BS, token_BKL, segment_BK)[1], expected, **TOLERANCE
  )
  kv = model.cross_kv(*source_BS)
  cache, logits = encoder_decoder.Cache(), []
  stay_BK = np.tile(np.arange(K, dtype=np.int32), (B, 1))
  for token_BK in np.moveaxis(token_BKL, 2, 0):
    part, cache = model.extend(token_BK, stay_BK, kv, segment_BK, cache)
    logits.append(part)
  assert [key.shape for key in cache.key] == [(2, B, 2, 8, K)] * L
  np.testing.assert_allclose(np.stack(logits, axis=2), expected, **TOLERANCE)


def test_beams_that_change_places_keep_their_own_past(model):
  """Each beam's logits are those of its whole path, whichever slots it came through."""
  rng = np.random.default_rng(0)
  source_BS = source(0)
  B = len(source_BS[0])
  kv = model.cross_kv(*source_BS)
  cache, path_BKL = encoder_decoder.Cache(), np.zeros((B, 1, 0), np.int32)
  for K in (1, 3, 3, 2):
    parent_BK = rng.integers(path_BKL.shape[1], size=(B, K), dtype=np.int32)
    token_BK = rng.integers(V, size=(B, K), dtype=np.int32)
    segment_BK = np.ones((B, K), np.int32)
    logits, cache = model.extend(token_BK, parent_BK, kv, segment_BK, cache)
    past_BKL = np.take_along_axis(path_BKL, parent_BK[..., None], axis=1)
    path_BKL = np.concatenate([past_BKL, token_BK[..., None]], axis=2)
    expected = model.forward(*source_BS, path_BKL, segment_BK)[:, :, -1]
    np.testing.assert_allclose(logits, expected, **TOLERANCE)


def test_beams_that_share_a_source_do_not_meet(model):
  source_BS, token_BKL = source(0), target(1)
  together = model.forward(*source_BS, token_BKL, np.ones((2, 3), np.int32))
  for k in range(3):
    alone = model.forward(
      *source_BS, token_BKL[:, k : k + 1], np.ones((2, 1), np.int32)
    )
    np.testing.assert_allclose(together[:, k : k + 1], alone, **TOLERANCE)


def test_dropout_is_on_where_an_rng_is_given(model):
  arguments = *source(0), target(1), np.ones((2, 3), np.int32)
  still = model.forward(*arguments)
  without = jax.jit(make(dropout_rate=0.0).apply)(model.params, *arguments)
  np.testing.assert_allclose(still, without, **TOLERANCE)

  def shaken(seed):
    rngs = {"dropout": jax.random.key(seed, impl="rbg")}  # compiles faster
    return np.asarray(model.forward(*arguments, rngs=rngs))

  assert (shaken(0) == shaken(0)).all()
  assert np.abs(shaken(0) - still).max() > 0.01
  assert np.abs(shaken(0) - shaken(1)).max() > 0.01


def test_layers_unrolled_under_dropout_are_the_loop(model, monkeypatch):
  arguments = *source(0), target(1), np.ones((2, 3), np.int32)
  rngs = {"dropout": jax.random.key(0, impl="rbg")}

  @jax.value_and_grad
  def loss(params):
    logits = model.net.apply(params, *arguments, rngs=rngs)
    return (jax.nn.log_softmax(logits)[..., 0] ** 2).mean()

  found = []
  for layers_at_once, loops in ((8, "unroll=2"), (1, "unroll=1")):
    monkeypatch.setattr(encoder_decoder, "_UNROLLED", layers_at_once)
    traced = jax.jit(lambda params: loss(params)).trace(model.params)
    assert str(traced.jaxpr).count(loops) >= 3
    found.append(traced.lower().compile()(model.params))
  unrolled, looped = map(jax.tree.leaves, found)
  for one, other in zip(unrolled, looped):
    np.testing.assert_allclose(one, other, **TOLERANCE)


def test_bfloat16_is_only_for_computing(model):
  arguments = *source(0), target(1), np.ones((2, 3), np.int32)
  net = make(dtype=jnp.bfloat16)
  init = functools.partial(net.init, jax.random.key(0))
  for leaf in jax.tree.leaves(jax.eval_shape(init, *arguments)):
    assert leaf.dtype == jnp.float32
  logits = jax.jit(net.apply)(model.params, *arguments)
  assert logits.dtype == jnp.float32
  exact = model.forward(*arguments)
  worst = np.abs(logits - exact).max()
  assert 0 < worst < 0.05 * np.abs(exact).max()
  rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
  assert (rounded != logits).mean() > 0.9, "equal logits are tied items"
  encode = functools.partial(net.apply, method="encode")
  assert jax.eval_shape(encode, model.params, *arguments[:3]).dtype == jnp.bfloat16


def test_the_word_of_a_token_counts(model):
  token_BS, word_BS, segment_BS = source(0)
  asked = target(1), np.ones((2, 3), np.int32)
  word, _ = model.read(token_BS, word_BS, segment_BS, *asked)
  other, _ = model.read(token_BS, (word_BS + 1) % W, segment_BS, *asked)
  assert np.abs(word - other).max() > 0.01


@pytest.mark.parametrize("word", [0, 21])
def test_the_paper_shape_has_its_parameters(word):
  config = encoder_decoder.Config(V=1000, W=word)
  assert (config.D, config.N, config.num_decoder_layers) == (512, 6, 6)
  assert (config.H, config.A, config.F) == (8, 64, 16)
  net = encoder_decoder.EncoderDecoder(config)
  ones = jnp.ones((1, 1), jnp.int32)
  init = functools.partial(net.init, jax.random.key(0))
  params = jax.eval_shape(init, ones, ones, ones, ones[None], ones)["params"]
  attention = 4 * 512 * 8 * 64
  feed_forward = 2 * 512 * 16
  encoder = 6 * (attention + feed_forward + 2 * 512)
  decoder = 6 * (2 * attention + feed_forward + 3 * 512)
  by_hand = encoder + decoder + 2 * 32 * 8 + 2 * 512
  assert by_hand == 19_087_872
  assert count_parameters(params) == {
    "total": by_hand + (1000 + word) * 512,
    "non_embedding": by_hand,
  }


def test_layers_are_scanned_not_unrolled():
  """Depth costs parameters, not program size."""
  sizes = []
  for depth in (2, 8):
    net = encoder_decoder.EncoderDecoder(
      encoder_decoder.Config(V=V, W=W, D=16, N=depth, num_decoder_layers=depth, H=2)
    )
    arguments = *source(0), target(1), np.ones((2, 3), np.int32)
    init = functools.partial(net.init, jax.random.key(0))
    params = jax.eval_shape(init, *arguments)
    sizes.append(len(str(jax.make_jaxpr(net.apply)(params, *arguments)).split("\n")))
  assert sizes[0] == sizes[1]


def test_what_is_computed_again_needs_no_memory_and_changes_no_gradient():
  shape = {"V": V, "W": W, "D": 32, "N": 4, "num_decoder_layers": 4, "H": 2, "A": 16}
  inputs = *source(0), target(1), np.ones((len(target(1)), 3), np.int32)

  def network(remat):
    return encoder_decoder.EncoderDecoder(
      encoder_decoder.Config(**shape, dropout_rate=0.2, remat=remat)
    )

  def learned(remat):
    net = network(remat)

    def loss(params):
      rngs = {"dropout": jax.random.key(3, impl="rbg")}  # compiles faster
      logits_BKLV = net.apply({"params": params}, *inputs, rngs=rngs)
      return jax.nn.logsumexp(logits_BKLV, axis=-1).mean()

    compiled = jax.jit(jax.value_and_grad(loss)).lower(params).compile()
    return compiled(params), compiled.memory_analysis().temp_size_in_bytes

  key = jax.random.key(0, impl="rbg")
  params = jax.jit(network(False).init)(key, *inputs)["params"]
  (kept, bytes_kept), (again, bytes_again) = learned(False), learned(True)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), kept, again)
  assert bytes_again < 0.7 * bytes_kept
