"""The search against brute force and against a beam search over Python lists."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import beam
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.ids.codes import stack_codes

START = 1
ROWS = 4
TABLE = 4099  # contexts that the toy model tells apart
MULTIPLIER = 48271
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(autouse=True)
def strict():
  with jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"):
    yield


class Catalogue:
  """Codes, their trie, and a search over it that is compiled once a setting."""

  def __init__(self, codes, vocab_size):
    self.codes = codes
    self.vocab_size = vocab_size
    self.depth = max(len(code) for code in codes)
    trie, self.rank_I = trie_lib.build_dense(stack_codes(codes), vocab_size, 2**24)
    self.trie = jax.device_put(trie)
    self._compiled = {}

  def __len__(self):
    return len(self.codes)

  def run(self, table, allowed, *, free=False, **static):
    """(Recommendations, hallucinated) as numpy; `allowed` None = trie alone."""
    return jax.device_get(
      self.compiled(free=free, **static)(*jax.device_put((table, allowed)), self.trie)
    )

  def compiled(
    self,
    *,
    beam_size,
    inner=None,
    k=None,
    length_penalty=0.0,
    free=False,
    renormalise=False,
  ):
    key = beam_size, inner, k, length_penalty, free, renormalise
    if key not in self._compiled:

      def search(table, allowed, trie):
        beams = beam.search(
          functools.partial(step, table),
          jnp.arange(ROWS, dtype=jnp.uint32)[None, :, None],
          beam.unconstrained(trie) if free else trie,
          allowed,
          B=ROWS,
          beam_sizes=(*(inner or (beam_size,) * (self.depth - 1)), beam_size),
          start_token=START,
          length_penalty=length_penalty,
          renormalise=renormalise,
        )
        found = beam.recommendations(
          beams, trie, k=k or beam_size, length_penalty=length_penalty
        )
        return found, beam.hallucinated(beams, trie)

      self._compiled[key] = jax.jit(search)
    return self._compiled[key]

  def allowed(self, open_MI, mask_B, excluded, width=None):
    """Masks and exclusions given by catalogue items, as the device wants them."""
    num_items = len(self)
    open_MR = np.zeros((len(open_MI), num_items), np.int32)
    open_MR[:, self.rank_I] = open_MI
    prefix_MI1 = np.pad(np.cumsum(open_MR, axis=1), ((0, 0), (1, 0))).astype(np.int32)
    pairs = [
      (row, item)
      for row, items in enumerate(excluded)
      for item in items
      if open_MI[mask_B[row]][item]
    ]
    row_P, item_P = np.array(pairs, np.int64).reshape(-1, 2).T
    excluded_BE = allowed_lib.exclusions(
      row_P, item_P, rank_I=self.rank_I, batch_size=ROWS
    )
    if width is not None:
      more = width - excluded_BE.shape[1]
      excluded_BE = np.pad(excluded_BE, ((0, 0), (0, more)), constant_values=num_items)
    return Allowed(prefix_MI1, np.array(mask_B, np.int32), excluded_BE)

  def excluding(self, excluded, width=None):
    return self.allowed(np.ones((1, len(self)), bool), [0] * ROWS, excluded, width)


def step(table_XV, token_BK, cache):
  """A model whose logits depend on the row and on every token before."""
  context_NBK = cache * jnp.uint32(MULTIPLIER) + token_BK[None].astype(jnp.uint32)
  return table_XV[context_NBK[0] % TABLE], context_NBK


def random_table(seed, vocab_size, scale=2.0):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(TABLE, vocab_size), scale=scale).astype(np.float32)


class SlowModel:
  """The same model, a prefix at a time."""

  def __init__(self, table):
    wide = table.astype(np.float64)
    self.log_prob_XV = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))

  def next(self, row, prefix):
    context = row
    for token in (START, *prefix):
      context = (context * MULTIPLIER + token) % 2**32
    return self.log_prob_XV[context % TABLE]

  def log_prob(self, row, code):
    return sum(self.next(row, code[:n])[token] for n, token in enumerate(code))


def exhaustive(model, row, codes, items, length_penalty):
  """All of `items`, best first, as [(item, score)]."""
  scored = [
    (item, model.log_prob(row, codes[item]) / len(codes[item]) ** length_penalty)
    for item in items
  ]
  return sorted(scored, key=lambda pair: -pair[1])


def slow_beams(
  model, row, may_follow, depth, beam_size, length_penalty, renormalise=False
):
  """A beam search over Python lists: [(prefix, score)], best first.

  `may_follow(prefix)` gives the tokens, None where the prefix is a whole code.
  """
  beams = [((), 0.0)]
  for _ in range(depth):
    following = []
    for prefix, log_prob in beams:
      tokens = may_follow(prefix)
      if tokens is None:
        following.append((prefix, log_prob))
        continue
      log_prob_V = model.next(row, prefix)
      if renormalise:
        log_prob_V = log_prob_V - np.log(sum(np.exp(log_prob_V[t]) for t in tokens))
      following += [((*prefix, t), log_prob + log_prob_V[t]) for t in tokens]
    following.sort(key=lambda pair: -pair[1] / len(pair[0]) ** length_penalty)
    beams = following[:beam_size]
  return [
    (prefix, log_prob / len(prefix) ** length_penalty) for prefix, log_prob in beams
  ]


def under_trie(codes):
  """Which tokens may follow a prefix of `codes`."""
  following = {}
  for code in codes:
    following[code] = None
    for n, token in enumerate(code):
      following.setdefault(code[:n], set()).add(token)
  return following.__getitem__


def expect(found, row, expected):
  """Row of the result = [(item, score)], then nothing; it counts what it checks."""
  k = found.items_BK.shape[1]
  expected = expected[:k]
  number = len(expected)
  assert found.items_BK[row].tolist() == [i for i, _ in expected] + [-1] * (k - number)
  assert found.valid_BK[row].tolist() == [True] * number + [False] * (k - number)
  scores = [score for _, score in expected] + [-math.inf] * (k - number)
  np.testing.assert_allclose(found.scores_BK[row], scores, **TOLERANCE)


def search_slowly(
  table, catalogue, row, open_items, beam_size, length_penalty=0.0, renormalise=False
):
  """What a narrow search over only the open items would recommend."""
  if not open_items:
    return []
  item_of = {catalogue.codes[item]: item for item in open_items}
  found = slow_beams(
    SlowModel(table),
    row,
    under_trie(item_of),
    catalogue.depth,
    beam_size,
    length_penalty,
    renormalise,
  )
  return [(item_of[prefix], score) for prefix, score in found]


def random_codes(seed, number, vocab_size, depth):
  """Codes of 1 to `depth` tokens in random order, none of which begins another."""
  rng = np.random.default_rng(seed)
  codes = {}
  while len(codes) < number:
    code = tuple(rng.integers(2, vocab_size, rng.integers(1, depth + 1)).tolist())
    prefixes = {code[:n] for n in range(1, depth + 1)}
    if not prefixes & set(codes) and not any(c[: len(code)] == code for c in codes):
      codes[code] = None
  return [list(codes)[place] for place in rng.permutation(number)]


@pytest.fixture(scope="module")
def catalogue():
  """Codes of 1 to 4 tokens: beams finish at different levels."""
  made = Catalogue(random_codes(0, 40, 8, 4), 8)
  assert {len(code) for code in made.codes} >= {2, 3, 4}
  return made


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_wide_search_is_exact(catalogue, length_penalty):
  table = random_table(0, 8)
  found, _ = catalogue.run(
    table, catalogue.excluding([[]] * ROWS), beam_size=60, length_penalty=length_penalty
  )
  model = SlowModel(table)
  for row in range(ROWS):
    best = exhaustive(model, row, catalogue.codes, range(40), length_penalty)
    expect(found, row, best)
  # The penalty is no constant factor: it changes who is first.
  orders = [
    [item for item, _ in exhaustive(model, 0, catalogue.codes, range(40), penalty)]
    for penalty in (0.0, 1.0)
  ]
  assert orders[0] != orders[1]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_narrow_search_keeps_the_best_of_every_level(catalogue, length_penalty):
  inexact = 0
  for seed in range(5):
    table = random_table(seed, 8)
    found, _ = catalogue.run(table, None, beam_size=6, length_penalty=length_penalty)
    for row in range(ROWS):
      slow = search_slowly(table, catalogue, row, range(40), 6, length_penalty)
      expect(found, row, slow)
      best = exhaustive(
        SlowModel(table), row, catalogue.codes, range(40), length_penalty
      )
      inexact += [i for i, _ in slow] != [i for i, _ in best[:6]]
  assert inexact, "no case in which the beam's width mattered"


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_renormalised_steps_share_all_probability_among_open_children(
  catalogue, length_penalty
):
  """The normaliser is of the trie and the shared mask: of a smaller catalogue's."""
  table = random_table(3, 8)
  kept = np.random.default_rng(3).random(40) < 0.5
  for open_items in (range(40), np.flatnonzero(kept).tolist()):
    is_open = np.isin(np.arange(40), open_items)
    allowed = catalogue.allowed(is_open[None], [0] * ROWS, [[]] * ROWS)
    options = {"beam_size": 6, "length_penalty": length_penalty, "renormalise": True}
    found, _ = catalogue.run(table, allowed, **options)
    for row in range(ROWS):
      slow = search_slowly(
        table, catalogue, row, open_items, 6, length_penalty, renormalise=True
      )
      expect(found, row, slow)
  wide, _ = catalogue.run(table, None, beam_size=40, renormalise=True)
  np.testing.assert_allclose(np.exp(wide.scores_BK).sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_beams_as_wide_as_the_trie_are_exact(catalogue, length_penalty):
  widths = trie_lib.level_widths(stack_codes(catalogue.codes))
  prefixes = [{c[: n + 1] for c in catalogue.codes} for n in range(catalogue.depth)]
  assert widths == tuple(map(len, prefixes))
  table = random_table(11, 8)
  open_MI, mask_B, excluded, open_items = random_filters(11, 40)
  allowed = catalogue.allowed(open_MI, mask_B, excluded, width=32)
  options = {"beam_size": 6, "inner": widths[:-1], "length_penalty": length_penalty}
  found, _ = catalogue.run(table, allowed, **options)
  model = SlowModel(table)
  for row in range(ROWS):
    items = open_items[row]
    best = exhaustive(model, row, catalogue.codes, items, length_penalty)
    expect(found, row, best[:6])


def random_filters(seed, num_items):
  """Two shared masks, the mask of each row, and items that each row excludes."""
  rng = np.random.default_rng(seed)
  open_MI = rng.random((2, num_items)) < [[0.7], [0.3]]
  mask_B = rng.integers(2, size=ROWS)
  excluded = [
    rng.choice(num_items, rng.integers(0, 12), replace=False).tolist()
    for _ in range(ROWS)
  ]
  open_items = [
    [i for i in range(num_items) if open_MI[mask_B[row], i] and i not in excluded[row]]
    for row in range(ROWS)
  ]
  return open_MI, mask_B, excluded, open_items


def test_filters_are_a_smaller_catalogue(catalogue):
  for seed in range(12):
    table = random_table(seed, 8)
    open_MI, mask_B, excluded, open_items = random_filters(seed, 40)
    allowed = catalogue.allowed(open_MI, mask_B, excluded, width=32)
    found, _ = catalogue.run(table, allowed, beam_size=6)
    for row in range(ROWS):
      expect(found, row, search_slowly(table, catalogue, row, open_items[row], 6))
      valid = found.items_BK[row][found.valid_BK[row]].tolist()
      assert len(set(valid)) == len(valid) == min(6, len(open_items[row]))
      assert set(valid) <= set(open_items[row])


def test_filters_equal_a_trie_of_the_open_items(catalogue):
  table = random_table(7, 8)
  rng = np.random.default_rng(7)
  kept = np.flatnonzero(rng.random(40) < 0.4)
  gone = np.setdiff1d(np.arange(40), kept)
  smaller = Catalogue([catalogue.codes[item] for item in kept], 8)
  expected, _ = smaller.run(table, None, beam_size=6)
  by_mask = catalogue.allowed(
    np.isin(np.arange(40), kept)[None], [0] * ROWS, [[]] * ROWS, width=32
  )
  for allowed in (
    by_mask,
    by_mask._replace(excluded_BE=by_mask.excluded_BE[:, :0]),
    catalogue.excluding([gone.tolist()] * ROWS, width=32),
  ):
    found, _ = catalogue.run(table, allowed, beam_size=6)
    assert found.items_BK.tolist() == kept[expected.items_BK].tolist()
    np.testing.assert_allclose(found.scores_BK, expected.scores_BK, **TOLERANCE)
    assert found.valid_BK.all()
    assert expected.valid_BK.all()


def test_no_beam_is_spent_on_a_closed_subtree(catalogue):
  """Without the row's favourites there are still k open items to be had."""
  table = random_table(3, 8)
  k = 6
  first, _ = catalogue.run(table, catalogue.excluding([[]] * ROWS, 32), beam_size=k)
  excluded = [first.items_BK[row].tolist() for row in range(ROWS)]
  found, _ = catalogue.run(table, catalogue.excluding(excluded, 32), beam_size=k)
  assert found.valid_BK.all()
  for row in range(ROWS):
    assert not set(found.items_BK[row].tolist()) & set(excluded[row])
    rest = [item for item in range(40) if item not in excluded[row]]
    expect(found, row, search_slowly(table, catalogue, row, rest, k))


def test_the_width_of_the_exclusions_changes_nothing(catalogue):
  table = random_table(4, 8)
  excluded = [[1, 5, 9], [], [0, 39], list(range(8))]
  narrow, _ = catalogue.run(table, catalogue.excluding(excluded, 8), beam_size=6)
  wide, _ = catalogue.run(table, catalogue.excluding(excluded, 32), beam_size=6)
  for a, b in zip(narrow, wide):
    assert (a == b).all()
  none, _ = catalogue.run(table, catalogue.excluding([[]] * ROWS, 8), beam_size=6)
  alone, _ = catalogue.run(table, None, beam_size=6)
  for a, b in zip(none, alone):
    assert (a == b).all()
  assert (narrow.items_BK[1] == alone.items_BK[1]).all()
  assert (narrow.items_BK != alone.items_BK).any()


def test_rows_whose_items_are_all_closed_get_nothing(catalogue):
  table = random_table(5, 8)
  open_MI = np.stack([np.ones(40, bool), np.zeros(40, bool), np.arange(40) == 17])
  everything = list(range(40))
  allowed = catalogue.allowed(
    open_MI, [0, 1, 2, 2], [everything[:-2], [], [17], []], width=128
  )
  found, _ = catalogue.run(table, allowed, beam_size=6)
  expect(found, 0, exhaustive(SlowModel(table), 0, catalogue.codes, [38, 39], 0.0))
  expect(found, 1, [])
  expect(found, 2, [])
  expect(found, 3, exhaustive(SlowModel(table), 3, catalogue.codes, [17], 0.0))


def test_other_filters_compile_nothing(catalogue):
  search = catalogue.compiled(beam_size=6)
  seen, programs = set(), set()
  for seed in range(4):
    filters = catalogue.allowed(*random_filters(seed, 40)[:3], width=32)
    found, _ = search(*jax.device_put((random_table(0, 8), filters)), catalogue.trie)
    seen.add(str(jax.device_get(found.items_BK).tolist()))
    programs.add(search._cache_size())
  assert len(seen) == 4, "the filters did not matter"
  assert len(programs) == 1


def test_another_catalogue_of_the_same_shape_compiles_nothing(catalogue):
  """The trie is an argument: other names and other codes are only data."""
  order = np.random.default_rng(1).permutation(40)
  renamed = Catalogue([catalogue.codes[item] for item in order], 8)
  search = catalogue.compiled(beam_size=6)
  table = jax.device_put(random_table(6, 8))
  found, _ = jax.device_get(search(table, None, catalogue.trie))
  before = search._cache_size()
  again, _ = jax.device_get(search(table, None, renamed.trie))
  assert search._cache_size() == before
  assert order[again.items_BK].tolist() == found.items_BK.tolist()


EDGE_CATALOGUES = {
  "one item": ([(3, 2, 4)], 6),
  "one short item": ([(3,)], 6),
  "a root with one child": ([(5, a, b) for a in (2, 4) for b in (0, 3, 5)], 6),
  "one token an item": ([(t,) for t in range(2, 12)], 12),
  "one wide node": ([(2, t) for t in range(2, 302)] + [(3, 2), (4,), (5, 5, 5)], 302),
  "depth 16": (
    [(2,) * n + (3,) * (16 - n) for n in range(9)] + [(4, 2)],
    5,
  ),
}


@pytest.mark.parametrize("name", EDGE_CATALOGUES)
def test_edges_are_exact_too(name):
  codes, vocab_size = EDGE_CATALOGUES[name]
  catalogue = Catalogue(codes, vocab_size)
  number = len(catalogue)
  # As many beams as items and a k beyond them: exact, then nothing.
  table = random_table(0, vocab_size, scale=0.5)
  excluded = [[], [0], list(range(number)), list(range(1, min(number, 8)))]
  found, _ = catalogue.run(
    table, catalogue.excluding(excluded), beam_size=number, k=number + 3
  )
  for row in range(ROWS):
    rest = [item for item in range(number) if item not in excluded[row]]
    expect(found, row, exhaustive(SlowModel(table), row, codes, rest, 0.0))


@pytest.mark.parametrize("beam_size", [1, 7])
def test_an_unconstrained_search_says_which_beams_are_no_item(catalogue, beam_size):
  item_of = {code: item for item, code in enumerate(catalogue.codes)}
  flags = []
  for seed in range(4):
    table = random_table(seed, 8)
    found, hallucinated_BK = catalogue.run(table, None, beam_size=beam_size, free=True)
    for row in range(ROWS):
      beams = slow_beams(
        SlowModel(table),
        row,
        lambda prefix: None if prefix in item_of else range(8),
        catalogue.depth,
        beam_size,
        0.0,
      )
      items = [item_of.get(prefix, -1) for prefix, _ in beams]
      assert hallucinated_BK[row].tolist() == [item < 0 for item in items]
      assert found.items_BK[row].tolist() == items
      flags += hallucinated_BK[row].tolist()
  assert set(flags) == {True, False}


def test_an_empty_slot_is_no_hallucination():
  """The tree of all sequences ends at items, so that ten beams find seven."""
  catalogue = Catalogue([(0,), (1,), (2,), (3, 0)], 4)
  table = random_table(0, 4)
  found, hallucinated_BK = catalogue.run(table, None, beam_size=10, free=True)
  assert found.valid_BK.sum(axis=1).tolist() == [4] * ROWS
  assert hallucinated_BK.sum(axis=1).tolist() == [3] * ROWS


def test_the_first_k_are_the_best_of_a_wider_search(catalogue):
  table = random_table(2, 8)
  wide, _ = catalogue.run(table, None, beam_size=6)
  narrow, _ = catalogue.run(table, None, beam_size=6, k=2)
  for a, b in zip(wide, narrow):
    assert (a[:, :2] == b).all()
