"""LightLM: what it reads, and what it is trained on."""

import functools

from compiled import gather
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_lightlm
from small_lightlm import (
  ITEM_CODES,
  ROWS,
  USER_CODES,
  H,
  build,
  direct,
  log_probs,
  make_batch,
  no_history,
  source_by_hand,
)

from lightlm_jax import config as config_lib
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import id_writer
from lightlm_jax.systems import token_sequences as text

TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


@functools.cache
def loss_of(**overrides):
  """(params, batch, seed) → the loss as a float."""
  system, tables, _ = build(**overrides)
  loss = system.loss

  def value(params, batch, seed=0):
    return float(loss(params, tables, batch, jax.random.key(seed))[0])

  return value


@pytest.fixture
def params():
  return small_lightlm.weights()


@pytest.mark.parametrize("with_user", [True, False])
def test_the_source_is_the_user_then_the_history_newest_last(with_user):
  _, tables, _ = build()
  rows = [*ROWS, (-1, [], 0, 1.0)]
  codes = (tables.user_code_UL, tables.item_code_IL)
  source = text.write_history(*codes, make_batch(rows), with_user=with_user)
  width = H * 3 + 2 * with_user
  by_hand = [source_by_hand(user, items, with_user, width) for user, items, *_ in rows]
  for got_BS, expected in zip(source, zip(*by_hand)):
    assert got_BS.dtype == jnp.int32
    assert got_BS.tolist() == list(expected)


def test_without_order_a_history_is_a_set():
  """As if it had been bought in the order of the catalogue, also in shared rows."""
  _, tables, _ = build()
  write = functools.partial(
    text.write_history, tables.user_code_UL, tables.item_code_IL, with_user=True
  )
  rows = [(0, [3, 1, 2], 5, 1.0), (1, [9, 11, 0, 4, 1], 2, 1.0), (2, [], 2, 1.0)]
  shared = make_batch(rows)._replace(
    segment_BH=np.array([[0, 0, 1, 2, 2], [1, 1, 2, 2, 2], [0] * 5], np.int32),
    user_B=np.array([[0, 1], [2, 3], [1, -1]], np.int32),
  )
  sets = shared._replace(
    history_BH=np.array([[-1, -1, 3, 1, 2], [9, 11, 0, 1, 4], [-1] * 5], np.int32)
  )
  other_order = shared._replace(
    history_BH=np.array([[-1, -1, 3, 2, 1], [11, 9, 1, 4, 0], [-1] * 5], np.int32)
  )
  for found, expected in zip(write(shared, in_order=False), write(sets)):
    np.testing.assert_array_equal(found, expected)
  for found, expected in zip(write(other_order, in_order=False), write(sets)):
    np.testing.assert_array_equal(found, expected)
  assert (write(shared).token_BS != write(sets).token_BS).any()


def test_the_decoder_reads_the_target_behind_a_start():
  target_BL = jnp.asarray(
    text.shift(codes_lib.stack_codes([(0, 3, 2), (5,)]), prompt=False)
  )
  assert target_BL.tolist() == [[2, 5, 4], [7, -1, -1]]
  start, pad = text.START, text.PAD
  assert id_writer.shift_right(target_BL).tolist() == [[start, 2, 5], [start, 7, pad]]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_of_means(params, smoothing):
  *_, net = build()
  loss = loss_of(train__label_smoothing=smoothing)
  batch = make_batch(ROWS)
  per_row = []
  for row, (_, _, item, _) in enumerate(ROWS):
    log_prob_BL, (logits_BLV, log_z_BL) = log_probs(net, params, batch, item)
    uniform_L = logits_BLV[row].mean(axis=-1) - log_z_BL[row]
    per_row.append(-((1 - smoothing) * log_prob_BL[row] + smoothing * uniform_L).mean())
  np.testing.assert_allclose(loss(params, batch), np.mean(per_row[:4]), rtol=1e-5)
  weighted = batch._replace(weight_B=np.array([0.5, 0, 2, 0, 1], np.float32))
  np.testing.assert_allclose(
    loss(params, weighted), np.average(per_row, weights=[0.5, 0, 2, 0, 1]), rtol=1e-5
  )


