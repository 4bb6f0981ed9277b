"""LightLM: what its scores mean, whatever searches for them."""

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
)

from lightlm_jax import config as config_lib
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.ids import codes as codes_lib
from lightlm_jax.systems import lightlm


@pytest.fixture(autouse=True)
def exact():
  with jax.default_matmul_precision("highest"):
    yield


@pytest.fixture
def params():
  return small_lightlm.weights()


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
  flags_BK = jax.jit(system.invalid_beams)(params, tables, make_batch(ROWS))
  assert flags_BK.shape == (5, 7)
  assert flags_BK.dtype == jnp.bool_
  assert flags_BK.any()
  assert not flags_BK.all()


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
