"""LightLM: what it reads, what it is trained on, and what its scores mean."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import feed as feed_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.data.interactions import Interactions
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.errors import UserError
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.models import encoder_decoder
from lightlm_jax.systems import lightlm, text

H = 5
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
ITEM_CODES = [
  (4, 1),
  (0, 3, 2),
  (5,),
  (1, 1, 1),
  (1, 1, 2),
  (4, 0, 3),
  (0, 2),
  (3, 5),
  (3, 0, 0),
  (2,),
  (1, 0),
  (4, 2, 2),
]
USER_CODES = [(6, 7), (7,), (8, 6), (8, 8)]
VOCAB = 9 + text.NUM_SPECIALS


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


def build(log=None, **overrides):
  overrides = {
    "input.history": H,
    "input.user_dropout": 0.0,
    "model.d_model": 16,
    "model.d_kv": 8,
    "model.dropout_rate": 0.0,
    "train.label_smoothing": 0.0,
    "decoding.beam_size": 12,
  } | {name.replace("__", "."): value for name, value in overrides.items()}
  config = config_lib.load("demo", "tiny", overrides)
  items_IL, users_UL = map(codes_lib.stack_codes, (ITEM_CODES, USER_CODES))
  system = lightlm.build(config, codes_lib.code_book(items_IL, users_UL, {}), log)
  tables = jax.device_put(system.tables)
  net = encoder_decoder.EncoderDecoder(lightlm.model_config(config, VOCAB))
  return system, tables, net


@functools.cache
def loss_of(**overrides):
  """(params, batch, seed) → the loss as a float."""
  system, tables, _ = build(**overrides)
  loss = jax.jit(system.loss)

  def value(params, batch, seed=0):
    return float(loss(params, tables, batch, jax.random.key(seed))[0])

  return value


@pytest.fixture(scope="module")
def params():
  """Weights of every system here: what differs among them has no weights."""
  system, *_ = build()
  return jax.jit(system.init)(jax.random.key(0, impl="rbg"))


def make_batch(rows, width=H):
  """A batch of (user, history, target, weight)."""
  users, histories, targets, weights = zip(*rows)
  history_BH = np.full((len(rows), width), -1, np.int32)
  for row, history in zip(history_BH, histories):
    row[width - len(history) :] = history
  return Batch(
    user_B=np.array(users, np.int32),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=np.array(targets, np.int32),
    weight_B=np.array(weights, np.float32),
  )


ROWS = [
  (0, [3, 1, 2], 5, 1.0),
  (1, [], 2, 1.0),
  (-1, [0, 11, 4, 8, 9], 1, 1.0),
  (3, [7], 11, 1.0),
  (2, [6, 6], 3, 0.0),
]


def source_by_hand(user, history, with_user, width):
  """Tokens, words, segments of one row as lists, without the padding on the left."""
  read = []
  if with_user and user >= 0:
    read += [(token, 0) for token in USER_CODES[user]]
  for place, item in enumerate(history):
    read += [(token, len(history) - place) for token in ITEM_CODES[item]]
  tokens = [token + text.NUM_SPECIALS for token, _ in read]
  empty = [0] * (width - len(read))
  return (
    empty + tokens,
    empty + [word for _, word in read],
    empty + [1] * len(read),
  )


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
  assert lightlm.shift_right(target_BL).tolist() == [[start, 2, 5], [start, 7, pad]]


def log_probs(net, params, batch, item, with_user=True):
  """[B, length] log-probabilities of one item's tokens, teacher-forced, by hand."""
  code = [token + text.NUM_SPECIALS for token in ITEM_CODES[item]]
  width = H * 3 + 2
  source = [
    source_by_hand(user, [i for i in history if i >= 0], with_user, width)
    for user, history in zip(batch.user_B.tolist(), batch.history_BH.tolist())
  ]
  B = len(source)
  arrays = (np.array(array, np.int32) for array in zip(*source))
  # Codes of all lengths in one program: what follows a token cannot reach it.
  read = [text.START, *code, 0, 0][:3]
  token_BKL = np.tile(np.array(read, np.int32), (B, 1, 1))
  logits = forward(net)(params, *arrays, token_BKL, np.ones((B, 1), np.int32))
  logits_BLV = np.asarray(logits, np.float64)[:, 0, : len(code)]
  log_z_BL = np.log(np.exp(logits_BLV).sum(axis=-1))
  return logits_BLV[:, range(len(code)), code] - log_z_BL, (logits_BLV, log_z_BL)


@functools.cache
def forward(net):
  return jax.jit(lambda params, *arguments: net.apply({"params": params}, *arguments))


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
  assert metrics["places"] == len(rows) * (2 + 3 * H + 3)


def test_more_padding_changes_no_loss(params):
  rows = [(user, history[-3:], *rest) for user, history, *rest in ROWS]
  loss = loss_of(train__label_smoothing=0.0)
  narrow, wide = (loss(params, make_batch(rows, width)) for width in (3, H))
  np.testing.assert_allclose(narrow, wide, rtol=1e-5)


