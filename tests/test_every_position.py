"""A row of histories teaches what its prefixes would teach one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_lightlm import ITEM_CODES, build, make_batch

from lightlm_jax import config as config_lib
from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import candidates
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.models import repeats
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import token_sequences

BY_POSITION = {
  "input__every_position": True,
  "input__user": False,
  "model__whole_word": False,
}
# Last tokens that name one item each, at two depths.
UNIQUE = [(item % 3, item + 3) for item in range(10)] + [(13, 16, 14), (13, 16, 15)]
HISTORIES = [[3, 1, 2], [7, 9]], [[6, 6, 0, 5]]  # of the two rows
TARGETS = [[1, 2, 5], [9, 11]], [[6, 0, 5, 4]]


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


def rows() -> Batch:
  """Two rows of histories, each item with the next one as its target."""
  arrays = np.full((3, 2, 5), -1, np.int32)
  for row, (histories, targets) in enumerate(zip(HISTORIES, TARGETS)):
    numbered = enumerate(zip(histories, targets), start=1)
    filled = [(i, s, t) for s, (h, t_H) in numbered for i, t in zip(h, t_H)]
    arrays[:, row, : len(filled)] = np.transpose(filled)
  history_BH, segment_BH, target_BH = arrays
  return Batch(
    user_B=np.full(2, -1, np.int32),
    history_BH=history_BH,
    segment_BH=np.maximum(segment_BH, 0),
    target_B=target_BH,
    weight_B=np.ones(2, np.float32),
  )


def prefixes() -> Batch:
  """The same examples, one a row."""
  found = []
  for histories, targets in zip(HISTORIES, TARGETS):
    for history, target_H in zip(histories, targets):
      for end, target in enumerate(target_H, start=1):
        found.append((-1, history[:end], target, 1.0))
  return make_batch(found)


def mean_of_means(nll_B, batch, codes=ITEM_CODES):
  length_B = [len(codes[item]) for item in batch.target_B]
  return (np.asarray(nll_B) / length_B).mean()


CHILDREN = {"train__loss": "children", "model__residual": True}
REPEATS = BY_POSITION | CHILDREN | {"model__repeats": True, "codes": UNIQUE}


SHARED = {}  # weights of each vocabulary, with and without words or places


def weights(system):
  """Untrained, but with a bias of repeated items."""
  shape = system.system.shape
  key = shape.V, shape.W, shape.causal
  if key not in SHARED:
    SHARED[key] = system.init(jax.random.key(0))
  levels = system.system.levels if system.system.repeats else 0
  bias_LP = jax.random.normal(jax.random.key(2), (levels, repeats.NUMBER)) * 3
  return SHARED[key] | ({"repeat_bias": bias_LP} if levels else {})


@pytest.mark.parametrize(
  "more",
  [
    {"train__loss": "vocabulary", "model__residual": True},
    {"train__loss": "children"},
    REPEATS,
  ],
)
def test_a_row_is_its_prefixes_one_by_one(more):
  """Also a proof that the search reads a history as training does."""
  system, tables, _ = build(**BY_POSITION | more)
  params = weights(system)
  value, counts = system.loss(params, tables, rows(), jax.random.key(1))
  batch = prefixes()
  nll_B = system.nll(params, tables, batch)
  assert np.ptp(nll_B) > 0.1
  codes = more.get("codes", ITEM_CODES)
  np.testing.assert_allclose(value, mean_of_means(nll_B, batch, codes), rtol=1e-5)
  assert (counts["tokens"], counts["capacity_tokens"]) == (9, 10)


def test_places_are_counted_from_the_end_of_a_history():
  """As in a request: the newest item that is known has the number 1."""
  source = token_sequences.write_items(np.array([[i] for i in range(12)]), rows())
  assert source.word_BS[:, :4].tolist() == [[3, 2, 1, 2], [4, 3, 2, 1]]
  system, tables, _ = build(**BY_POSITION | {"model__whole_word": True})
  params = weights(system)
  # The loss of a history's last target is that of a request.
  alone = jax.tree.map(lambda x: np.asarray(x)[1:], rows())
  only = alone._replace(target_B=np.where(np.arange(5) == 3, alone.target_B, -1))
  value, _ = system.loss(params, tables, only, jax.random.key(0))
  (nll,) = system.nll(params, tables, make_batch([(-1, [6, 6, 0, 5], 4, 1.0)]))
  np.testing.assert_allclose(value * 4, nll / len(ITEM_CODES[4]), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_without_some_items_the_next_one_that_is_left_is_the_target(seed):
  batch = rows()
  keep_BH = np.random.default_rng(seed).random(batch.history_BH.shape) < 0.6
  found = jax.device_get(token_sequences.without_items(batch, jnp.asarray(keep_BH)))
  for row, (histories, targets) in enumerate(zip(HISTORIES, TARGETS)):
    column = 0
    for number, (items, target_H) in enumerate(zip(histories, targets), start=1):
      own = range(column, column + len(items))
      left = [place for place in own if keep_BH[row, place]]
      after = [items[place - column] for place in left[1:]] + [target_H[-1]]
      dropped = [place for place in own if place not in left]
      assert found.history_BH[row, left].tolist() == [items[p - column] for p in left]
      assert found.target_B[row, left].tolist() == after[: len(left)]
      assert (found.segment_BH[row, left] == number).all()
      assert not found.segment_BH[row, dropped].any()
      column += len(items)


def test_items_are_dropped_anew_in_every_step_of_training_alone():
  keys = jax.random.split(jax.random.key(0), 8)
  for rate, number in ((0.0, 1), (0.5, 5)):
    system, tables, _ = build(**BY_POSITION, input__item_dropout=rate)
    params = weights(system)
    found = [system.loss(params, tables, rows(), key) for key in keys]
    assert len({float(value) for value, _ in found}) >= number
    tokens = np.mean([counts["tokens"] for _, counts in found])
    assert tokens == pytest.approx(9 * (1 - rate), abs=1.5)
    nll_B = system.nll(params, tables, prefixes())
    if not rate:
      without = nll_B
  np.testing.assert_array_equal(nll_B, without)


def test_both_losses_are_summed():
  found = {}
  for loss in ("vocabulary", "children", "both"):
    system, tables, _ = build(**BY_POSITION, train__loss=loss)
    params = weights(system)
    found[loss], _ = system.loss(params, tables, rows(), jax.random.key(1))
  assert found["both"] == pytest.approx(found["vocabulary"] + found["children"])


def test_the_order_of_a_history_matters():
  system, tables, _ = build(**BY_POSITION)
  params = weights(system)
  batch = make_batch([(-1, [3, 1, 2], 5, 1.0), (-1, [1, 3, 2], 5, 1.0)])
  first, second = system.nll(params, tables, batch)
  assert abs(first - second) > 1e-4


def test_an_example_a_row_may_have_the_loss_of_siblings():
  system, tables, _ = build(**CHILDREN)
  params = weights(system)
  batch = prefixes()
  value, _ = system.loss(params, tables, batch, jax.random.key(1))
  nll_B = system.nll(params, tables, batch)
  np.testing.assert_allclose(value, mean_of_means(nll_B, batch), rtol=1e-5)


# Children are listed, and their logits computed alone.
LISTED = {"decoding__trie_bytes": 0}


@pytest.mark.parametrize(
  ("kind", "more"),
  [("beam", {}), ("beam", REPEATS), ("beam", REPEATS | LISTED), ("exact", REPEATS)],
)
def test_lists_are_ranked_by_the_loss_of_siblings(kind, more, monkeypatch):
  """By beam search and by scores of all items; the chances of all items sum to 1."""
  monkeypatch.setattr(candidates, "FEW", 1.0)
  system, tables, _ = build(decoding__kind=kind, **CHILDREN | more)
  params = weights(system)
  num_items = len(ITEM_CODES)
  batch = make_batch([(-1, [5, 9, 11, 1], item, 1.0) for item in range(num_items)])
  nobody = np.zeros(num_items, np.int32)
  allowed = Allowed(no_shared_mask(), nobody, np.zeros((num_items, 0), np.int32))
  best = system.recommend(params, tables, batch, allowed, k=num_items)
  found_I = np.empty(num_items)
  found_I[best.items_BK[0]] = -best.scores_BK[0]
  nll_I = system.nll(params, tables, batch)
  np.testing.assert_allclose(nll_I, found_I, rtol=1e-4)
  assert np.exp(-nll_I).sum() == pytest.approx(1, abs=1e-5)


def test_a_repeat_is_as_likely_as_its_recency_says():
  """A bias of ln 2 doubles the odds of an item, or of a whole cluster."""
  system, tables, _ = build(**REPEATS)
  none_LP = jnp.zeros((system.system.levels, repeats.NUMBER))
  params = weights(system)
  num_items = len(UNIQUE)
  batch = make_batch([(-1, [6, 11, 3], item, 1.0) for item in range(num_items)])

  def chances(bias_LP):
    return np.exp(
      -np.asarray(system.nll(params | {"repeat_bias": bias_LP}, tables, batch))
    )

  before_I = chances(none_LP)
  # 0 = the newest item, 3; item 6 of the same parent is two places before it.
  after_I = chances(none_LP.at[1, 0].set(np.log(2.0)).at[1, 2].set(-np.inf))
  siblings = [0, 9]
  np.testing.assert_allclose(
    after_I[3] / after_I[siblings], 2 * before_I[3] / before_I[siblings], rtol=1e-4
  )
  assert after_I[6] == 0
  others = [1, 2, 4, 5, 7, 8, 10, 11]
  np.testing.assert_allclose(after_I[others], before_I[others], rtol=1e-4)
  # The first token of 6 and 3 stands at the newest place only, and twice.
  first_I = np.array([code[0] for code in UNIQUE])
  assert first_I[6] == first_I[3] != first_I[11]
  twice = repeats.RECENCIES + 1
  for place in (0, twice):
    after_I = chances(none_LP.at[0, place].set(np.log(2.0)))
    odds_I = after_I / before_I
    inside = first_I == first_I[3]
    np.testing.assert_allclose(odds_I[inside], 2 * odds_I[~inside][0], rtol=1e-4)
    np.testing.assert_allclose(odds_I[~inside], odds_I[~inside][0], rtol=1e-4)


@pytest.mark.parametrize(
  "codes", [ITEM_CODES, [*UNIQUE[:-2], (13, 0, 14), (13, 0, 15)]], ids=["last", "inner"]
)
def test_a_token_at_two_places_of_the_trie_gets_no_bias(codes):
  with pytest.raises(UserError, match="each token has one place in the trie"):
    build(**REPEATS | {"codes": codes})


@pytest.mark.parametrize(
  ("fields", "message"),
  [
    ({"input.user": True}, "learns from items in time order alone"),
    ({"input.order": "none"}, "learns from items in time order alone"),
    ({"model.repeats": True}, "repeats needs .*every_position=True and .*=children"),
    ({"model.calibrated": True}, "calibrated needs config.train.loss=children"),
    ({"input.every_position": False, "input.item_dropout": 0.1}, "needs .*position"),
    ({"input.every_position": False, "train.whole_histories": True}, "needs .*posit"),
    ({"train.label_smoothing": 0.1}, "label_smoothing .*needs config.train.loss=child"),
  ],
)
def test_what_does_not_go_together_is_refused(fields, message):
  start = {name.replace("__", "."): value for name, value in BY_POSITION.items()}
  config = config_lib.load("toys", "tiny", start | fields)
  with pytest.raises(UserError, match=message):
    config_lib.check(config)


def test_logits_of_siblings_write_nothing_freely():
  fields = {"train.loss": "children", "decoding.kind": "unconstrained"}
  config = config_lib.load("toys", "tiny", fields)
  with pytest.raises(UserError, match=r"needs config\.train\.loss=vocabulary"):
    config_lib.check(config)


@pytest.mark.parametrize(("system", "old"), [("lightlm", "full"), ("sasrec", "binary")])
def test_runs_from_before_keep_their_loss(system, old):
  """Their files held every system's fields: LightLM's that of others."""
  flat = config_lib.to_flat(config_lib.load("toys", "tiny", {"system": "lightlm"}))
  if system == "sasrec":
    flat = config_lib.to_flat(config_lib.load("sasrec", "tiny"))
  flat["train.loss"] = old
  lacking = {"input.every_position", "model.residual", "model.repeats"}
  flat = {name: value for name, value in flat.items() if name not in lacking}
  found = config_lib.own_fields(flat)
  assert found["train.loss"] == ("vocabulary" if system == "lightlm" else old)
  if system == "lightlm":
    assert found["input.every_position"] is found["model.residual"] is False


@pytest.mark.parametrize("more", [{}, LISTED], ids=["masks", "lists"])
def test_an_exported_search_adds_the_bias_for_any_number_of_requests(more, monkeypatch):
  monkeypatch.setattr(candidates, "FEW", 1.0)
  system, tables, _ = build(**REPEATS | more)
  params = weights(system)
  rows = [(-1, [5, 9, 11, 1], 0, 1.0), (-1, [6, 6], 0, 1.0), (-1, [2], 0, 1.0)]
  batch, (B,) = make_batch(rows), jax.export.symbolic_shape("b")

  def search(params, user_B, history_BH):
    segment_BH = (history_BH >= 0).astype(jnp.int32)
    asked = Batch(user_B, history_BH, segment_BH, user_B, jnp.ones_like(user_B))
    nobody_BE = jnp.zeros((user_B.shape[0], 0), jnp.int32)
    allowed = Allowed(no_shared_mask(), jnp.zeros_like(user_B), nobody_BE)
    return system.system.recommend(params, tables, asked, allowed, k=5)[:2]

  arrays = jnp.asarray(batch.user_B), jnp.asarray(batch.history_BH)
  shapes = [jax.ShapeDtypeStruct((B, *x.shape[1:]), x.dtype) for x in arrays]
  exported = jax.export.export(jax.jit(search))(jax.eval_shape(lambda: params), *shapes)
  found, wanted = exported.call(params, *arrays), jax.jit(search)(params, *arrays)
  np.testing.assert_array_equal(found[0], wanted[0])
  np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5)
  without = params | {"repeat_bias": jnp.zeros_like(params["repeat_bias"])}
  assert np.abs(exported.call(without, *arrays)[1] - found[1]).max() > 0.1
