"""What is compiled for a slice of TPUs without one: by libtpu, where there is one.

It lies in the environment, or in the folder LIGHTLM_LIBTPU_DIR (pip install --target):
beside jax it would make every process look for a TPU.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import jax
import pytest

from lightlm_jax import config as config_lib
from lightlm_jax.evaluation import evaluator
from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import topology

ROOT = pathlib.Path(__file__).parent.parent
SMALL = (
  "--config=demo:tiny",
  "--config.train.history_buckets=()",
  "--config.train.eval_batch_size=64",
)


@pytest.fixture(scope="module")
def environment():
  """Of a process that finds libtpu; without it the test is skipped, and says so."""
  kept = dict(os.environ)
  kept.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # it is the programs that are tested
  if importlib.util.find_spec("libtpu"):
    return kept
  folder = os.environ.get("LIGHTLM_LIBTPU_DIR")
  if not folder:
    pytest.skip(
      "libtpu is not installed and LIGHTLM_LIBTPU_DIR is not set: nothing was compiled "
      "for a TPU"
    )
  if not (pathlib.Path(folder) / "libtpu").is_dir():
    pytest.fail(f"LIGHTLM_LIBTPU_DIR={folder} does not hold libtpu")
  return kept | {"PYTHONPATH": folder}


@pytest.fixture
def train_command():
  """Calls `train` in a process of its own, whose `env` may show it libtpu."""

  def call(*arguments, env, cwd=ROOT):
    return subprocess.run(
      [sys.executable, "-m", "lightlm_jax.train", "--platform=cpu", *arguments],
      cwd=cwd,
      env=env,
      capture_output=True,
      text=True,
      timeout=600,
    )

  return call


def in_process(script, environment, *arguments):
  paths = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")])
  return subprocess.Popen(
    [sys.executable, "-c", script, *arguments],
    env=environment | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": paths},
    stdout=subprocess.PIPE,
    text=True,
  )


def bytes_of(program, *kinds):
  return sum(row["bytes"] for row in program["collectives"] if row["kind"] in kinds)


def all_bytes(program):
  return sum(row["bytes"] for row in program["collectives"])


@pytest.mark.integration
def test_data_parallel_steps_send_gradients_and_searches_nothing_but_answers(
  train_command, environment
):
  done = train_command(*SMALL, "--dry_run", "--topology=v5e:2x2", env=environment)
  assert done.returncode == 0, done.stderr
  report = json.loads(done.stdout)
  assert report["mesh"] == {"data": 4, "model": 1}
  found = report["topology"]
  assert found["device_kind"] == "TPU v5 lite"
  steps, search = found["steps"], found["search"]

  parameters = report["bytes"]["parameters"]
  assert bytes_of(steps, "all-reduce") >= parameters
  table = 4 * (report["parameters"]["total"] - report["parameters"]["non_embedding"])
  assert all_bytes(steps) - bytes_of(steps, "all-reduce") < table
  # Weights, two moments and the tables; what was donated is not counted twice.
  held = steps["bytes_per_device"]
  assert held["arguments"] >= 3 * parameters
  assert held["aliased"] >= 3 * parameters
  assert held["total"] < held["arguments"] + held["temporaries"] + held["code"] + 2**16

  # Ranks, the recommended items and whether a score was no number.
  answers = found["batches"]["eval_batch_size"] * (evaluator.K + 2) * 4
  assert 0 < all_bytes(search) <= answers + 4096
  for program in (steps, search):
    assert program["xla_flops_per_device"] > 0
    assert program["compile_seconds"] >= 0
  assert search["flops_per_batch"] > 0


@pytest.mark.slow
def test_divided_weights_are_smaller_and_talk_more(train_command, environment):
  """A preset's batch that the slice cannot share is rounded up, and it is said."""
  reports = []
  for model in (1, 2):
    done = train_command(
      *SMALL[:2],
      "--dry_run",
      "--topology=v5e:4x4",
      f"--config.mesh.model={model}",
      env=environment,
    )
    assert done.returncode == 0, done.stderr
    reports.append(json.loads(done.stdout))
  divided = reports[1]
  assert divided["mesh"] == {"data": 8, "model": 2}
  assert "config.train.eval_batch_size 100 does not divide over the 8" in done.stderr
  assert divided["topology"]["batches"] == {"batch_size": 32, "eval_batch_size": 104}
  in_search = [each["topology"]["search"] for each in reports]
  assert all_bytes(in_search[1]) > all_bytes(in_search[0])


