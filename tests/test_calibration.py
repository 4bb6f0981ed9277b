"""Temperatures and the bias of repeats, fitted to validation after training."""

import json
import pathlib

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_lightlm import build, make_batch

from lightlm_jax import config as config_lib
from lightlm_jax.data.splits import Requests
from lightlm_jax.decoding.allowed import Allowed, no_shared_mask
from lightlm_jax.models import repeats
from lightlm_jax.runs import evaluate, restore, train
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import calibration
from lightlm_jax.training.calibration import Of

CODES = [(item % 3, item + 3) for item in range(12)]
FIELDS = {
  "input__every_position": True,
  "input__user": False,
  "model__whole_word": False,
  "model__residual": True,
  "model__repeats": True,
  "train__loss": "children",
}
HISTORY = [5, 9, 11, 1]


def small(**more):
  """A system, its tables, and untrained parameters with a bias of repeats."""
  system, tables, _ = build(codes=CODES, **FIELDS | more)
  params = system.init(jax.random.key(0))
  shape = params["repeat_bias"].shape
  return (
    system,
    tables,
    params | {"repeat_bias": jax.random.normal(jax.random.key(1), shape)},
  )


def chances(system, tables, params, history=HISTORY):
  """Each item's probability after a history."""
  batch = make_batch([(-1, history, item, 1.0) for item in range(len(CODES))])
  return np.exp(-np.asarray(system.nll(params, tables, batch)))


@pytest.mark.parametrize("kind", ["beam", "exact"])
def test_answers_have_the_calibrated_probabilities(kind):
  system, tables, params = small(decoding__kind=kind)
  params["log_temperature"] = jnp.array([0.7, -0.4])
  chance_I = chances(system, tables, params)
  assert chance_I.sum() == pytest.approx(1, abs=1e-5)
  batch = make_batch([(-1, HISTORY, 0, 1.0)])
  nobody = np.zeros(1, np.int32)
  allowed = Allowed(no_shared_mask(), nobody, np.zeros((1, 0), np.int32))
  best = system.recommend(params, tables, batch, allowed, k=len(CODES))
  found_K = np.exp(np.asarray(best.scores_BK[0]))
  np.testing.assert_allclose(found_K, chance_I[best.items_BK[0]], rtol=1e-4)
  assert (np.diff(found_K) <= 0).all()


def test_a_temperature_is_the_power_of_its_levels_odds():
  """Without a bias, p becomes proportional to p^(1/T) among siblings."""
  system, tables, params = small()
  params["repeat_bias"] *= 0
  before_I = chances(system, tables, params)
  params["log_temperature"] = jnp.log(jnp.array([2.0, 0.5]))
  after_I = chances(system, tables, params)
  first_I = np.array([first for first, _ in CODES])

  def split(chance_I):
    cluster_C = np.bincount(first_I, weights=chance_I)
    return cluster_C, chance_I / cluster_C[first_I]

  (cluster_C, inside_I), (cooled_C, cooled_I) = split(before_I), split(after_I)
  wanted_C = np.sqrt(cluster_C)
  np.testing.assert_allclose(cooled_C, wanted_C / wanted_C.sum(), rtol=1e-4)
  wanted_I = inside_I**2
  wanted_I /= np.bincount(first_I, weights=wanted_I)[first_I]
  np.testing.assert_allclose(cooled_I, wanted_I, rtol=1e-3)


def drawn(chance_XI, histories, number, rng):
  """Requests whose targets are drawn from the chances after their histories."""
  which_N = rng.integers(len(histories), size=number)
  target_N = [rng.choice(len(CODES), p=chance_XI[x]) for x in which_N]
  chosen = [histories[x] for x in which_N]
  offset_N1 = np.concatenate([[0], np.cumsum([len(h) for h in chosen])])
  items = np.concatenate(chosen).astype(np.int32)
  user_N = np.arange(number, dtype=np.int32)
  return Requests(user_N, offset_N1, items, np.array(target_N, np.int32))


def fit(system, tables, params, requests, devices=1):
  built = system.built._replace(tables=tables)
  mesh = mesh_lib.make(devices, 1)
  return calibration.calibrate(
    built, params, requests, batch_size=64, mesh=mesh, seed=0
  )


def test_the_probabilities_that_drew_the_targets_are_found():
  system, tables, params = small()
  rng = np.random.default_rng(0)
  histories = [rng.integers(12, size=length).tolist() for length in (1, 2, 3, 4, 5) * 4]
  true = params | {"log_temperature": jnp.array([0.5, -0.5])}
  true["repeat_bias"] = params["repeat_bias"].at[1, 0].add(1.5)

  def all_chances(params):
    rows = [chances(system, tables, params, history) for history in histories]
    chance_XI = np.array(rows, np.float64)
    return chance_XI / chance_XI.sum(axis=1, keepdims=True)

  wanted_XI, before_XI = all_chances(true), all_chances(params)
  fitted = fit(system, tables, params, drawn(wanted_XI, histories, 5_000, rng))
  np.testing.assert_allclose(fitted["log_temperature"], [0.5, -0.5], atol=0.15)

  def divergence(chance_XI):
    return (wanted_XI * np.log(wanted_XI / chance_XI)).sum(axis=1).mean()

  assert divergence(all_chances(params | fitted)) < 0.05 * divergence(before_XI)


