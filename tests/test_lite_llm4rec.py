"""Lite-LLM4Rec against its definition: heads, texts, caches, what a batch encodes."""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import types

from compiled import Compiled, Scored
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_next_item import make_batch, make_rows

from lightlm_jax import config as config_lib
from lightlm_jax.data.splits import Requests
from lightlm_jax.data.texts import Tokens
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.evaluation import evaluator
from lightlm_jax.models import decoder, hierarchical
from lightlm_jax.runs import describe, evaluate, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import lite_llm4rec, next_item, registry

I, V, T, H = 30, 20, 5, 8
HISTORIES = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7], [11, 12]]
TARGETS = [9, 2, 0, 13]
BOUGHT = np.concatenate([np.arange(I), *[[3, 5, 5, 9]] * 4])  # the training log's items
both_heads = pytest.mark.parametrize(
  "tied", [False, pytest.param(True, marks=pytest.mark.slow)]
)


def make_texts(items=I, seed=0, width=T):
  rng = np.random.default_rng(seed)
  token_IT = np.full((items, width), -1, np.int32)
  for item, row in enumerate(token_IT):
    row[: rng.integers(2, T + 1)] = rng.integers(V)
    row[:2] = item % V, item // V  # no two are equal
  return Tokens(token_IT, V, 0, 0)


def make_config(tied, **overrides):
  fields = {
    "input.history": H,
    **({} if tied is None else {"model.tied": tied}),
    "model.d_model": 16,
    "model.num_heads": 2,
    "model.num_kv_heads": 2,
    "model.d_ff": 24,
    "model.dropout_rate": 0.0,
    "model.item_dropout_rate": 0.0,
  } | {field.replace("__", "."): value for field, value in overrides.items()}
  return config_lib.load("lite_llm4rec", "tiny", fields)


@functools.cache
def build(tied, width=T):
  """The system, and parameters by which logits differ."""
  system = of_texts(make_config(tied), make_texts(width=width), BOUGHT)
  params = system.init(jax.random.key(0))
  return system, jax.tree.map(lambda x: x * (2 if x.ndim > 1 else 1), params)


def of_texts(config, texts, bought):
  log = types.SimpleNamespace(num_items=I, num_users=3, item_E=bought)
  return Compiled(registry.build(config.system, config, log, None, texts))


def network(tied):
  return lite_llm4rec.network(make_config(tied).model, V, None if tied else I)


@functools.partial(jax.jit, static_argnames="net")
def every_vector(net, params, token_IT):
  """All texts at once: no chunks, no different items."""
  return net.apply({"params": params}, token_IT, method="encode")


@functools.partial(jax.jit, static_argnames="net")
def hidden(net, params, vector_BHD, segment_BH):
  return net.apply({"params": params}, vector_BHD, segment_BH, method="read")


@both_heads
def test_the_ranking_is_that_of_brute_force(tied):
  system, params = build(tied)
  net, batch = network(tied), make_batch(HISTORIES, TARGETS)
  vector_ID = every_vector(net, params, system.tables.token_IT)
  table_ID = vector_ID / 4 if tied else params["output"]
  expected = []
  for items in HISTORIES:
    alone = vector_ID[np.array([items])]
    last_D = hidden(net, params, alone, np.ones((1, len(items)), np.int32))[0, -1]
    expected.append([np.dot(last_D, row_D) for row_D in np.asarray(table_ID)])
  score_BI = system.scores(params, system.tables, batch)
  np.testing.assert_allclose(score_BI, expected, rtol=1e-4, atol=1e-5)
  assert np.ptp(score_BI, axis=1).min() > 0.1, "nothing to tell apart"
  excluded_BE = np.array([[9, I], [I, I], [3, 8], [I, I]], np.int32)
  allowed = Allowed(no_shared_mask(), np.zeros(4, np.int32), excluded_BE)
  best = system.recommend(params, system.tables, batch, allowed, k=I)
  for row, scores in enumerate(expected):
    closed = set(excluded_BE[row].tolist())
    order = [i for i in np.argsort(scores)[::-1].tolist() if i not in closed]
    assert best.items_BK[row][best.valid_BK[row]].tolist() == order
    few = system.recommend(params, system.tables, batch, allowed, k=3)
    assert few.items_BK[row].tolist() == order[:3], "the length of the list matters"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(Scored):
  """Scores by a function, from tables prepared by another."""

  max_history: int | None = H
  prepare_by: Callable

  def prepare(self, params, tables):
    return self.prepare_by(params, tables)