@pytest.mark.parametrize("with_user", [True, False])
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
      batch = feed_lib.gather(feed, key, number, plan=plan, bucket=int(bucket))
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


@pytest.mark.parametrize(("length_penalty", "beam_size"), [(0.0, 12), (1.0, 3)])
def test_scores_are_teacher_forced_log_probabilities(params, length_penalty, beam_size):
  """Every item in its exact place: k widens a narrower beam."""
  system, tables, net = build(
    decoding__length_penalty=length_penalty, decoding__beam_size=beam_size
  )
  batch = make_batch(ROWS)
  B, num_items = len(ROWS), len(ITEM_CODES)
  excluded = [[0, 5], [], [1, 2, 3], [11], []]
  excluded_BE = np.full((B, 8), num_items, np.int32)
  for row, items in zip(excluded_BE, excluded):
    row[: len(items)] = np.sort(system.rank_I[items])
  allowed = Allowed(no_shared_mask(), np.zeros(B, np.int32), excluded_BE)
  recommend = jax.jit(system.recommend, static_argnames="k")
  arguments = jax.device_put((params, tables, batch, allowed))
  with jax.transfer_guard("disallow"):
    found = recommend(*arguments, k=num_items)
  score_BI = np.stack(
    [
      log_probs(net, params, batch, item)[0].sum(axis=1) / len(code) ** length_penalty
      for item, code in enumerate(ITEM_CODES)
    ],
    axis=1,
  )
  for row in range(B):
    rest = [item for item in range(num_items) if item not in excluded[row]]
    order = sorted(rest, key=lambda item, row=row: -score_BI[row, item])
    assert found.items_BK[row].tolist() == order + [-1] * len(excluded[row])
    assert found.valid_BK[row].tolist() == [True] * len(rest) + [False] * (
      num_items - len(rest)
    )
    np.testing.assert_allclose(
      found.scores_BK[row, : len(rest)], score_BI[row, order], rtol=1e-4
    )


def test_hallucinations_are_beams_that_are_no_item(params):
  system, tables, _ = build(decoding__beam_size=7)
  flags_BK = jax.jit(system.hallucinated)(params, tables, make_batch(ROWS))
  assert flags_BK.shape == (5, 7)
  assert flags_BK.dtype == jnp.bool_
  assert flags_BK.any()
  assert not flags_BK.all()


SENTENCE = (
  "Given the user_ {} , predict which item will be bought by the user ?".split()
)
WORD = (1, 2, 3, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 12)


def direct(**overrides):
  overrides = {"input__history": 0, "input__prompt": True} | overrides
  return build(**overrides)


def no_history(rows):
  return make_batch([(user, [], *rest) for user, _, *rest in rows], width=0)


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


def test_the_prompt_is_searched_like_any_id():
  """Every item once, in the order of its answer's mean log-probability."""
  system, tables, _ = direct(decoding__length_penalty=1.0)
  params = jax.jit(system.init)(jax.random.key(1))
  batch = no_history(ROWS)
  num_items = len(ITEM_CODES)
  excluded_BE = np.full((len(ROWS), 0), num_items, np.int32)
  allowed = Allowed(no_shared_mask(), np.zeros(len(ROWS), np.int32), excluded_BE)
  found = jax.jit(system.recommend, static_argnames="k")(
    params, tables, batch, jax.device_put(allowed), k=num_items
  )
  assert np.sort(found.items_BK, axis=1).tolist() == [list(range(num_items))] * len(
    ROWS
  )
  loss = jax.jit(system.loss)
  for row, (user, *_) in enumerate(ROWS):
    for place in (0, 5, num_items - 1):
      item = int(found.items_BK[row, place])
      one = no_history([(user, [], item, 1.0)])
      # The loss is the mean over the answer's tokens: the beam's score, negated.
      value, _ = loss(params, tables, one, jax.random.key(0))
      np.testing.assert_allclose(-value, found.scores_BK[row, place], rtol=1e-4)
  assert np.std(np.asarray(found.scores_BK)) > 0.01


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
  with pytest.raises(UserError, match=named):
    build(**overrides)


def ask(kind, params, excluded, **overrides):
  system, tables, _ = build(decoding__kind=kind, decoding__beam_size=4, **overrides)
  num_items = len(ITEM_CODES)
  excluded_BE = np.full((len(ROWS), 8), num_items, np.int32)
  for row, items in zip(excluded_BE, excluded):
    row[: len(items)] = np.sort(system.rank_I[items])
  allowed = Allowed(no_shared_mask(), np.zeros(len(ROWS), np.int32), excluded_BE)
  recommend = jax.jit(system.recommend, static_argnames="k")
  arguments = jax.device_put((params, tables, make_batch(ROWS), allowed))
  return jax.device_get(recommend(*arguments, k=4))


