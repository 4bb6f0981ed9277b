"""Several code books: each is LightLM's own, and answers are the mean of all."""

import dataclasses
import itertools

from compiled import Compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.data import synthetic
from lightlm_jax.data.batch import Batch
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import trie as trie_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.ids import build as ids_build
from lightlm_jax.ids import spectral
from lightlm_jax.inference import queries, serve
from lightlm_jax.models import repeats
from lightlm_jax.runs import train as train_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.systems import base, code_books, lightlm, registry, token_sequences

SHOP = {"num_users": 120, "num_items": 48, "num_categories": 4, "num_shelves": 12}
LOG = synthetic.make_shop(synthetic.Shop(**SHOP))[0]
I = LOG.num_items
FIELDS = {
  "data.name": "demo",
  **{f"data.shop.{name}": size for name, size in SHOP.items()},
  "input.history": 8,
  "input.every_position": True,
  "input.item_dropout": 0.0,
  "ids.graph": "sequence",
  "ids.balanced": True,
  "ids.branching": 7,
  "ids.books": 3,
  "model.whole_word": False,
  "model.residual": True,
  "model.repeats": True,
  "model.dropout_rate": 0.0,
  "train.loss": "children",
  "train.label_smoothing": 0.0,
  "decoding.beam_size": 48,
  "baselines": (),
}


