"""A toy model, the search over its items, and the same search over Python lists."""

import functools
from unittest import mock

from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np

from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import beam
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.ids.codes import stack_codes

START = 1
MULTIPLIER = 48271
PLENTY = 2**30
ROWS = 4
# (penalty, offset): the sum, its mean over the tokens, and T5's.
NORMS = [(0.0, 0.0), (1.0, 0.0), (0.6, 5.0)]
SUM = NORMS[0]
# Compiling is nearly all of the time.
quick_jit = functools.partial(
  jax.jit, compiler_options={"xla_backend_optimization_level": 0}
)


def step(table_XV, token_BK, parent_BK, cache_BK):
  """A model whose logits depend on the row and on every token before."""
  context_BK = jnp.take_along_axis(cache_BK, parent_BK, axis=1)
  context_BK = context_BK * jnp.uint32(MULTIPLIER) + token_BK.astype(jnp.uint32)
  return table_XV[context_BK % len(table_XV)], context_BK


def random_table(seed, vocab_size, scale=2.0, contexts=4099):
  rng = np.random.default_rng(seed)
  return rng.normal(size=(contexts, vocab_size), scale=scale).astype(np.float32)


class SlowModel:
  """The same model, a prefix at a time."""

  def __init__(self, table):
    wide = table.astype(np.float64)
    self.log_prob_XV = wide - np.log(np.exp(wide).sum(axis=1, keepdims=True))

  def next(self, row, prefix):
    context = row
    for token in (START, *prefix):
      context = (context * MULTIPLIER + token) % 2**32
    return self.log_prob_XV[context % len(self.log_prob_XV)]

  def log_prob(self, row, code):
    return sum(self.next(row, code[:n])[token] for n, token in enumerate(code))

  def score(self, row, code, norm=SUM):
    return normed(self.log_prob(row, code), code, norm)


def normed(log_prob, prefix, norm):
  penalty, offset = norm
  return log_prob / ((offset + len(prefix)) / (offset + 1)) ** penalty


def exhaustive(model, row, codes, items, norm=SUM):
  """All of `items`, best first, as [(item, score)]."""
  scored = [(item, model.score(row, codes[item], norm)) for item in items]
  return sorted(scored, key=lambda pair: -pair[1])


def slow_beams(model, row, may_follow, depth, beam_size, norm=SUM, renormalise=False):
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
    following.sort(key=lambda pair: -normed(pair[1], pair[0], norm))
    beams = following[:beam_size]
  return [(prefix, normed(log_prob, prefix, norm)) for prefix, log_prob in beams]


def search_slowly(
  table, codes, row, open_items, beam_size, norm=SUM, renormalise=False
):
  """What a search over the catalogue of only the open items recommends."""
  if not open_items:
    return []
  item_of = {codes[item]: item for item in open_items}
  found = slow_beams(
    SlowModel(table),
    row,
    following(item_of).__getitem__,
    max(map(len, codes)),
    beam_size,
    norm,
    renormalise,
  )
  return [(item_of[prefix], score) for prefix, score in found]


def following(codes):
  """The set of tokens that may follow each prefix of codes; None after a whole one."""
  tokens = {}
  for code in codes:
    tokens[code] = None
    for n, token in enumerate(code):
      tokens.setdefault(code[:n], set()).add(token)
  return tokens


def begins(prefix, code):
  return code[: len(prefix)] == prefix


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


@st.composite
def prefix_free(draw, tokens, depth, most, number=None):
  """Up to `most` codes of 1 to `depth` of `tokens`, none of which begins another.

  With a `number` there are so many, and the last of `tokens` begins those missing.
  """
  *usual, last = tokens
  first = st.sampled_from(usual if number else tokens)
  rest = st.lists(st.sampled_from(tokens), max_size=depth - 1)
  code = st.tuples(first, rest).map(lambda pair: (pair[0], *pair[1]))
  drawn = draw(st.lists(code, min_size=not number, max_size=most, unique=True))
  codes = [a for a in drawn if not any(begins(a, b) for b in drawn if a != b)]
  missing = [(last, a, b) for a in tokens for b in tokens]
  return draw(st.permutations((codes + missing)[:number] if number else codes))