@both_heads
def test_cached_vectors_give_the_same_logits(tied):
  system, params = build(tied)
  batch = make_batch(HISTORIES, TARGETS)
  cached = system.prepare(params, system.tables)
  assert cached.vector_ID.shape == (I, 16)
  asked, anew = (system.scores(params, t, batch) for t in (cached, system.tables))
  np.testing.assert_array_equal(asked, anew)
  # They are read, and not made again.
  other = cached._replace(token_IT=np.zeros_like(cached.token_IT))
  np.testing.assert_array_equal(system.scores(params, other, batch), asked)


def test_the_evaluator_encodes_the_catalogue_once():
  system, params = build(True)
  asked = []

  def scores(params, tables, batch):
    asked.append(tables.vector_ID)
    return system.scores(params, tables, batch)

  requests = Requests(
    user_N=np.arange(4, dtype=np.int32),
    item_E=np.array([*itertools.chain(*HISTORIES)], np.int32),
    offset_N1=np.cumsum([0, *map(len, HISTORIES)]),
    target_N=np.array(TARGETS, np.int32),
  )
  watched = system.built._replace(
    system=Watched(function=scores, prepare_by=system.built.system.prepare)
  )
  ranks = evaluator.evaluate(watched, params, requests, num_items=I, batch_size=2)
  assert asked
  assert all(vector_ID is not None for vector_ID in asked)
  plain = system.built._replace(prepared=True)
  expected = evaluator.evaluate(plain, params, requests, num_items=I, batch_size=2)
  for rule, found in ranks.items():
    np.testing.assert_array_equal(found.rank_N, expected[rule].rank_N)


@both_heads
def test_padding_changes_nothing(tied):
  """Neither the width of texts and histories, nor the place in a row or a chunk."""
  system, params = build(tied)
  wide, _ = build(tied, T + 6)
  batch = make_batch(HISTORIES, TARGETS)
  score_BI = system.scores(params, system.tables, batch)
  others = [wide.scores(params, wide.tables, batch)]
  others += [system.scores(params, system.tables, make_batch(HISTORIES, TARGETS, 20))]
  for other_BI in others:
    np.testing.assert_allclose(other_BI, score_BI, rtol=1e-4, atol=1e-5)
  net, token_IT = network(tied), system.tables.token_IT
  vector_ID = every_vector(net, params, token_IT)
  vectors = jax.jit(hierarchical.item_vectors, static_argnames=("net", "chunk"))
  for chunk in (1, 7, 4 * I):
    found = vectors(net, params, token_IT, chunk=chunk)
    np.testing.assert_allclose(found, vector_ID, rtol=1e-4, atol=1e-5)
  empty = np.concatenate([token_IT, np.full((9, T), -1, np.int32)])
  found = vectors(net, params, empty, chunk=4)
  np.testing.assert_allclose(found[:I], vector_ID, rtol=1e-4, atol=1e-5)
  assert np.all(found[-6:] == 0)


@functools.cache
def flat(width=T):
  config = make_config(False, model__source="flat")
  system = of_texts(config, make_texts(width=width), BOUGHT)
  params = system.init(jax.random.key(0))
  return system, jax.tree.map(lambda x: x * (2 if x.ndim > 1 else 1), params)