def load(**overrides):
  fields = FIELDS | {name.replace("__", "."): x for name, x in overrides.items()}
  return config_lib.load("toys", "tiny", fields)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
  return ids_build.code_book(load().ids, LOG, 0, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def several(book):
  """The system, and its parameters with a bias of repeated items."""
  system = Compiled(registry.build("lightlm", load(), LOG, book))
  params = system.init(jax.random.key(0))
  bias_LP = jax.random.normal(jax.random.key(2), (2, repeats.NUMBER))
  return system, params | {"repeat_bias": bias_LP}


def alone(book, number, **overrides):
  """LightLM with one of the books, except that its encoder reads all of them."""
  own = dataclasses.replace(book, items_IL=book.items_IL[:, [number, -1]])
  built = lightlm.build(load(ids__books=1, **overrides), own)
  read_IL = token_sequences.shift(book.items_IL, False)
  room = len(built.tables.item_code_IL) - len(read_IL)
  read_IL = np.pad(read_IL, ((0, room), (0, 0)), constant_values=-1)
  return Compiled(built._replace(tables=built.tables._replace(item_code_IL=read_IL)))


def requests(size=12):
  rng = np.random.default_rng(0)
  history_BH = np.full((size, 8), -1, np.int32)
  for n, row in enumerate(history_BH):
    row[8 - n % 9 :] = rng.integers(I, size=n % 9)
  return Batch(
    user_B=np.full(size, -1, np.int32),
    history_BH=history_BH,
    segment_BH=(history_BH >= 0).astype(np.int32),
    target_B=rng.integers(I, size=size).astype(np.int32),
    weight_B=np.ones(size, np.float32),
  )


def test_a_book_is_the_ids_of_its_seed(book):
  config = load().ids
  clusters_IG, last_I = book.items_IL[:, :-1], book.items_IL[:, -1]
  assert clusters_IG.shape == (I, 3)
  for number, token_I in enumerate(clusters_IG.T):
    own_IL, _ = spectral.spectral_ids(LOG, config, seed=1_000 * number)
    pairs = np.unique(np.stack([token_I, own_IL[:, 0]]), axis=1)
    assert len(pairs.T) == len(np.unique(token_I)) == len(np.unique(own_IL[:, 0]))
  assert len(np.unique(last_I)) == I
  parts = [*clusters_IG.T, last_I, book.users_UL[book.users_UL >= 0]]
  for one, other in itertools.combinations(parts, 2):
    assert not set(one.tolist()) & set(other.tolist())
  assert len({tuple(np.unique(x, return_inverse=True)[1]) for x in clusters_IG.T}) == 3


def test_one_book_is_what_it_was(tmp_path):
  """The field leaves no trace where it is 1."""
  config = load(ids__books=1)
  one = ids_build.code_book(config.ids, LOG, 0, tmp_path)
  wanted = spectral.spectral_ids(LOG, config.ids, seed=0)
  np.testing.assert_array_equal(one.items_IL, wanted[0])
  assert "books" not in one.manifest["options"]
  assert isinstance(registry.build("lightlm", config, LOG, one).system, lightlm.LightLM)


def test_stacked_tries_are_the_tries():
  rng = np.random.default_rng(1)
  code_GIL = [
    np.stack([rng.integers(n, size=20), 30 + rng.permutation(20)], axis=1)
    for n in (2, 9)
  ]
  tries = [trie_lib.build(code_IL, 60, 0)[0] for code_IL in code_GIL]
  stacked = trie_lib.stack(tries)
  for number, (one, code_IL) in enumerate(zip(tries, code_GIL)):
    own = jax.tree.map(lambda x, n=number: x[n], stacked)
    state_I = mine_I = jnp.zeros((1, 20), jnp.int32)
    for level in range(2):
      low, high = (t.rank(s + 1, level) for t, s in ((one, state_I), (own, mine_I)))
      np.testing.assert_array_equal(low, high)
      sets = []
      for trie, state in ((one, state_I), (own, mine_I)):
        token_1IC, open_1IC = trie.listed(state, level)
        sets.append([set(t[o].tolist()) for t, o in zip(token_1IC[0], open_1IC[0])])
      assert sets[0] == sets[1]
      token_1I = jnp.asarray(code_IL[None, :, level])
      state_I = one.follow(state_I, token_1I, level)
      mine_I = own.follow(mine_I, token_1I, level)
      absent_1I = jnp.full((1, 20), 59)
      found = own.follow(mine_I * 0, absent_1I, 0)
      assert (found == own.nowhere(1)).all()
    np.testing.assert_array_equal(own.item_R[mine_I], [np.arange(20)])


def test_a_step_has_the_loss_of_one_of_the_books(book, several):
  system, params = several
  batch = requests()
  row = batch._replace(target_B=np.roll(batch.history_BH, -1, axis=1))
  wanted = [
    float(alone(book, g).loss(params, alone(book, g).tables, row, jax.random.key(1))[0])
    for g in range(3)
  ]
  found = [
    float(system.loss(params, system.tables, row, jax.random.key(n))[0])
    for n in range(12)
  ]
  nearest = [min(range(3), key=lambda g, x=x: abs(wanted[g] - x)) for x in found]
  np.testing.assert_allclose(found, [wanted[g] for g in nearest], rtol=1e-5)
  assert set(nearest) == {0, 1, 2}


@pytest.mark.parametrize("excluded", [(), (5, 2)])
def test_answers_are_the_mean_of_the_books(book, several, excluded):
  """Each book's beam search over the whole catalogue has exact scores."""
  system, params = several
  batch = requests()
  B = len(batch.user_B)

  def asked(rank_I):
    excluded_BE = np.tile(np.sort(rank_I[list(excluded)]), (B, 1)).astype(np.int32)
    no_mask = allowed_lib.no_shared_mask()
    return Allowed(no_mask, jnp.zeros(B, jnp.int32), jnp.asarray(excluded_BE))

  score_GBI = np.full((3, B, I), -np.inf)
  for g in range(3):
    own = alone(book, g)
    best = own.recommend(params, own.tables, batch, asked(own.rank_I), k=I)
    for row, items, scores in zip(score_GBI[g], best.items_BK, best.scores_BK):
      row[np.asarray(items)[items >= 0]] = np.asarray(scores)[items >= 0]
  score_BI = score_GBI.mean(axis=0)
  best = system.recommend(params, system.tables, batch, asked(np.arange(I)), k=I)
  number = I - len(excluded)
  for row, items, scores in zip(score_BI, best.items_BK, best.scores_BK):
    assert sorted(items[:number].tolist()) == sorted(set(range(I)) - set(excluded))
    np.testing.assert_allclose(row[items[:number]], scores[:number], rtol=1e-4)
    assert (np.diff(scores[:number]) <= 0).all()


def test_nll_is_the_mean_of_the_books(book, several):
  system, params = several
  batch = requests()
  wanted = [alone(book, g).nll(params, alone(book, g).tables, batch) for g in range(3)]
  found = system.nll(params, system.tables, batch)
  np.testing.assert_allclose(found, np.mean(wanted, axis=0), rtol=1e-5)


@pytest.mark.parametrize("state", ["encoder", "decoder"])
def test_the_state_is_that_of_any_book(book, several, state):
  _, params = several
  config = load(decoding__state=state)
  system = Compiled(registry.build("lightlm", config, LOG, book))
  assert isinstance(system.system, base.HasState)
  found = system.state(params, system.tables, requests())
  for number in range(3):
    own = alone(book, number, decoding__state=state)
    wanted = own.state(params, own.tables, requests())
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_run_is_restored_and_answers_as_before(tmp_path):
  fields = {"ids__books": 2, "train__steps": 2, "split__kind": "none"}
  _, run = train_lib.train_run(load(**fields), tmp_path / "run")
  again = train_lib.restore.load(tmp_path / "run")
  assert isinstance(again.built.system, code_books.CodeBooks)
  assert again.built.system == run.built.system
  everyone = queries.everyone(LOG).requests
  ready = (serve.ready(each.built, each.params, each.mesh, 64) for each in (run, again))
  lists = [serve.recommend(served, everyone, k=5) for served in ready]
  for before, after in zip(*lists):
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("ids.kind", "gci"),
    ("ids.levels", 2),
    ("ids.tokens", "level"),
    ("train.loss", "both"),
    ("decoding.kind", "exact"),
    ("decoding.kind", "fused"),
  ],
)
def test_what_books_need_is_said(field, value):
  fields = {field: value} | ({"model.repeats": False} if "loss" in field else {})
  with pytest.raises(UserError, match=f"ids.books above 1 needs config.{field}="):
    config_lib.check(config_lib.load("toys", "tiny", FIELDS | fields))