def test_exact_decoding_is_a_beam_as_wide_as_the_catalogue(params):
  excluded = [[0, 5], [], [1, 2, 3], [11], []]
  exact = ask("exact", params, excluded)
  system, tables, _ = build(decoding__beam_size=len(ITEM_CODES))
  wide = ask("beam", params, excluded)
  assert (exact.scores_BK.sum(axis=1) >= wide.scores_BK.sum(axis=1) - 1e-5).all()
  excluded_BE = np.full((len(ROWS), 8), len(ITEM_CODES), np.int32)
  for row, items in zip(excluded_BE, excluded):
    row[: len(items)] = np.sort(system.rank_I[items])
  allowed = Allowed(no_shared_mask(), np.zeros(len(ROWS), np.int32), excluded_BE)
  everything = jax.jit(system.recommend, static_argnames="k")(
    params, tables, make_batch(ROWS), jax.device_put(allowed), k=len(ITEM_CODES)
  )
  np.testing.assert_array_equal(exact.items_BK, everything.items_BK[:, :4])
  np.testing.assert_allclose(exact.scores_BK, everything.scores_BK[:, :4], rtol=1e-5)


def test_an_unconstrained_search_drops_what_is_excluded_and_keeps_what_is_no_item(
  params,
):
  free = ask("unconstrained", params, [[]] * len(ROWS))
  excluded = [row[valid].tolist()[:1] for row, valid in zip(*free[::2])]
  assert any(excluded), "no beam is an item: nothing to exclude"
  assert not free.valid_BK.all(), "every beam is an item: nothing to keep"
  less = ask("unconstrained", params, excluded)
  for row, gone in enumerate(excluded):
    rest = [item for item in free.items_BK[row].tolist() if item not in gone]
    assert less.items_BK[row].tolist() == rest + [-1] * len(gone)
    assert (less.valid_BK[row] == (less.items_BK[row] >= 0)).all()


def test_renormalised_decoding_gives_open_children_all_probability(params):
  """Twelve items, all of them found: their probabilities are the whole."""
  number = len(ITEM_CODES)
  system, tables, _ = build(
    decoding__kind="beam_renormalised", decoding__beam_size=number
  )
  found = everything(system, tables, params, make_batch(ROWS))
  np.testing.assert_allclose(np.exp(found.scores_BK).sum(axis=1), 1, rtol=1e-5)


def everything(system, tables, params, batch):
  """All items, best first; nothing is excluded."""
  number = len(ITEM_CODES)
  excluded_BE = np.full((len(ROWS), 0), number, np.int32)
  allowed = Allowed(no_shared_mask(), np.zeros(len(ROWS), np.int32), excluded_BE)
  arguments = jax.device_put((params, tables, batch, allowed))
  return jax.jit(system.recommend, static_argnames="k")(*arguments, k=number)


@pytest.mark.parametrize("kind", ["beam", "exact"])
def test_another_catalogues_tables_serve_the_same_search(params, kind):
  """More items, fewer users, other codes: only data, nothing is compiled anew."""
  overrides = {"input.history": H, "decoding.kind": kind}
  config = config_lib.load("demo", "tiny", overrides)
  longer = [(*code, 6) if len(code) == 1 else code for code in ITEM_CODES]
  longer += [(4, 2, 6), (8,)]
  book = codes_lib.code_book(*map(codes_lib.stack_codes, (longer, USER_CODES[:2])), {})
  other = lightlm.build(config, book)
  system, tables, _ = build(decoding__beam_size=16, decoding__kind=kind)
  recommend = jax.jit(system.recommend, static_argnames="k")
  batch = make_batch([(-1, [], *rest) for _, _, *rest in ROWS])
  catalogues = (ITEM_CODES, tables), (longer, jax.device_put(other.tables))
  for codes, these in catalogues:
    excluded_BE = np.full((len(ROWS), 8), len(codes), np.int32)
    allowed = Allowed(no_shared_mask(), np.zeros(len(ROWS), np.int32), excluded_BE)
    found = recommend(params, these, batch, jax.device_put(allowed), k=16)
    for items_K, valid_K in zip(np.asarray(found.items_BK), found.valid_BK):
      assert sorted(items_K[valid_K].tolist()) == list(range(len(codes)))
  assert recommend._cache_size() == 1


@pytest.mark.parametrize("limit", [1, 10**9])
def test_exact_scores_do_not_depend_on_how_many_prefixes_fit(
  params, monkeypatch, limit
):
  """A prefix at a time, or all at once: every item has its mean log-probability."""
  monkeypatch.setattr(lightlm, "EXACT_BYTES", limit)
  system, tables, net = build(decoding__kind="exact", decoding__length_penalty=1.0)
  assert (tables.chunks.prefix_XQL.shape[1] == 1) == (limit == 1)
  batch = make_batch(ROWS)
  found = everything(system, tables, params, batch)
  for item in range(len(ITEM_CODES)):
    score_B = np.asarray(found.scores_BK)[np.asarray(found.items_BK) == item]
    expected_B = log_probs(net, params, batch, item)[0].mean(axis=1)
    np.testing.assert_allclose(score_B, expected_B, rtol=1e-4)


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
  assert lightlm.examples_a_row(config_lib.load(config, overrides=overrides)) == most
