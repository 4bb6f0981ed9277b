"""What a run would take, before it takes it."""

import json

import jax
import jax.numpy as jnp
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.runs import describe
from lightlm_jax.training import speed


def test_the_command_prints_one_json_object_and_leaves_nothing(train_command, tmp_path):
  done = train_command(
    "--dry_run", "--config=demo:tiny", f"--workdir={tmp_path / 'run'}"
  )
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert report.keys() == {
    "parameters",
    "steps",
    "batch",
    "mesh",
    "bytes",
    "flops_per_step",
  }
  assert report["steps"] == 40
  assert report["batch"] == 32
  assert report["mesh"] == {"data": 1, "model": 1}
  total = report["parameters"]["total"]
  sizes = report["bytes"]
  assert sizes.keys() == {"parameters", "optimiser", "data", "trie"}
  assert sizes["parameters"] == 4 * total
  assert 8 * total <= sizes["optimiser"] <= 8 * total + 64  # two moments and counters
  assert min(sizes.values()) > 0
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  ("name", "steps", "examples"),
  [("toys", 20_130, 128_773), ("beauty", 24_030, 153_776), ("yelp", 39_930, 255_492)],
)
def test_paper_presets_have_the_published_shape_and_length(
  data_dir, monkeypatch, name, steps, examples
):
  monkeypatch.setenv("LIGHTLM_DATA_DIR", str(data_dir))
  # Random ids: the shape of the transformer is that of any, and SCI takes a while.
  config = config_lib.load(name, "paper", {"ids.kind": "rid"})
  report = describe.describe(config)
  assert report["parameters"]["non_embedding"] == 19_087_872
  assert report["steps"] == steps == 10 * -(-examples // config.train.batch_size)
  assert config.train.warmup_steps == steps // 20
  assert config.train.eval_every == steps // 10


def test_flops_are_those_of_the_matrix_products():
  x_BD, w_NDD = jnp.ones((4, 8)), jnp.ones((3, 8, 8))

  @jax.jit
  def loss(w_NDD, x_BD):
    x_BD, _ = jax.lax.scan(lambda x_BD, w_DD: (x_BD @ w_DD, None), x_BD, w_NDD)
    return jnp.einsum("bd,ed->be", x_BD, x_BD).sum()

  forward = 3 * (2 * 4 * 8 * 8) + 2 * 4 * 4 * 8
  assert speed.matmul_flops(jax.make_jaxpr(loss)(w_NDD, x_BD)) == forward
  # Backwards, a product costs two more, one for each of its factors.
  gradient = jax.make_jaxpr(jax.grad(loss, argnums=(0, 1)))(w_NDD, x_BD)
  assert speed.matmul_flops(gradient) == 3 * forward