def test_flat_is_one_transformer_over_all_words():
  """Against the words of each history written down in a line, without holes."""
  system, params = flat()
  shape = next_item.decoder_shape(make_config(False).model)
  net = jax.jit(decoder.Transformer(shape).apply)
  score_BI = system.scores(params, system.tables, make_batch(HISTORIES, TARGETS))
  for score_I, items in zip(score_BI, HISTORIES):
    words = [t for item in items for t in make_texts().token_IT[item] if t >= 0]
    x_1SD = params["embedding"][np.array([words])] / decoder.TABLE_STD
    hidden_1SD = net({"params": params["transformer"]}, x_1SD, np.ones((1, len(words))))
    expected_I = hidden_1SD[0, -1] @ params["output"].T
    np.testing.assert_allclose(score_I, expected_I, rtol=1e-3, atol=1e-4)


def test_flat_knows_neither_padding_nor_the_other_histories_of_a_row():
  system, params = flat()
  wide, _ = flat(T + 6)
  batch = make_batch(HISTORIES, TARGETS)
  score_BI = system.scores(params, system.tables, batch)
  other_BI = wide.scores(params, wide.tables, make_batch(HISTORIES, TARGETS, 11))
  np.testing.assert_allclose(other_BI, score_BI, rtol=1e-3, atol=1e-4)
  losses = []
  for rows in ([[0], [1], [2], [3]], [[3, 0], [2, 1]]):
    batch = make_rows(HISTORIES, TARGETS, rows)
    value, metrics = system.loss(params, system.tables, batch, jax.random.key(0))
    assert metrics["tokens"] == sum(map(len, HISTORIES))
    losses.append(value)
  np.testing.assert_allclose(*losses, rtol=1e-4)


def test_order_of_words_and_of_items_matters():
  system, params = build(False)
  net = network(False)
  a, b = (every_vector(net, params, np.array([x], np.int32)) for x in ([1, 2], [2, 1]))
  assert np.abs(a - b).max() > 1e-3
  batch = make_batch([[1, 2, 3, 4], [3, 2, 1, 4]], [0, 0])
  score_BI = system.scores(params, system.tables, batch)
  assert np.abs(score_BI[0] - score_BI[1]).max() > 1e-3


@pytest.mark.parametrize("tied", [False, True])
def test_the_gradient_is_that_of_encoding_every_item(tied):
  """In training a batch's different items are encoded; here, all of the catalogue."""
  system, params = build(tied)
  net, tables = network(tied), system.tables
  batch = make_rows(HISTORIES, TARGETS, [[3, 0], [2, 1]])
  real_BH = batch.segment_BH > 0

  def whole(params):
    vector_ID = every_vector(net, params, tables.token_IT)
    vector_BHD = vector_ID[np.maximum(batch.history_BH, 0)]
    hidden_BHD = hidden(net, params, vector_BHD, batch.segment_BH)
    hidden_ND, label_N = hidden_BHD[real_BH], batch.target_B[real_BH]
    if not tied:
      logits_NI = hidden_ND @ params["output"].T
    else:
      share_I = np.bincount(BOUGHT, minlength=I) / len(BOUGHT)
      often_I = 1 - (1 - share_I) ** real_BH.sum()
      there_I = np.isin(np.arange(I), [*itertools.chain(*HISTORIES, TARGETS)])
      logits_NI = hidden_ND @ vector_ID.T / 4 - np.log(often_I)[None]
      logits_NI = jnp.where(there_I[None], logits_NI, -jnp.inf)
    log_prob_NI = jax.nn.log_softmax(logits_NI)
    return -log_prob_NI[np.arange(len(label_N)), label_N].mean()

  ours = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
  (value, metrics), gradient = ours(params, tables, batch, jax.random.key(0))
  assert metrics["tokens"] == real_BH.sum()
  expected, expected_gradient = jax.jit(jax.value_and_grad(whole))(params)
  np.testing.assert_allclose(value, expected, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    gradient,
    expected_gradient,
  )
  size = {jax.tree_util.keystr(p): np.abs(x).max() for p, x in _leaves(gradient)}
  assert min(size.values()) > 0, f"what learns nothing: {size}"


def _leaves(tree):
  return jax.tree_util.tree_leaves_with_path(tree)


