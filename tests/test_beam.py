"""The search against brute force and against a beam search over Python lists."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_search import (
  NORMS,
  ROWS,
  START,
  SUM,
  Catalogue,
  SlowModel,
  exhaustive,
  forty_items,
  left_open,
  random_filters,
  random_table,
  search_slowly,
  slow_beams,
  some_items,
  step,
)

from lightlm_jax.decoding import beam

NOTHING = [[]] * ROWS
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
both_forms = pytest.mark.parametrize("form", ["lists", "masks"])
some_forms = pytest.mark.parametrize(
  ("form", "renormalise"), [("lists", False), ("masks", False), ("lists", True)]
)
all_norms = pytest.mark.parametrize("norm", NORMS, ids=["sum", "mean", "T5"])


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"):
    yield


def expect(found, row, expected):
  """Row of the result = [(item, score)], then nothing; it counts what it checks."""
  k = found.items_BK.shape[1]
  expected = expected[:k]
  number = len(expected)
  assert found.items_BK[row].tolist() == [i for i, _ in expected] + [-1] * (k - number)
  assert found.valid_BK[row].tolist() == [True] * number + [False] * (k - number)
  scores = [score for _, score in expected] + [-math.inf] * (k - number)
  np.testing.assert_allclose(found.scores_BK[row], scores, **TOLERANCE)


def expect_equal(found, expected):
  assert found.items_BK.tolist() == expected.items_BK.tolist()
  assert found.valid_BK.tolist() == expected.valid_BK.tolist()
  np.testing.assert_allclose(found.scores_BK, expected.scores_BK, **TOLERANCE)


@all_norms
@both_forms
def test_as_many_beams_as_items_are_exact(form, norm):
  catalogue = forty_items(form)
  table = random_table(0, catalogue.vocab_size)
  filters = random_filters(11)
  cases = [(None, [range(40)] * ROWS)]
  if form == "lists":
    cases.append((catalogue.allowed(*filters), left_open(*filters)))
  for allowed, open_items in cases:
    found, _ = catalogue.run(table, allowed, norm, beam_size=40)
    for row, items in enumerate(open_items):
      best = exhaustive(SlowModel(table), row, catalogue.codes, items, norm)
      expect(found, row, best)


@both_forms
def test_a_narrow_search_keeps_the_best_of_every_level(form):
  catalogue = forty_items(form)
  inexact, firsts = 0, []
  for seed in range(5):
    table = random_table(seed, catalogue.vocab_size)
    for norm in NORMS:
      found, _ = catalogue.run(table, None, norm, beam_size=6)
      for row in range(ROWS):
        slow = search_slowly(table, catalogue.codes, row, range(40), 6, norm)
        expect(found, row, slow)
        best = exhaustive(SlowModel(table), row, catalogue.codes, range(40), norm)
        inexact += [i for i, _ in slow] != [i for i, _ in best[:6]]
      firsts.append(found.items_BK[:, 0].tolist())
  assert inexact, "no case in which the beam's width mattered"
  assert firsts[::3] != firsts[1::3] != firsts[2::3], "a norm is a constant factor"


def test_the_first_step_reads_one_beam_and_none_reads_more_than_asked():
  widths = []

  def watch(table, token_BK, parent_BK, cache):
    assert token_BK.shape == parent_BK.shape
    widths.append(token_BK.shape)
    return step(table, token_BK, parent_BK, cache)

  def search(table, trie):
    return beam.search(
      functools.partial(watch, table),
      jnp.zeros((ROWS, 1), jnp.uint32),
      trie,
      None,
      beam.Options(beam_size=20, start_token=START, length_penalty=0.0),
      B=ROWS,
    )

  jax.eval_shape(search, random_table(0, 8), forty_items("lists").trie)
  assert widths == [(ROWS, 1), (ROWS, 8), (ROWS, 20), (ROWS, 20)]


def test_the_first_k_are_the_best_of_a_wider_search():
  catalogue = forty_items("lists")
  table = random_table(2, catalogue.vocab_size)
  wide, _ = catalogue.run(table, None, beam_size=6)
  narrow, _ = catalogue.run(table, None, beam_size=6, k=2)
  for a, b in zip(wide, narrow):
    assert (a[:, :2] == b).all()


@all_norms
@pytest.mark.parametrize(
  ("form", "masked"), [("lists", False), ("masks", False), ("lists", True)]
)
def test_renormalised_steps_share_all_probability_among_open_children(
  form, masked, norm
):
  """The normaliser is the smaller catalogue's, whatever it was that closed."""
  catalogue = forty_items(form)
  table = random_table(3, catalogue.vocab_size)
  open_MI, mask_B, excluded = random_filters(3)
  if not masked:
    open_MI = np.ones((2, 40), bool)
  options = {"beam_size": 6, "renormalise": True}
  scores = []
  for exclusions in (NOTHING, excluded):
    allowed = catalogue.allowed(open_MI if masked else [], mask_B, exclusions)
    found, _ = catalogue.run(table, allowed, norm, **options)
    for row, items in enumerate(left_open(open_MI, mask_B, exclusions)):
      slow = search_slowly(
        table, catalogue.codes, row, items, 6, norm, renormalise=True
      )
      expect(found, row, slow)
    scores.append(found.scores_BK)
  assert (scores[0] != scores[1]).any()


