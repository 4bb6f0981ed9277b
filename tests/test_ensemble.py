"""An ensemble ranks by the mean of its members' own exact log-probabilities."""

import dataclasses
import json
import shutil

from compiled import Compiled, Scored
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_lightlm as small

from lightlm_jax import Recommender
from lightlm_jax import config as config_lib
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.runs import describe, restore, train
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import json_text
from lightlm_jax.systems import base, ensemble, item_scores

I = len(small.ITEM_CODES)
# A second code book: the same codes, given to other items.
OTHER_CODES = small.ITEM_CODES[::-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softmax(item_scores.Softmax, Scored):
  """Scores items by a function; the scores are logits."""


def by_last_item(params, tables, batch):
  """Logits that depend on the last two items of a history alone."""
  last_B2 = jnp.pad(batch.history_BH, ((0, 0), (2, 0)), constant_values=-1)[:, -2:]
  return params[last_B2].sum(axis=1)


LOGITS_II = jax.random.normal(jax.random.key(3), (I + 1, I)) * 3
LAST = Softmax(function=by_last_item, max_history=2)


def members(kind):
  """Two code books and a scorer: as built, and their parameters."""
  writers = [
    small.build(codes=codes, decoding__kind=kind)[0].built
    for codes in (small.ITEM_CODES, OTHER_CODES)
  ]
  scorer = base.in_catalogue_order(LAST, (), I)
  other = jax.tree.map(lambda x: x[::-1] if x.ndim > 1 else x, small.weights())
  return [*writers, scorer], (small.weights(), other, LOGITS_II)


def asked(batch, open_I, excluded):
  """All items of a shared mask (None = no mask) but those excluded, by index."""
  B = len(batch.user_B)
  order_I = np.arange(I)
  prefix_MI1 = allowed_lib.no_shared_mask()
  if open_I is not None:
    prefix_MI1 = allowed_lib.shared_masks(open_I[None], order_I)
  row_P, item_P = np.repeat(np.arange(B), len(excluded)), np.tile(excluded, B)
  excluded_BE = allowed_lib.exclusions(
    row_P, item_P.astype(int), rank_I=order_I, batch_size=B
  )
  return Allowed(prefix_MI1, jnp.zeros(B, jnp.int32), excluded_BE)


def exact(built, params, batch):
  """Each item's log-probability by a member alone, [B, I]."""
  system = Compiled(built)
  if isinstance(built.system, base.ScoresItems):
    return np.asarray(jax.nn.log_softmax(system.scores(params, built.tables, batch)))
  order = Allowed(
    allowed_lib.no_shared_mask(),
    jnp.zeros(len(batch.user_B), jnp.int32),
    jnp.full((len(batch.user_B), 8), I, jnp.int32),
  )
  found = system.recommend(params, built.tables, batch, order, k=I)
  score_BI = np.empty(found.scores_BK.shape)
  np.put_along_axis(score_BI, np.asarray(found.items_BK), found.scores_BK, axis=1)
  return score_BI


MASK_I = np.arange(I) % 4 > 0


@pytest.mark.parametrize(
  ("open_I", "excluded"), [(None, ()), (None, (5, 2)), (MASK_I, (5, 2))]
)
def test_scores_are_the_mean_of_exact_ones_and_filters_hold(open_I, excluded):
  batch = small.make_batch(small.ROWS)
  built, params = members("beam")
  found = Compiled(ensemble.build(built))
  best = found.recommend(
    params, found.tables, batch, asked(batch, open_I, excluded), k=I
  )
  alone, _ = members("exact")
  # The scorer reads the last two items alone, whatever the others read.
  score_BI = np.mean([exact(*both, batch) for both in zip(alone, params)], axis=0)
  allowed = set(range(I)) if open_I is None else set(np.flatnonzero(open_I).tolist())
  wanted = sorted(allowed - set(excluded))
  for row, items, scores in zip(score_BI, best.items_BK, best.scores_BK):
    items, scores = np.asarray(items)[: len(wanted)], np.asarray(scores)[: len(wanted)]
    assert sorted(items.tolist()) == wanted
    np.testing.assert_allclose(scores, row[items], rtol=1e-4)
    assert (np.diff(scores) <= 0).all()
  assert not np.asarray(best.valid_BK)[:, len(wanted) :].any()


def test_an_item_that_one_member_lists_is_ranked_by_all(monkeypatch):
  """One beam finds what the other members do not list; every list has one item."""
  monkeypatch.setattr(ensemble, "LISTED", 1)
  batch = small.make_batch(small.ROWS)
  fields = {"decoding__beam_size": 1}
  writer = small.build(**fields)[0].built
  built = [writer, base.in_catalogue_order(LAST, (), I)]
  params = small.weights(), LOGITS_II
  found = Compiled(ensemble.build(built))
  best = found.recommend(params, found.tables, batch, asked(batch, None, ()), k=1)
  first = Compiled(writer).recommend(
    params[0], writer.tables, batch, asked(batch, None, ()), k=1
  )
  exact_writer = small.build(decoding__kind="exact")[0].built
  alone = [exact(*both, batch) for both in zip((exact_writer, built[1]), params)]
  best_of_scorer_B = alone[1].argmax(axis=1)
  of_writer_B = np.asarray(first.items_BK)[:, 0]
  assert (best_of_scorer_B != of_writer_B).any()
  mean_BI = np.mean(alone, axis=0)
  for row, one, other, chosen in zip(
    mean_BI, of_writer_B, best_of_scorer_B, np.asarray(best.items_BK)[:, 0]
  ):
    assert chosen == (one if row[one] >= row[other] else other)


def test_members_without_probabilities_are_refused():
  pop = base.in_catalogue_order(Scored(function=by_last_item), (), I)
  with pytest.raises(UserError, match="no probabilities"):
    ensemble.build([pop, pop])


@pytest.fixture(scope="module")
def runs(tmp_path_factory, demo_run):
  """Two trained runs of the demo shop, as `train` leaves them."""
  folder = tmp_path_factory.mktemp("members")
  shutil.copytree(demo_run[0], folder / "ids")
  fields = {"train.steps": 20, "train.eval_every": 20, "baselines": ()}
  sasrec = config_lib.load("sasrec", "tiny", fields | {"data.name": "demo"})
  of_shop = config_lib.load("demo", "tiny").data
  train.train(dataclasses.replace(sasrec, data=of_shop), folder / "scores")
  return folder


def both(folder):
  words = {"members": f"{folder / 'ids'},{folder / 'scores'}", "baselines": ()}
  return config_lib.load("ensemble", None, words)


def test_a_run_is_made_of_runs_and_stands_alone(runs, tmp_path):
  """The folders of the members may go: what answers needs the copies alone."""
  moved = tmp_path / "members"
  shutil.copytree(runs, moved)
  results, run = train.train_run(both(moved), tmp_path / "both")
  shutil.rmtree(moved)
  own = json.loads((runs / "ids" / "results.json").read_text())
  assert results["split_sha256"] == own["split_sha256"]
  assert results["system"] == "ensemble"
  loaded = Recommender.load(tmp_path / "both")
  assert loaded.evaluate()["metrics"] == results["metrics"]
  assert restore.identity(run) == restore.identity(loaded._run)
  table = loaded.recommend(k=3)
  again = Recommender.from_config(both(runs), workdir=tmp_path / "fitted").fit()
  assert again.recommend(k=3).equals(table)


def test_what_it_is_depends_on_its_members(runs, tmp_path):
  """Other members at the same paths are another recommender."""
  _, run = train.train_run(both(runs), tmp_path / "both")
  other = dataclasses.replace(run.members[0], step=10)
  changed = dataclasses.replace(run, members=(other, run.members[1]))
  assert restore.identity(changed) != restore.identity(run)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda runs, new: f"{runs / 'ids'}", "two members or more"),
    (lambda runs, new: f"{runs / 'ids'},{new / 'none'}", "none/config.json does not"),
    (lambda runs, new: f"{runs / 'ids'},{new / 'begun'}", "is not finished"),
    (lambda runs, new: f"{runs / 'ids'},{new / 'other'}", "another log or split"),
  ],
)
def test_members_that_do_not_fit_are_refused_in_a_line(runs, tmp_path, make, message):
  shutil.copytree(runs / "scores", tmp_path / "begun")
  (tmp_path / "begun" / "results.json").unlink()
  shutil.copytree(runs / "scores", tmp_path / "other")
  path = tmp_path / "other" / "results.json"
  results = json.loads(path.read_text()) | {"split_sha256": "0"}
  path.write_text(json.dumps(json_text.sealed(results)))
  fields = {"members": make(runs, tmp_path)}
  with pytest.raises(UserError, match=message):
    train.train(config_lib.load("ensemble", None, fields), tmp_path / "both")


def test_commands_say_what_an_ensemble_lacks(runs, tmp_path):
  train.train(both(runs), tmp_path / "both")
  with pytest.raises(UserError, match="leave out --beam_size"):
    restore.load(tmp_path / "both", {"decoding.beam_size": 5})
  with pytest.raises(UserError, match="not trained"):
    describe.describe(config_lib.load("ensemble"))
