"""L2D on a trained run: the memory it builds, keeps and refuses, and what it finds."""

import json
import shutil

import commands
import jax
import numpy as np
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.config import model_groups
from lightlm_jax.data import batch as batch_lib
from lightlm_jax.data import datasets, splits
from lightlm_jax.decoding import allowed, latent
from lightlm_jax.ids import codes
from lightlm_jax.inference import state_index as latent_decoding
from lightlm_jax.runs import evaluate
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.storage import workdir as workdir_lib
from lightlm_jax.systems import lightlm

GLOBAL = {"decoding.kind": "latent_global"}
LOCAL = {"decoding.kind": "latent_local"}


@pytest.fixture
def run(demo_run, tmp_path):
  """A copy of a finished run, to write into."""
  return shutil.copytree(demo_run[0], tmp_path / "run")


def asked(run, **overrides):
  fields = {name.replace("__", "."): value for name, value in overrides.items()}
  return evaluate.evaluate(run, overrides=fields, users=100)


def test_both_ways_are_judged_and_named(run):
  for kind in model_groups.LATENT:
    found = asked(run, decoding__kind=kind)
    assert (found["decoding"], found["beam_size"]) == (kind, None)
    assert found["metrics"]["seen_excluded"]["hr@10"] > 0
    path = run / f"results-test-{kind}-100users.json"
    assert json.loads(path.read_text()) == found


def test_all_of_memory_as_neighbours_is_global(run):
  everywhere = asked(run, **GLOBAL)
  examples = len(np.load(run / "latent" / "items.npy"))
  local = asked(run, decoding__nearest=examples, **LOCAL)
  assert (run / f"results-test-latent_local-nearest{examples}-100users.json").exists()
  assert local["metrics"] == everywhere["metrics"]
  with pytest.raises(UserError, match=r"is .*, and the state index holds .*smaller"):
    asked(run, decoding__nearest=examples + 1, **LOCAL)


def test_flags_of_the_memory_reach_their_fields(run):
  flags = ["--decoding=latent_global", "--prior=0", "--state=decoder", "--users=50"]
  flags += ["--platform=cpu", f"--workdir={run}"]
  done = commands.run("lightlm_jax.evaluate", *flags)
  assert done.returncode == 0, done.stderr
  name = "results-test-latent_global-prior0.0-statedecoder-50users.json"
  assert json.loads((run / name).read_text())["num_users"] == 50
  about = json.loads((run / "latent" / "manifest.json").read_text())
  assert about["state"] == "decoder"


def test_a_memory_is_built_once(run, monkeypatch):
  first = asked(run, **GLOBAL)
  built = []
  index_states = latent_decoding.index_states

  def counted(*arguments, **options):
    built.append(options)
    return index_states(*arguments, **options)

  monkeypatch.setattr(latent_decoding, "index_states", counted)
  assert asked(run, **GLOBAL)["metrics"] == first["metrics"]
  assert not built
  asked(run, decoding__memory_share=0.5, **GLOBAL)
  asked(run, decoding__state="decoder", **GLOBAL)
  assert len(built) == 2
  # Half of a file is no memory.
  path = run / "latent" / "states.npy"
  path.write_bytes(path.read_bytes()[:-1])
  asked(run, decoding__state="decoder", **GLOBAL)
  array = np.load(path)
  array[0] += 1
  np.save(path, array)
  asked(run, decoding__state="decoder", **GLOBAL)
  assert len(built) == 4


def test_a_memory_of_other_ids_is_refused(run):
  asked(run, **GLOBAL)
  path = run / "latent" / "manifest.json"
  manifest = json.loads(path.read_text())
  path.write_text(json.dumps(manifest | {"ids_sha256": "0" * 64}))
  with pytest.raises(UserError, match="latent is the state index of a run with oth"):
    asked(run, **GLOBAL)


def test_a_search_remembers_nothing(run):
  with pytest.raises(UserError, match="--nearest means nothing to decoding beam"):
    asked(run, decoding__nearest=10)