def test_renormalised_probabilities_sum_to_one():
  catalogue = forty_items("masks")
  options = {"beam_size": 40, "renormalise": True}
  wide, _ = catalogue.run(random_table(3, catalogue.vocab_size), None, **options)
  np.testing.assert_allclose(np.exp(wide.scores_BK).sum(axis=1), 1, rtol=1e-4)


@both_forms
def test_filters_are_a_smaller_catalogue(form):
  catalogue = forty_items(form)
  everything = np.ones((2, 40), bool)
  for seed in range(12):
    table = random_table(seed, catalogue.vocab_size)
    open_MI, mask_B, excluded = random_filters(seed)
    for masks, opened in ((open_MI, open_MI), ([], everything)):
      allowed = catalogue.allowed(masks, mask_B, excluded)
      found, _ = catalogue.run(table, allowed, beam_size=6)
      for row, items in enumerate(left_open(opened, mask_B, excluded)):
        expect(found, row, search_slowly(table, catalogue.codes, row, items, 6))
        valid = found.items_BK[row][found.valid_BK[row]].tolist()
        assert len(set(valid)) == len(valid) == min(6, len(items))
        assert set(valid) <= set(items)


def test_filters_equal_a_trie_of_the_open_items():
  catalogue = forty_items("masks")
  table = random_table(7, catalogue.vocab_size)
  is_kept = np.random.default_rng(7).random(40) < 0.4
  kept, gone = np.flatnonzero(is_kept), np.flatnonzero(~is_kept)
  smaller = Catalogue([catalogue.codes[item] for item in kept], catalogue.vocab_size)
  expected, _ = smaller.run(table, None, beam_size=6)
  assert expected.valid_BK.all()
  named = expected._replace(items_BK=kept[expected.items_BK])
  two_masks = np.stack([~is_kept, is_kept])
  for allowed in (
    catalogue.allowed(two_masks, [1] * ROWS, NOTHING),
    catalogue.allowed(two_masks[1:], [0] * ROWS, NOTHING, width=0),
    catalogue.excluding([gone] * ROWS),
    catalogue.allowed(two_masks, [1] * ROWS, [gone] * ROWS),
  ):
    found, _ = catalogue.run(table, allowed, beam_size=6)
    expect_equal(found, named)


@some_forms
def test_a_mask_that_closes_nothing_is_no_mask(form, renormalise):
  """Whatever the other mask closes, that nobody uses."""
  catalogue = forty_items(form)
  table = random_table(8, catalogue.vocab_size)
  open_MI = np.stack([np.zeros(40, bool), np.ones(40, bool)])
  *_, excluded = random_filters(8)
  options = {"beam_size": 6, "renormalise": renormalise}
  for items in (NOTHING, excluded):
    without, _ = catalogue.run(table, catalogue.excluding(items), **options)
    allowed = catalogue.allowed(open_MI, [1] * ROWS, items)
    found, _ = catalogue.run(table, allowed, **options)
    assert without.valid_BK.all()
    expect_equal(found, without)


@both_forms
def test_an_exclusion_counts_once_however_often_it_is_closed(form):
  """Twice in the list, or by the mask too: as if it stood there once, or not at all."""
  catalogue = forty_items(form)
  table = random_table(9, catalogue.vocab_size)
  open_MI, mask_B, _ = random_filters(9)
  once = [[0, 5, 6], list(range(8)), [30], list(range(0, 40, 4))]
  closed = [np.flatnonzero(~open_MI[mask]).tolist() for mask in mask_B]
  short = [[i for i in items if i not in shut] for items, shut in zip(once, closed)]
  long = [[*items, *items, *shut] for items, shut in zip(once, closed)]
  assert any(short)
  assert short != once
  twice = [items * 2 for items in once]
  for masks, one, other in ((open_MI, short, long), ([], once, twice)):
    expected, _ = catalogue.run(
      table, catalogue.allowed(masks, mask_B, one), beam_size=6
    )
    found, _ = catalogue.run(
      table, catalogue.allowed(masks, mask_B, other), beam_size=6
    )
    expect_equal(found, expected)