def test_rows_of_weight_0_teach_nothing(params):
  loss = loss_of(train__label_smoothing=0.0)
  other = [*ROWS[:4], (0, [2, 3, 4, 5], 9, 0.0)]
  assert loss(params, make_batch(other)) == loss(params, make_batch(ROWS))
  other[4] = (*other[4][:3], 1.0)
  assert loss(params, make_batch(other)) != loss(params, make_batch(ROWS))


def test_tokens_are_counted_in_rows_that_weigh(params):
  system, tables, _ = build()
  rows = [*ROWS[:4], (0, [2, 3, 4, 5], 9, 0.0)]
  _, metrics = system.loss(params, tables, make_batch(rows), jax.random.key(0))
  told = 0
  for user, history, target, weight in rows:
    tokens = [*USER_CODES[user]] if user >= 0 else []
    for item in [*history[-H:], target]:
      tokens += ITEM_CODES[item]
    told += len(tokens) * (weight > 0)
  assert metrics["tokens"] == told
  assert metrics["capacity_tokens"] == len(rows) * (2 + 3 * H + 3)


def test_more_padding_changes_no_loss(params):
  rows = [(user, history[-3:], *rest) for user, history, *rest in ROWS]
  loss = loss_of(train__label_smoothing=0.0)
  narrow, wide = (loss(params, make_batch(rows, width)) for width in (3, H))
  np.testing.assert_allclose(narrow, wide, rtol=1e-5)


@pytest.mark.parametrize(
  "with_user", [True, pytest.param(False, marks=pytest.mark.slow)]
)
def test_examples_that_share_a_row_learn_as_alone(params, with_user):
  """The same loss and gradient an epoch, from rows of one and of three examples."""
  rng = np.random.default_rng(0)
  lengths = (9, 1, 4, 7)
  log = Interactions(
    offset_U1=np.cumsum([0, *lengths]),
    item_E=rng.integers(len(ITEM_CODES), size=sum(lengths)).astype(np.int32),
    user_ids=np.arange(4).astype(str),
    item_ids=np.arange(len(ITEM_CODES)).astype(str),
  )
  learned = []
  for pack in (1, 3):
    system, tables, _ = build(train__pack=pack, input__user=with_user, log=log)
    feed, plan = feed_lib.positions(
      log, seed=0, batch_size=6, widths=(2, H), rows=system.rows
    )
    gradient = jax.jit(jax.value_and_grad(system.loss, has_aux=True))
    total, examples, tokens = None, 0, 0
    for step in range(plan.steps_per_epoch):
      bucket, key, number = plan.at(np.array(step))
      batch = gather(feed, key, number, plan=plan, bucket=int(bucket))
      (loss, metrics), grads = gradient(params, tables, batch, jax.random.key(0))
      weight = float(batch.weight_B.sum())
      found = jax.tree.map(lambda x, w=weight: w * x, (loss, grads))
      total = found if total is None else jax.tree.map(jnp.add, total, found)
      examples += weight
      tokens += int(metrics["tokens"])
    assert examples == sum(lengths)
    learned.append((total, tokens))
  assert plan.batch_size == 2, "the last ones shared"
  (alone, tokens), (shared, shared_tokens) = learned
  assert tokens == shared_tokens
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), alone, shared
  )


def hide_users(batch):
  known_B = (batch.history_BH >= 0).any(axis=1)
  return batch._replace(user_B=np.where(known_B, -1, batch.user_B).astype(np.int32))


def test_user_dropout_hides_users_but_never_the_whole_source(params):
  batch = make_batch(ROWS)
  hidden = loss_of(input__user_dropout=1.0)(params, batch)
  shown = loss_of(train__label_smoothing=0.0)
  np.testing.assert_allclose(hidden, shown(params, hide_users(batch)), rtol=1e-6)
  assert abs(hidden - shown(params, batch)) > 1e-3


def test_user_dropout_is_drawn_for_each_row_at_its_rate(params):
  loss = loss_of(input__user_dropout=0.25)
  batch = make_batch([(0, [3, 1, 2], 5, 1.0)] * len(ROWS))
  shown = loss_of(train__label_smoothing=0.0)
  kept, hidden = shown(params, batch), shown(params, hide_users(batch))
  draws = 100
  values = np.array([loss(params, batch, seed) for seed in range(draws)])
  # Equal rows: the loss tells how many of them were read without the user.
  number = (values - kept) / (hidden - kept) * len(ROWS)
  np.testing.assert_allclose(number, number.round(), atol=0.01)
  deviation = (0.25 * 0.75 / (draws * len(ROWS))) ** 0.5
  assert abs(number.mean() / len(ROWS) - 0.25) < 4 * deviation
  assert ((number > 0.5) & (number < len(ROWS) - 0.5)).any(), "rows share a fate"