def test_a_single_request_moves_little():
  system, tables, params = small()
  rng = np.random.default_rng(0)
  one = drawn(np.full((1, 12), 1 / 12), [HISTORY], 1, rng)
  fitted = fit(system, tables, params, one)
  assert 0.01 < np.abs(fitted["log_temperature"]).max() < 1
  moved = np.abs(fitted["repeat_bias"] - params["repeat_bias"])
  assert moved.max() < 1
  never = repeats.RECENCIES + repeats.TIMES - 1  # no item was bought four times
  assert moved[:, never].max() == 0


EIGHT = """
import json
import sys

sys.path.insert(0, sys.argv[1])
import numpy as np
import test_calibration as here

system, tables, params = here.small()
rng = np.random.default_rng(0)
requests = here.drawn(np.full((1, 12), 1 / 12), [here.HISTORY], 100, rng)
print(json.dumps([
  {name: value.tolist() for name, value in here.fit(*arguments).items()}
  for arguments in ((system, tables, params, requests, n) for n in (1, 8))
]))
"""


@pytest.mark.slow
def test_devices_share_the_fit(eight_devices):
  alone, shared = eight_devices(EIGHT, str(pathlib.Path(__file__).parent))
  assert np.abs(alone["log_temperature"]).max() > 0.1
  for name, value in alone.items():
    np.testing.assert_allclose(shared[name], value, atol=1e-3)


def test_a_calibration_belongs_to_a_step(tmp_path):
  path, (system, tables, params) = epath.Path(tmp_path), small()
  built, mesh = system.built._replace(tables=tables), mesh_lib.make(1, 1)

  def applied(step, sha256="a"):
    return calibration.apply(path, Of(step, sha256), mesh, built, params)

  assert applied(7) == (params, None)
  fitted = {name: x + 0.1 for name, x in system.calibration(params).items()}
  calibration.write(path, Of(7, "a"), 0.01, fitted)
  found, sha256 = applied(7)
  assert set(found) == {*params, "log_temperature"}
  for name, value in fitted.items():
    np.testing.assert_array_equal(found[name], value)
  assert applied(7, None)[1] == sha256
  with pytest.raises(UserError, match=r"calibration\.json is of other parameters than"):
    applied(7, "b")
  assert applied(8) == (params, None)
  calibration.write(path, Of(7, "a"), 0.01, fitted | {"log_temperature": np.zeros(2)})
  assert applied(7)[1] not in (None, sha256)
  calibration.write(path, Of(7, "a"), -0.01, {})
  assert applied(7) == (params, None)
  calibration.write(path, Of(7, "a"), 0.01, {"log_temperature": np.zeros(2)})
  with pytest.raises(UserError, match=r"calibration\.json holds other parameters"):
    applied(7)
  calibration.write(path, Of(7, "a"), 0.01, fitted)
  file = path / calibration.FILE
  file.write_text(file.read_text().replace("0.1", "0.3", 1))
  with pytest.raises(UserError, match=r"calibration\.json .*its checksum differs"):
    applied(7)
  (path / calibration.FILE).write_text("{")
  with pytest.raises(UserError, match=r"calibration\.json .*; give a copy of it"):
    applied(7)


def few_programs(**fields):
  """A run of four steps on the demo, as overrides."""
  fields |= {"train.eval_batch_size": 300, "train.eval_users": 0, "train.steps": 4}
  return fields | {"data.name": "demo", "baselines": (), "model.calibrated": True}


@pytest.mark.slow
def test_a_run_is_restored_as_it_was_evaluated(tmp_path, capfd):
  fields = few_programs(**{name.replace("__", "."): x for name, x in FIELDS.items()})
  results = train.train(config_lib.load("demo", "tiny", fields), tmp_path)
  run = restore.load(tmp_path)
  assert np.abs(run.params["log_temperature"]).max() > 0.01
  again = evaluate.evaluate_run(run)
  for rule in ("seen_excluded", "seen_allowed"):
    assert again["metrics"][rule] == results["metrics"][rule]
  (tmp_path / calibration.FILE).unlink()
  uncalibrated = restore.load(tmp_path)
  assert "log_temperature" not in uncalibrated.params
  assert "has no calibration of step 4" in capfd.readouterr().out
  assert restore.identity(uncalibrated) != restore.identity(run)


def test_a_fit_is_used_where_validation_is_better(tmp_path, monkeypatch):
  """Nobody returns to an item at once on the demo: it must not be first."""
  fields = few_programs(**{"train.loss": "full", "model.repeats": True})
  config, bias = config_lib.load("sasrec", "tiny", fields), 20.0

  def fit(built, params, *_, **__):
    start = built.system.calibration(params)
    zero = {name: np.zeros(x.shape, np.float32) for name, x in start.items()}
    return zero | {"repeat_bias": zero["repeat_bias"] + bias}

  monkeypatch.setattr(calibration, "calibrate", fit)
  context = restore.find_context(epath.Path(tmp_path), config)
  for bias in (20.0, -20.0):
    run = train.learn(context)
    written = json.loads((tmp_path / calibration.FILE).read_text())
    assert (run.calibration_sha256 is not None) == (bias < 0) == (written["gain"] > 0)
    assert bool(written["fitted"]) == ("log_temperature" in run.params) == (bias < 0)