def test_filtering_inside_the_search_finds_what_filtering_its_result_loses():
  """16 of a user's 20 beams hold what was seen: 4 are left, or 20 others."""
  catalogue = forty_items("masks")
  table = random_table(3, catalogue.vocab_size)
  unfiltered, _ = catalogue.run(table, catalogue.excluding(NOTHING), beam_size=20)
  seen = [item_K[:16].tolist() for item_K in unfiltered.items_BK]
  allowed = catalogue.excluding(seen)
  after, _ = catalogue.run(table, allowed, beam_size=20, filtered_after=True)
  inside, _ = catalogue.run(table, allowed, beam_size=20)
  assert after.valid_BK.sum(axis=1).tolist() == [4] * ROWS
  assert (after.items_BK[:, :4] == unfiltered.items_BK[:, 16:]).all()
  assert inside.valid_BK.all()
  for row in range(ROWS):
    rest = [item for item in range(40) if item not in seen[row]]
    expect(inside, row, search_slowly(table, catalogue.codes, row, rest, 20))


def test_the_width_of_the_exclusions_changes_nothing():
  """Up to lists so long that they are searched in another way, and down to none."""
  catalogue = forty_items("lists")
  table = random_table(4, catalogue.vocab_size)
  excluded = [[1, 5, 9], [], [0, 39], list(range(8))]
  narrow, _ = catalogue.run(table, catalogue.excluding(excluded), beam_size=6)
  wide, _ = catalogue.run(table, catalogue.excluding(excluded, 512), beam_size=6)
  none, _ = catalogue.run(table, catalogue.excluding(NOTHING), beam_size=6)
  alone, _ = catalogue.run(table, None, beam_size=6)
  expect_equal(wide, narrow)
  expect_equal(none, alone)
  assert (narrow.items_BK[1] == alone.items_BK[1]).all()
  assert (narrow.items_BK != alone.items_BK).any()


@some_forms
def test_rows_whose_items_are_all_closed_get_nothing(form, renormalise):
  catalogue = forty_items(form)
  table = random_table(5, catalogue.vocab_size)
  everything = list(range(40))
  open_MI = np.stack([np.arange(40) > 10, np.zeros(40, bool)])
  for allowed, left in (
    (catalogue.excluding([everything, [], everything, [17]]), [0, 6, 0, 6]),
    (
      catalogue.allowed(open_MI, [0, 1, 0, 0], [everything[11:], [], [], [17]]),
      [0, 0, 6, 6],
    ),
  ):
    found, _ = catalogue.run(table, allowed, beam_size=6, renormalise=renormalise)
    assert found.valid_BK.sum(axis=1).tolist() == left
    assert (found.items_BK[~found.valid_BK] == -1).all()
    assert (found.scores_BK[~found.valid_BK] == -np.inf).all()
    assert not (found.items_BK[3] == 17).any()


@pytest.fixture
def compilations():
  """How long each program took to compile, whoever asked for it."""
  seconds = []

  def listen(event, duration, **_):
    if event == "/jax/core/compile/backend_compile_duration":
      seconds.append(duration)

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield seconds
  jax.monitoring.unregister_event_duration_listener(listen)


def test_other_filters_compile_nothing(compilations):
  catalogue = forty_items("lists")
  search = catalogue.compiled(beam_size=6)
  table, norm = jax.device_put((random_table(0, 8), np.float32(SUM)))
  filters = [catalogue.allowed(*random_filters(seed)) for seed in range(4)]
  seen, programs, compiled = set(), set(), set()
  for allowed in jax.device_put(filters):
    found, _ = jax.device_get(search(table, allowed, norm, catalogue.trie))
    seen.add(str(found.items_BK.tolist()))
    programs.add(search._cache_size())
    compiled.add(len(compilations))
  assert len(seen) == 4, "the filters did not matter"
  assert len(programs) == len(compiled) == 1