def test_a_system_that_reads_no_user_knows_none(params):
  rows = [row for row in ROWS if row[1]]
  batch = make_batch([*rows, rows[0]])
  value = loss_of(input__user=False)(params, batch)
  shown = loss_of(train__label_smoothing=0.0)
  np.testing.assert_allclose(value, shown(params, hide_users(batch)), rtol=1e-5)


SENTENCE = (
  "Given the user_ {} , predict which item will be bought by the user ?".split()
)
WORD = (1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12)


def test_the_prompt_is_the_published_sentence_about_each_user():
  system, tables, _ = direct()
  assert system.example == "drawn"
  assert system.max_history == 0
  first_code = text.first_code_token(prompt=True)
  # Words are told apart by their tokens alone: any numbering of theirs will do.
  source = text.write_prompt(tables.user_code_UL, no_history(ROWS))
  seen = {}
  for row, (user, *_) in enumerate(ROWS):
    expected_tokens, expected_words = [], []
    for token, word in zip(SENTENCE, WORD):
      code = USER_CODES[user] if user >= 0 else ()
      tokens = [t + first_code for t in code] if token == "{}" else [token]
      expected_tokens += tokens
      expected_words += [word] * len(tokens)
    expected_tokens.append("</s>")
    expected_words.append(0)
    width = len(SENTENCE) - 1 + 2 + 1
    empty = [0] * (width - len(expected_tokens))
    assert source.word_BS[row].tolist() == empty + expected_words
    assert source.segment_BS[row].tolist() == empty + [1] * len(expected_words)
    tokens = source.token_BS[row].tolist()
    assert tokens[: len(empty)] == empty
    for token, expected in zip(tokens[len(empty) :], expected_tokens):
      if isinstance(expected, int):
        assert token == expected
      else:
        assert text.NUM_SPECIALS <= token < first_code
        assert seen.setdefault(expected, token) == token
  assert len(set(seen.values())) == len(seen) == len(set(SENTENCE) - {"{}"}) + 1
  # The answer: a word of its own, the code, the sentence's end.
  target_IL = tables.target_IL.tolist()
  opening = target_IL[0][0]
  assert opening not in seen.values()
  for target, code in zip(target_IL, ITEM_CODES):
    whole = [opening, *(t + first_code for t in code), seen["</s>"]]
    assert target == whole + [-1] * (len(target) - len(whole))


def test_ids_start_uniform_and_words_normal():
  system, *_ = direct(model__id_range=10.0, model__d_model=512)
  table_VD = np.asarray(system.init(jax.random.key(0))["embedding"])
  first_code = text.first_code_token(prompt=True)
  ids_VD, words_VD = table_VD[first_code:], table_VD[:first_code]
  assert np.abs(ids_VD).max() <= 10
  np.testing.assert_allclose(ids_VD.std(), 10 / 3**0.5, rtol=0.02)
  np.testing.assert_allclose(words_VD.std(), 1, rtol=0.05)


@pytest.mark.parametrize(
  ("overrides", "named"),
  [
    ({"input__history": 0, "input__user": False}, "nothing to read"),
    ({"input__prompt": True}, "input.history=0"),
    ({"input__prompt": True, "input__history": 0, "input__user": False}, "nothing"),
  ],
)
def test_a_source_that_cannot_be_written_is_refused(overrides, named):
  fields = {name.replace("__", "."): value for name, value in overrides.items()}
  config = config_lib.load("demo:tiny", overrides=fields)
  with pytest.raises(UserError, match=named):
    config_lib.check(config)


@pytest.mark.parametrize(
  ("config", "overrides", "most"),
  [
    ("toys:small", {}, 4),
    ("toys:small", {"train.pack": 1}, 1),
    ("toys:small", {"input.history": 0, "input.user": True}, 1),
    ("toys:paper", {"train.pack": 4}, 1),
    ("sasrec", {}, 1),
  ],
)
def test_rows_are_shared_where_sources_differ_in_length(config, overrides, most):
  assert config_lib.load(config, overrides=overrides).examples_a_row == most
