"""Fused decoding: log-probabilities and the state index in one list."""

import json
import shutil

import commands
from compiled import Compiled
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_lightlm as small

from lightlm_jax import config as config_lib
from lightlm_jax.decoding import allowed as allowed_lib
from lightlm_jax.decoding import latent
from lightlm_jax.decoding.allowed import Allowed
from lightlm_jax.inference import state_index
from lightlm_jax.runs import evaluate
from lightlm_jax.runtime.errors import UserError

I = len(small.ITEM_CODES)
STRANGER = 4  # an item without a state


@pytest.fixture(scope="module")
def index():
  rng = np.random.default_rng(0)
  state_ND = rng.normal(size=(60, 16)).astype(np.float16)
  item_N = rng.choice(np.delete(np.arange(I), STRANGER), 60).astype(np.int32)
  return latent.build(jnp.asarray(state_ND), jnp.asarray(item_N), I, prior=2.0)


def fused(index, weight, **overrides):
  """The system, compiled, and its tables."""
  system, tables, _ = small.build(**overrides)
  fields = {"decoding.kind": "fused", "decoding.index_weight": weight}
  config = config_lib.load("demo", "tiny", fields)
  model = system.built._replace(tables=tables)
  both = Compiled(state_index.build(config, model, index))
  return both, both.tables


def asked(batch, rank_I, *excluded):
  """What each row may get: all items but those excluded."""
  excluded_BE = np.tile(rank_I[list(excluded)].astype(np.int32), (len(batch.user_B), 1))
  zero_B = jnp.zeros(len(batch.user_B), jnp.int32)
  return Allowed(allowed_lib.no_shared_mask(), zero_B, jnp.asarray(excluded_BE))


@pytest.mark.parametrize(
  ("weight", "excluded", "penalty"),
  [(0.0, (), 0.0), (0.3, (5, 2), 1.0), (100.0, (5, 2), 0.0)],
)
def test_it_is_the_sum_of_exact_scores_and_the_index(index, weight, excluded, penalty):
  options = {"decoding__length_penalty": penalty}
  both, tables = fused(index, weight, **options)
  exact, exact_tables, _ = small.build(decoding__kind="exact", **options)
  batch, params = small.make_batch(small.ROWS), small.weights()
  allowed = asked(batch, both.rank_I, *excluded)
  wanted = exact.recommend(params, exact_tables, batch, allowed, k=I)
  score_BI = np.full((len(small.ROWS), I), -np.inf)
  for row, items, scores in zip(score_BI, wanted.items_BK, wanted.scores_BK):
    row[np.asarray(items)[items >= 0]] = np.asarray(scores)[items >= 0]
  state_BD = exact.state(params, exact_tables, batch)
  score_BI += weight * np.asarray(latent.log_posterior(state_BD, index))
  found = both.recommend(params, tables, batch, allowed, k=I)
  number = I - len(excluded)
  for row, items, scores in zip(score_BI, found.items_BK, found.scores_BK):
    assert sorted(items[:number].tolist()) == sorted(set(range(I)) - set(excluded))
    np.testing.assert_allclose(scores[:number], np.sort(row)[::-1][:number], rtol=1e-4)
    np.testing.assert_allclose(row[items[:number]], scores[:number], rtol=1e-4)
  assert not np.asarray(found.valid_BK)[:, number:].any()


def test_the_index_finds_what_no_beam_does(index):
  """One beam, and so much weight that the index decides alone."""
  both, tables = fused(index, 1e4, decoding__beam_size=1)
  batch, params = small.make_batch(small.ROWS), small.weights()
  allowed = asked(batch, both.rank_I, 5)
  found = both.recommend(params, tables, batch, allowed, k=1)
  alone, *_ = small.build(decoding__beam_size=1)
  beams = alone.recommend(params, tables[0], batch, allowed, k=1)
  state_BD = alone.state(params, tables[0], batch)
  posterior_BI = np.array(latent.log_posterior(state_BD, index))
  posterior_BI[:, 5] = -np.inf
  assert found.items_BK[:, 0].tolist() == posterior_BI.argmax(axis=1).tolist()
  assert (found.items_BK != beams.items_BK).any()


def test_scores_of_codes_are_those_of_the_search():
  """With losses over children, where a step normalises over open children alone."""
  alone, tables, _ = small.build(train__loss="children")
  batch, params = small.make_batch(small.ROWS), small.weights()
  allowed = asked(batch, alone.rank_I, 5, 2)
  found = alone.recommend(params, tables, batch, allowed, k=I - 2)

  @jax.jit
  def again(params, tables, items_BK):
    decoder = alone.built.system.decoder(params, tables, batch)
    return alone.built.system.scores_of(decoder, tables, allowed, items_BK)

  again_BK = again(params, tables, found.items_BK)
  np.testing.assert_allclose(again_BK, found.scores_BK, rtol=1e-5)
  total_B = np.exp(np.asarray(again_BK, np.float64)).sum(axis=1)
  np.testing.assert_allclose(total_B, 1.0, rtol=1e-4)


def test_a_run_is_evaluated_and_asked_by_it(demo_run, tmp_path):
  run = shutil.copytree(demo_run[0], tmp_path / "run")
  options = {"decoding.kind": "fused", "decoding.index_weight": 9.0}
  found = evaluate.evaluate(run, overrides=options)
  assert (found["decoding"], found["beam_size"]) == ("fused", 20)
  assert (run / "results-test-fused-index_weight9.0.json").exists()
  beams = json.loads((run / "results.json").read_text())
  assert found["metrics"] != beams["metrics"]
  assert found["num_users"] == beams["num_users"]
  for name in ("recommend", "export"):
    own = ["--platform=cpu", f"--workdir={run}", "--decoding=fused"]
    own += ["--users=u00001", "--output=recs.csv"] * (name == "recommend")
    own += ["--output=artefact", "--platforms=cpu"] * (name == "export")
    done = commands.run(f"lightlm_jax.{name}", *own, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
  manifest = json.loads((tmp_path / "artefact/manifest.json").read_text())
  assert manifest["decoding"] == "fused"
  assert "u00001" in (tmp_path / "recs.csv").read_text()


def test_with_nothing_to_read_a_run_is_not_trained_by_it():
  config = config_lib.load("demo:tiny", overrides={"decoding.kind": "fused"})
  with pytest.raises(UserError, match="evaluate with --decoding=fused"):
    config_lib.check(config)