def build_roomy(codes, vocab_size, depth, room, *, masks):
  """A trie of one shape whatever the codes: what is compiled for one fits them all.

  Returns:
    The trie and rank_I, as from `trie.build`.
  """
  code_IL = stack_codes(codes)
  code_IL = np.pad(code_IL, ((0, 0), (0, depth - code_IL.shape[1])), constant_values=-1)
  with mock.patch.object(trie_lib, "capacity", lambda size: max(size, room)):
    return trie_lib.build(code_IL, vocab_size, PLENTY * masks, dense_share=0)


class Catalogue:
  """Codes, their trie, and a search over it that is compiled once a setting."""

  def __init__(self, codes, vocab_size, masks=False):
    self.codes, self.vocab_size = codes, vocab_size
    trie, self.rank_I = trie_lib.build(
      stack_codes(codes), vocab_size, PLENTY * masks, dense_share=0
    )
    assert {level.mask_NW is not None for level in trie.levels} == {masks}
    self.trie = jax.device_put(trie)
    self._compiled = {}

  def __len__(self):
    return len(self.codes)

  def run(self, table, allowed, norm=SUM, **static):
    """(Recommendations, invalid beams) as numpy; `allowed` None = trie alone."""
    arguments = jax.device_put((table, allowed, np.float32(norm)))
    return jax.device_get(self.compiled(**static)(*arguments, self.trie))

  def compiled(self, *, beam_size, k=None, filtered_after=False, **static):
    """search(table, allowed, norm, trie), all of them data."""
    static = {"renormalise": False, "constrained": True, "end_token": None} | static
    key = beam_size, k, filtered_after, *static.items()

    def search(table, allowed, norm, trie):
      lengths = {"length_penalty": norm[0], "length_offset": norm[1]}
      options = beam.Options(
        beam_size=beam_size, start_token=START, **lengths, **static
      )
      beams = beam.search(
        functools.partial(step, table),
        jnp.arange(ROWS, dtype=jnp.uint32)[:, None],
        trie,
        None if filtered_after else allowed,
        options,
        B=ROWS,
      )
      if filtered_after:
        beams = beam.without_excluded(beams, trie, allowed)
      found = beam.recommendations(beams, trie, options, k=k or beam_size)
      return found, beam.invalid_beams(beams, trie)

    return self._compiled.setdefault(key, quick_jit(search))

  def allowed(self, open_MI, mask_B, excluded, width=128):
    """Masks and exclusions given by catalogue items, as the device wants them.

    No masks: what a request without any gets. Width 0: no exclusions at all.
    """
    num_items = len(self)
    prefix_MI1 = allowed_lib.no_shared_mask()
    if len(open_MI):
      prefix_MI1 = allowed_lib.shared_masks(np.asarray(open_MI), self.rank_I)
    excluded_BE = np.full((ROWS, width), num_items, np.int32)
    for row_E, items in zip(excluded_BE, excluded):
      row_E[: len(items)] = np.sort(self.rank_I[items])
    return Allowed(prefix_MI1, np.array(mask_B, np.int32), excluded_BE)

  def excluding(self, excluded, width=128):
    return self.allowed([], [0] * ROWS, excluded, width)


def some_items(seed, number, form):
  """Codes of 1 to 4 tokens, in "lists" or "masks": beams finish at different levels.

  Masks are of three words, so that a search chooses among words before tokens.
  """
  codes = random_codes(seed, number, 8, 4)
  if form == "lists":
    return Catalogue(codes, 8)
  return Catalogue([tuple(9 * t for t in code) for code in codes], 70, masks=True)


@functools.cache
def forty_items(form):
  made = some_items(1, 40, form)
  assert {len(code) for code in made.codes} == {1, 2, 3, 4}
  return made


def random_filters(seed, num_items=40):
  """Two shared masks, the mask of each row, and items that each row excludes.

  Some of the exclusions come twice, and some are closed by the mask already.
  """
  rng = np.random.default_rng(seed)
  open_MI = rng.random((2, num_items)) < [[0.7], [0.3]]
  mask_B = rng.integers(2, size=ROWS)
  excluded = [rng.choice(num_items, rng.integers(0, 20)).tolist() for _ in range(ROWS)]
  return open_MI, mask_B, excluded


def left_open(open_MI, mask_B, excluded):
  """The items that each row may get."""
  return [
    [i for i in np.flatnonzero(open_MI[mask]).tolist() if i not in items]
    for mask, items in zip(mask_B, excluded)
  ]


def running_counts(open_MR):
  """`Allowed.prefix_MI1` of shared masks in code order."""
  return np.pad(np.cumsum(open_MR, axis=1), ((0, 0), (1, 0))).astype(np.int32)