def test_training_has_nothing_to_remember_yet():
  config = config_lib.load("demo:tiny", overrides=GLOBAL)
  with pytest.raises(UserError, match="evaluate with --decoding=latent_global"):
    config_lib.check(config)


@pytest.fixture(scope="module")
def model(demo_run):
  """The demo's log, and a system of its ids with parameters of no training."""
  _, config = workdir_lib.read(demo_run[0])
  split = splits.make(config.split, datasets.load(config).log)
  book = codes.load(demo_run[0] / "codes")
  built = lightlm.build(config, book)
  return split.train, built, jax.jit(built.system.init)(jax.random.key(0)), config, book


@pytest.mark.parametrize("state", ["decoder", "encoder"])
def test_the_memory_holds_the_state_of_every_example(model, state):
  train, _, params, config, book = model
  config = config_lib.replace(config, {"decoding.state": state})
  built = lightlm.build(config, book)
  system, state_of = built.system, jax.jit(built.system.state)
  mesh = mesh_lib.make(1, 1)
  options = {"seed": 0, "batch_size": 64, "mesh": mesh}
  state_ND, item_N = latent_decoding.index_states(
    built, params, train, share=1.0, **options
  )
  assert (item_N == train.item_E).all()
  for e in (0, 1, 17, len(item_N) - 1):
    begin = train.offset_U1[train.user_E[e]]
    history = train.item_E[max(begin, e - system.max_history) : e]
    history_BH = np.full((1, system.max_history), -1, np.int32)
    history_BH[0, system.max_history - len(history) :] = history
    batch = batch_lib.Batch(
      user_B=train.user_E[e : e + 1],
      history_BH=history_BH,
      segment_BH=(history_BH >= 0).astype(np.int32),
      target_B=np.array([-1], np.int32),
      weight_B=np.ones(1, np.float32),
    )
    (own_D,) = state_of(params, built.tables, batch)
    np.testing.assert_allclose(state_ND[e], own_D, rtol=2e-3, atol=2e-3)
  assert np.ptp(state_ND, axis=0).max() > 0.1

  some_ND, some_N = latent_decoding.index_states(
    built, params, train, share=0.25, **options
  )
  assert len(some_N) == round(len(item_N) / 4)
  rows = {(item, *row) for item, row in zip(item_N, state_ND.tolist())}
  assert all((item, *row) in rows for item, row in zip(some_N, some_ND.tolist()))


def test_what_is_wanted_changes_no_order(model):
  train, _, params, config, book = model
  rng = np.random.default_rng(0)
  state_ND = rng.normal(size=(500, config.model.d_model)).astype(np.float16)
  item_N = rng.integers(train.num_items, size=500).astype(np.int32)
  index = latent.build(*jax.device_put((state_ND, item_N)), train.num_items)
  fields = {"decoding.kind": "latent_local", "decoding.nearest": 50}
  config = config_lib.replace(config, fields)
  built = lightlm.build(config, book)
  asks = latent_decoding.build(config, built, index)
  again = latent_decoding.build(config, lightlm.build(config, book), index)
  assert (asks.system == again.system, hash(asks.system)) == (True, hash(again.system))
  history_BH = train.item_E[: 4 * 3].reshape(4, 3)
  batch = batch_lib.Batch(
    user_B=np.arange(4, dtype=np.int32),
    history_BH=history_BH,
    segment_BH=np.ones_like(history_BH),
    target_B=np.full(4, -1, np.int32),
    weight_B=np.ones(4, np.float32),
  )
  excluded_BE = allowed.exclusions(
    np.repeat(np.arange(4), 3), history_BH.ravel(), rank_I=asks.rank_I, batch_size=4
  )
  open_to = allowed.Allowed(allowed.no_shared_mask(), np.zeros(4, int), excluded_BE)
  recommend = jax.jit(asks.system.recommend, static_argnames="k")
  few, many = (
    recommend(params, asks.tables, batch, open_to, k=k).items_BK for k in (3, 40)
  )
  assert (few == many[:, :3]).all()
  assert not (np.asarray(many)[..., None] == history_BH[:, None]).any()