# What a person is told of each name, and how many chips those that exist have.
NAMES = """
import json
import sys

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import topology

found = []
for name in sys.argv[1:]:
  try:
    found.append(len(topology.devices(name)))
  except UserError as error:
    found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.integration
def test_slices_have_their_chips_and_others_are_refused_in_a_line(environment):
  """Two processes at once: neither locks the other out."""
  names = ("v5e:1x1", "v5e:2x2", "v6e:16x16", "v5e:3x5", "v99:2x2", "v5e", "", "x:1:1")
  both = [in_process(NAMES, environment, *names) for _ in range(2)]
  for process in both:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    chips = json.loads(out)
    assert chips[:3] == [1, 4, 256]
    for name, told in zip(names[3:], chips[3:], strict=True):
      assert told.startswith(f"--topology={name}")
      assert "v5e:16x16" in told


MESHES = """
import json

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.runtime import mesh
from lightlm_jax.training import topology

found = []
for name, data, model in (
  ("v5e:4x4", 8, 2), ("v5e:4x4", 5, 1), ("v5e:4x4", 17, 1), ("v4:2x2x1", 8, 1)
):
  try:
    found.append(mesh.make(data, model, topology.devices(name)).size)
  except UserError as error:
    found.append(str(error))
print(json.dumps(found))
"""


@pytest.mark.integration
def test_a_mesh_that_the_chips_network_has_not_is_refused_in_a_line(environment):
  out, _ = in_process(MESHES, environment).communicate(timeout=120)
  size, *told = json.loads(out)
  assert size == 16
  for line, part in zip(told, ("mesh.data 5", "17", "one device a chip"), strict=True):
    assert part in line


def test_without_libtpu_a_line_says_what_to_install(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
  with pytest.raises(UserError, match=r"pip install 'lightlm_jax\[tpu\]'"):
    topology.devices("v5e:2x2")


@pytest.mark.parametrize(
  ("arguments", "told"),
  [
    (["--topology=v5e:2x2"], "it goes with --dry_run"),
    (["--topology=v5e:2x2", "--dry_run", "--platform=gpu"], "leave out --platform=gpu"),
  ],
)
def test_it_is_a_dry_run_on_the_cpu(train_command, tmp_path, arguments, told):
  env = os.environ | {"PYTHONPATH": str(ROOT)}
  done = train_command("--config=demo:tiny", *arguments, cwd=tmp_path, env=env)
  assert done.returncode == 2
  assert told in done.stderr
  assert len(done.stderr.strip().splitlines()) == 1
  assert not done.stdout
  assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_batch_that_was_chosen_has_to_divide(train_command, environment):
  done = train_command(
    *SMALL,
    "--config.train.batch_size=30",
    "--dry_run",
    "--topology=v5e:2x2",
    env=environment,
  )
  assert done.returncode == 2
  assert done.stderr.strip().endswith(
    "config.train.batch_size 30 does not divide over the 4 devices of mesh.data; "
    "choose a multiple of 4"
  )


def test_only_a_presets_own_batches_are_rounded_up():
  config = config_lib.load("demo:tiny")

  def batches(config):
    return {name: getattr(config.train, name) for name in topology.BATCHES}

  given = batches(config)
  assert given == {"batch_size": 32, "eval_batch_size": 100}
  rounded = topology.with_batches(config, 64)
  assert list(batches(rounded).values()) == [64, 128]
  kept = topology.with_batches(config, 64, chosen={"train.batch_size"})
  assert list(batches(kept).values()) == [32, 128]
  assert batches(config) == given


def test_a_mesh_is_made_of_the_devices_it_is_given():
  mesh = mesh_lib.make(-1, 1, jax.devices()[:1])
  assert list(mesh.devices.flat) == jax.devices()[:1]