def catalogues_of_one_shape(form):
  """Three with other codes, 40, 41 and 44 items: every level has the same capacity."""

  def shape(catalogue):
    return str(jax.tree.map(jnp.shape, catalogue.trie))

  made = [forty_items(form)]
  for number in (41, 44):
    others = (some_items(seed, number, form) for seed in range(100))
    made.append(next(other for other in others if shape(other) == shape(made[0])))
  return made


@pytest.mark.parametrize(
  ("form", "masked"), [("lists", False), ("masks", False), ("lists", True)]
)
def test_a_changed_catalogue_compiles_nothing(form, masked, compilations):
  """Other codes, other names and more items: the trie and its filters are data."""
  made = catalogues_of_one_shape(form)
  search = made[0].compiled(beam_size=6)
  table, norm = random_table(6, made[0].vocab_size), np.float32(SUM)
  programs, compiled = set(), set()
  for n, catalogue in enumerate(made):
    excluded = [list(range(row + n, 40, 4)) for row in range(ROWS)]
    open_MI = np.arange(len(catalogue))[None] % 5 != n
    allowed = catalogue.allowed(open_MI if masked else [], [0] * ROWS, excluded)
    filters = jax.device_put((table, allowed, norm))
    found, _ = jax.device_get(search(*filters, catalogue.trie))
    programs.add(search._cache_size())
    compiled.add(len(compilations))
    open_items = np.flatnonzero(open_MI[0]) if masked else range(len(catalogue))
    for row in range(ROWS):
      rest = [item for item in open_items if item not in excluded[row]]
      expect(found, row, search_slowly(table, catalogue.codes, row, rest, 6))
  assert len(programs) == len(compiled) == 1
  jax.jit(lambda x_B: -x_B)(jax.device_put(np.ones(ROWS)))
  assert len(compilations) > max(compiled), "nobody counts"


EDGE_CATALOGUES = {
  "one item": ([(3, 2, 4)], 6),
  "one short item": ([(3,)], 6),
  "a root with one child": ([(5, a, b) for a in (2, 4) for b in (0, 3, 5)], 6),
  "one token an item": ([(t,) for t in range(2, 12)], 12),
  "depth 8": ([(2,) * n + (3,) * (8 - n) for n in range(9)] + [(4, 2)], 5),
}


@pytest.mark.parametrize(
  ("name", "form"),
  [(name, "masks") for name in EDGE_CATALOGUES]
  + [("one short item", "lists"), ("one token an item", "lists")],
)
def test_edges_are_exact_too(name, form):
  codes, vocab_size = EDGE_CATALOGUES[name]
  catalogue = Catalogue(codes, vocab_size, form == "masks")
  number = len(catalogue)
  table = random_table(0, vocab_size, scale=0.5)
  excluded = [[], [0], list(range(number)), list(range(1, min(number, 8)))]
  # More beams than items and a k beyond them: exact, then nothing.
  found, _ = catalogue.run(
    table, catalogue.excluding(excluded, 16), beam_size=number + 2, k=number + 5
  )
  for row in range(ROWS):
    rest = [item for item in range(number) if item not in excluded[row]]
    expect(found, row, exhaustive(SlowModel(table), row, codes, rest))


@pytest.mark.parametrize("masked", [pytest.param(False, marks=pytest.mark.slow), True])
def test_codes_of_sixteen_tokens_are_found(masked):
  codes = [(2,) * n + (3,) * (16 - n) for n in range(9)] + [(4, 2)]
  table = random_table(0, 5, scale=0.5)
  catalogue = Catalogue(codes, 5)
  open_MI = np.arange(10)[None] % 4 > 0
  excluded = [[], [2], [1, 5, 9], [3, 7]]
  allowed = catalogue.allowed(open_MI if masked else [], [0] * ROWS, excluded)
  for filters, closed in ((None, NOTHING), (allowed, excluded)):
    open_items = range(10)
    if masked and filters:
      open_items = np.flatnonzero(open_MI[0]).tolist()
    found, _ = catalogue.run(table, filters, beam_size=12)
    for row in range(ROWS):
      rest = [item for item in open_items if item not in closed[row]]
      expect(found, row, exhaustive(SlowModel(table), row, codes, rest))