def test_batches_that_hold_all_items_give_the_softmax_over_the_catalogue():
  rng = np.random.default_rng(0)
  hidden_ND, vector_UD = rng.normal(size=(2, 12, 16)).astype(np.float32)
  label_N = jnp.asarray(rng.integers(12, size=12))
  logits_NU = hidden_ND @ vector_UD.T / 4
  expected = -jax.nn.log_softmax(logits_NU)[np.arange(12), label_N].mean()
  ones = jnp.ones(12)
  value = lite_llm4rec.batch_loss(hidden_ND, vector_UD, label_N, ones, ones)
  np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_rows_that_only_fill_a_batch_have_no_part():
  for tied in (False, True):
    system, params = build(tied)
    batch = make_rows(HISTORIES, TARGETS, [[0, 1], [2]])
    nothing = make_rows(HISTORIES, TARGETS, [[0, 1], []])._replace(
      weight_B=np.float32([1, 0])
    )
    alone = jax.tree.map(lambda x: x[:1], batch)
    losses = [
      system.loss(params, system.tables, b, jax.random.key(0))[0]
      for b in (nothing, alone)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_a_tied_head_scores_an_item_that_training_never_saw():
  system, params = build(True)
  batch = make_batch(HISTORIES, TARGETS)
  before = system.scores(params, system.tables, batch)
  twin = 5
  grown = system.tables._replace(
    token_IT=np.concatenate([system.tables.token_IT, make_texts(1, 7).token_IT])
  )
  grown.token_IT[-1] = grown.token_IT[twin]
  after = system.scores(params, grown, batch)
  assert after.shape == (4, I + 1)
  np.testing.assert_allclose(after[:, :I], before, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(after[:, I], before[:, twin], rtol=1e-5, atol=1e-6)
  allowed = Allowed(
    no_shared_mask(), np.zeros(4, np.int32), np.full((4, 1), I + 1, np.int32)
  )
  best = system.recommend(params, grown, batch, allowed, k=I + 1)
  assert (best.items_BK == I).any(axis=1).all()


def test_a_rule_that_stands_in_the_texts_is_learned_for_items_never_seen():
  """Word w is followed by word w + 1; each word has three items, one never trained on.

  By ids alone there is nothing to know of the third: its head is its text.
  """
  words = I // 3
  token_IT = np.full((I, 2), -1, np.int32)
  token_IT[:, 0] = np.arange(I) % words
  token_IT[:, 1] = 10 + np.arange(I) // words
  texts = Tokens(token_IT, V, 0, 0)
  system = of_texts(make_config(True), texts, np.arange(2 * words))
  params, tx = system.init(jax.random.key(0)), optax.adam(0.01)
  state = tx.init(params)

  @jax.jit
  def step(params, state, batch, key):
    gradient, _ = jax.grad(system.loss, has_aux=True)(params, system.tables, batch, key)
    updates, state = tx.update(gradient, state)
    return optax.apply_updates(params, updates), state

  rng = np.random.default_rng(0)
  for n in range(250):
    word_BH = (rng.integers(words, size=32)[:, None] + np.arange(5)) % words
    item_BH = word_BH + words * rng.integers(2, size=word_BH.shape)
    batch = make_rows(
      item_BH[:, :4].tolist(), item_BH[:, 4], np.arange(32).reshape(8, 4)
    )
    params, state = step(params, state, batch, jax.random.key(n))
  # A history of items never seen, and one of those next is not among them either.
  word_BH = (np.arange(words)[:, None] + np.arange(4)) % words
  batch = make_batch((word_BH + 2 * words).tolist(), [0] * words)
  score_BWX = system.scores(params, system.tables, batch).reshape(words, 3, words)
  next_B = (np.arange(words) + 4) % words
  for group_BW in (score_BWX.max(axis=1), score_BWX[:, 2]):
    assert np.mean(np.argmax(group_BW, axis=1) == next_B) > 0.8


def write_folder(folder, texts=True, seed=0):
  rng = np.random.default_rng(seed)
  (folder / "toys").mkdir(exist_ok=True)
  item_UE = (rng.permutation(40) % I).reshape(8, 5)
  rows = [" ".join([f"u{u}", *(f"i{i}" for i in row)]) for u, row in enumerate(item_UE)]
  (folder / "toys" / "sequences.txt").write_text("\n".join(rows))
  lines = [f"i{i}\tword{i % 7} thing" for i in range(I - 5)]  # five have no row
  lines[3] = "i3\t"
  lines[4] = "i4\t木製の列車"
  if texts:
    (folder / "toys" / "items.tsv").write_text("\n".join(["item_id\ttext", *lines]))
  attributes = ", ".join(f'"i{i}": [{i % 3}]' for i in range(9))
  (folder / "toys" / "item_attributes.json").write_text(f"{{{attributes}}}")


def run_config(folder, **overrides):
  fields = {
    "data.dir": str(folder),
    "baselines": (),
    "input.history": 5,
    "train.batch_size": 3,
    "train.steps": 4,
    "train.eval_every": 4,
  } | {field.replace("__", "."): value for field, value in overrides.items()}
  return config_lib.load("lite_llm4rec", "tiny", fields)


@pytest.mark.usefixtures("_compiled_once")
def test_the_trainer_trains_and_judges_it(tmp_path, capsys):
  write_folder(tmp_path)
  config = run_config(tmp_path)
  results = train.train(config, tmp_path / "run")
  assert "6 items without text" in capsys.readouterr().out
  assert results["num_users"] == 8
  assert evaluate.evaluate(tmp_path / "run")["metrics"] == results["metrics"]

  items = tmp_path / "toys" / "items.tsv"
  items.write_text(items.read_text().replace("thing", "other"))
  longer = run_config(tmp_path, train__steps=8)
  # A run answers by its own copy of the texts, and learns nothing from others.
  assert evaluate.evaluate(tmp_path / "run")["metrics"] == results["metrics"]
  with pytest.raises(UserError, match="begun on other texts of the items"):
    train.train(longer, tmp_path / "run")


def test_attributes_are_words_beside_the_text(tmp_path):
  write_folder(tmp_path)
  sizes = []
  for attributes in (False, True):
    config = run_config(tmp_path, model__tied=True, input__attributes=attributes)
    report = describe.describe(config)
    assert report["flops_per_step"] > 0
    sizes.append(report["parameters"]["total"])
  assert sizes[1] - sizes[0] == 3 * 32, "a row of the table for each attribute"


def test_a_log_without_texts_costs_a_line_and_leaves_nothing(tmp_path):
  write_folder(tmp_path, texts=False)
  with pytest.raises(UserError, match=r"toys/items\.tsv beside the log"):
    train.train(run_config(tmp_path), tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("name", "fields", "message"),
  [
    ("lite_llm4rec", {"input.history": 0}, "input.history is 0; it must be at least 1"),
    ("lite_llm4rec", {"input.text_tokens": 0}, "text_tokens is 0; .* at least 1"),
    ("lite_llm4rec", {"input.text_vocab": 99}, "from 256 .a token a byte"),
    ("lite_llm4rec", {"model.num_item_layers": 0}, "num_item_layers is 0"),
    ("lite_llm4rec", {"model.item_dropout_rate": 1.0}, "0 or more and below 1"),
    ("lite_llm4rec", {"model.num_heads": 3}, "does not divide"),
    ("lite_llm4rec", {"model.tied": True, "train.loss": "binary"}, "train.loss=full"),
    ("lite_llm4rec", {"model.source": "wide"}, "choose one of hierarchical, flat"),
    ("lite_llm4rec", {"model.source": "flat", "model.tied": True}, "model.tied=False"),
    ("item_decoder", {"system": "lite_llm4rec"}, "start from --config=lite_llm4rec"),
  ],
)
def test_what_cannot_be_built_is_refused_in_a_line(name, fields, message):
  with pytest.raises(UserError, match=message):
    config_lib.check(config_lib.load(name, "tiny", fields))