@both_forms
def test_a_node_of_ten_thousand_children_and_long_exclusions(form):
  codes = [(2, t) for t in range(10_000)] + [(3, 2), (3, 9_999), (4,), (5, 5, 5)]
  catalogue = Catalogue(codes, 10_000, form == "masks")
  table = random_table(0, 10_000, contexts=31)
  best = [i for i, _ in exhaustive(SlowModel(table), 1, codes, range(len(codes)))]
  excluded = [[], best[:512], list(range(9_492, 10_004)), list(range(10_000, 10_004))]
  found, _ = catalogue.run(table, catalogue.excluding(excluded, 512), beam_size=20)
  for row in range(ROWS):
    rest = sorted(set(range(len(codes))) - set(excluded[row]))
    expect(found, row, search_slowly(table, codes, row, rest, 20))


WITH_SEVEN_INSIDE = [(2, 7, 0), (2, 7, 3), (3, 4, 5), (4, 7, 6), (7,), (5, 0)]


@both_forms
def test_under_the_trie_leaves_end_a_beam_and_no_token_does(form):
  catalogue = Catalogue(WITH_SEVEN_INSIDE, 8, form == "masks")
  table = random_table(0, 8)
  for norm in NORMS:
    found, _ = catalogue.run(table, None, norm, beam_size=6, end_token=7)
    for row in range(ROWS):
      best = exhaustive(SlowModel(table), row, WITH_SEVEN_INSIDE, range(6), norm)
      expect(found, row, best)


@pytest.mark.parametrize("seven_inside", [False, True])
@pytest.mark.parametrize(("beam_size", "end_token"), [(1, None), (7, None), (7, 7)])
def test_an_unconstrained_search_says_which_beams_are_no_item(
  beam_size, end_token, seven_inside
):
  catalogue = forty_items("lists")
  if seven_inside:
    catalogue = Catalogue(WITH_SEVEN_INSIDE, 8)
  depth = catalogue.trie.depth
  item_of = {code: item for item, code in enumerate(catalogue.codes)}

  def may_follow(prefix):
    ended = prefix in item_of or (prefix and prefix[-1] == end_token)
    return None if ended else range(8)

  options = {"beam_size": beam_size, "constrained": False, "end_token": end_token}
  flags, lengths = set(), set()
  for seed in range(4):
    table = random_table(seed, 8)
    found, hallucinated_BK = catalogue.run(table, None, **options)
    for row in range(ROWS):
      beams = slow_beams(SlowModel(table), row, may_follow, depth, beam_size)
      items = [item_of.get(prefix, -1) for prefix, _ in beams]
      assert hallucinated_BK[row].tolist() == [item < 0 for item in items]
      assert found.items_BK[row].tolist() == items
      scores = [s if i >= 0 else -math.inf for i, (_, s) in zip(items, beams)]
      np.testing.assert_allclose(found.scores_BK[row], scores, **TOLERANCE)
      flags |= {item < 0 for item in items}
      lengths |= {len(prefix) for prefix, _ in beams if prefix not in item_of}
  assert flags == {True, False} or beam_size == 1
  assert (min(lengths) < depth) == (end_token is not None)


def test_an_empty_slot_is_no_hallucination():
  """The tree of all sequences ends at items, so that ten beams find seven."""
  catalogue = Catalogue([(0,), (1,), (2,), (3, 0)], 4)
  table = random_table(0, 4)
  found, hallucinated_BK = catalogue.run(table, None, beam_size=10, constrained=False)
  assert found.valid_BK.sum(axis=1).tolist() == [4] * ROWS
  assert hallucinated_BK.sum(axis=1).tolist() == [3] * ROWS


def test_filters_after_an_unconstrained_search_keep_the_order_of_the_rest():
  catalogue = forty_items("lists")
  table = random_table(2, catalogue.vocab_size)
  filters = random_filters(2)
  allowed = catalogue.allowed(*filters)
  options = {"beam_size": 20, "constrained": False}
  plain, plain_flag_BK = catalogue.run(table, None, **options)
  found, flag_BK = catalogue.run(table, allowed, filtered_after=True, **options)
  for row, items in enumerate(left_open(*filters)):
    closed_K = plain.valid_BK[row] & ~np.isin(plain.items_BK[row], items)
    kept, gone = plain.items_BK[row][~closed_K].tolist(), [-1] * closed_K.sum()
    assert gone
    assert set(kept) > {-1}
    assert found.items_BK[row].tolist() == kept + gone
    flags = plain_flag_BK[row][~closed_K].tolist()
    assert flag_BK[row].tolist() == flags + [False] * len(gone)


def test_a_start_that_ends_is_refused():
  with pytest.raises(ValueError, match=f"token {START} starts every beam and ends it"):
    forty_items("lists").run(random_table(0, 8), None, beam_size=2, end_token=START)
