"""What is compiled for NVIDIA GPUs without one, where jax's CUDA plugin is there.

The plugin lies in the folder LIGHTLM_CUDA_DIR (pip install --target).
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys

import pytest

from lightlm_jax.runtime.errors import UserError
from lightlm_jax.training import gpus, kernels, topology

ROOT = pathlib.Path(__file__).parent.parent

# As XLA for GPUs writes them: a scan of three turns, a gather in a fusion, a slice that
# is written in place, and a library's product with its workspace.
PROGRAM = """HloModule jit_steps, is_scheduled=true

%take (table: f32[1000,8], row: s32[4]) -> f32[4,8] {
  %table = f32[1000,8]{1,0} parameter(0)
  %row = s32[4]{0} parameter(1)
  ROOT %rows = f32[4,8]{1,0} gather(%table, %row), offset_dims={1}
}

%write (all: f32[3,4,8], new: f32[1,4,8], at: s32[]) -> f32[3,4,8] {
  %all = f32[3,4,8]{2,1,0} parameter(0)
  %new = f32[1,4,8]{2,1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %put = f32[3,4,8]{2,1,0} dynamic-update-slice(%all, %new, %at, %at, %at)
}

%turn (carry: (s32[], f32[3,4,8])) -> (s32[], f32[3,4,8]) {
  %p = (s32[], f32[3,4,8]{2,1,0}) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %kept = f32[3,4,8]{2,1,0} get-tuple-element(%p), index=1
  %m = (f32[1,4,8]{2,1,0}, s8[4096]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul"
  %x.1 = f32[1,4,8]{2,1,0} get-tuple-element(%m), index=0
  %put.1 = f32[3,4,8]{2,1,0} fusion(%kept, %x.1, %i), kind=kLoop, calls=%write
  ROOT %t = (s32[], f32[3,4,8]{2,1,0}) tuple(%i, %put.1)
}

%going (carry: (s32[], f32[3,4,8])) -> pred[] {
  %end = s32[] constant(3)
  ROOT %lt = pred[] compare(%i, %end), direction=LT
}

ENTRY %main (a: f32[1000,8], b: s32[4], w: f32[8,8]) -> f32[3,4,8] {
  %a = f32[1000,8]{1,0} parameter(0)
  %b = s32[4]{0} parameter(1)
  %w = f32[8,8]{1,0} parameter(2)
  %x = f32[4,8]{1,0} fusion(%a, %b), kind=kLoop, calls=%take
  %soft = f32[4,8]{1,0} fusion(%x), kind=kCustom, calls=%soft_of, backend_config={"kind":"__triton"}
  %r-start = f32[8,8]{1,0} all-reduce-start(%w), to_apply=%sum
  %r-done = f32[8,8]{1,0} all-reduce-done(%r-start)
  ROOT %w.2 = (s32[], f32[3,4,8]{2,1,0}) while(%carry), condition=%going, body=%turn, backend_config={"known_trip_count":{"n":"3"}}
}
"""  # noqa: E501
ROWS = 4 * 8 * 4  # bytes


def test_kernels_of_loops_are_multiplied_and_values_are_none():
  found = kernels.executed(PROGRAM)
  wanted = {"fusion": 4, "__cublas$lt$matmul": 3, "all-reduce": 1, "triton fusion": 1}
  assert list(kernels.by_kind(found).items()) == list(wanted.items())
  assert kernels.total(found) == 9


def test_only_what_is_read_and_written_counts_as_moved():
  moved = {
    each.kind + str(each.times): each.bytes for each in kernels.executed(PROGRAM)
  }
  # The rows of the table and their numbers in, the rows out; not the table.
  assert moved["fusion1"] == ROWS + 4 * 4 + ROWS
  # The new row in, its place, and the row written; not all rows.
  assert moved["fusion3"] == ROWS + 4 + ROWS
  assert moved["__cublas$lt$matmul3"] == ROWS + 8 * 8 * 4 + ROWS  # no workspace
  assert moved["all-reduce1"] == 2 * 8 * 8 * 4


def test_the_slowest_resource_bounds_a_program():
  class H100:
    device_kind = "NVIDIA H100 80GB HBM3"

  found = gpus.roofline(H100, flops=989e9, moved=3_352 * 10**6, sent=0, kernels=100)
  assert found["milliseconds"] == {
    "compute": 1.0,
    "memory": 1.0,
    "network": 0.0,
    "starts": 0.2,
  }
  found = gpus.roofline(H100, flops=989e9, moved=0, sent=1_800_000_000, kernels=1)
  assert (found["bound"], found["mfu"]) == ("network", 0.25)


def test_without_the_plugin_a_line_says_what_to_install(monkeypatch, tmp_path):
  monkeypatch.setenv(gpus.FOLDER, str(tmp_path))
  monkeypatch.setattr(sys, "path", [p for p in sys.path if "cuda" not in p])
  versions = {"jaxlib": "0.10.2"}

  def version(name):
    if name not in versions:
      raise importlib.metadata.PackageNotFoundError(name)
    return versions[name]

  monkeypatch.setattr(importlib.metadata, "version", version)
  wanted = r"jax-cuda12-pjrt==0\.10\.2 nvidia-cuda-nvcc-cu12, and set LIGHTLM_CUDA_DIR"
  with pytest.raises(UserError, match=wanted):
    topology.devices("h100:8")
  versions[gpus.PLUGIN] = "0.10.1"
  with pytest.raises(
    UserError, match=r"plugin is 0\.10\.1, jaxlib 0\.10\.2; .*==0.10.2"
  ):
    topology.devices("h100:8")


@pytest.mark.parametrize("name", ["h100", "h100:0", "h100:2x", "v100:8", "h100:1x2x3"])
def test_names_of_no_gpus_are_refused_in_a_line(name):
  assert gpus.devices(name) is None


@pytest.fixture(scope="module")
def environment():
  """Of a process that finds the plugin; without it the test is skipped, and says so."""
  if not (folder := os.environ.get(gpus.FOLDER)):
    pytest.skip(f"{gpus.FOLDER} is not set: nothing was compiled for a GPU")
  if not (pathlib.Path(folder) / "jax_plugins").is_dir():
    pytest.fail(f"{gpus.FOLDER}={folder} does not hold jax's CUDA plugin")
  kept = dict(os.environ)
  kept.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # it is the programs that are tested
  return kept | {"JAX_PLATFORMS": "cpu"}


def run(environment, *arguments):
  done = subprocess.run(
    [sys.executable, *arguments],
    cwd=ROOT,
    env=environment,
    capture_output=True,
    text=True,
    timeout=600,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


@pytest.mark.integration
def test_steps_and_search_for_two_gpus(environment):
  report = run(
    environment,
    *("-m", "lightlm_jax.train", "--config=demo:tiny", "--dry_run"),
    *("--topology=h100:2", "--config.train.history_buckets=()"),
  )
  found, parameters = report["topology"], report["bytes"]["parameters"]
  assert report["mesh"] == {"data": 2, "model": 1}
  assert found["device_kind"] == "NVIDIA H100 80GB HBM3"
  assert found["cuda_plugin"] == importlib.metadata.version("jaxlib")
  steps, search = found["steps"], found["search"]
  sent = {row["kind"]: row["bytes"] for row in steps["collectives"]}
  assert set(sent) == {"all-reduce"}  # of no table are all rows gathered
  assert parameters <= sent["all-reduce"] < 2 * parameters
  assert steps["bytes_per_device"]["aliased"] >= 3 * parameters  # donated
  # Ranks, items and whether a score was no number: the answers alone are gathered.
  assert sum(row["bytes"] for row in search["collectives"]) < 16_384
  # Two tokens an item; about sixty kernels a decoding step, and the encoder's.
  assert search["kernels"]["total"] <= 160
  assert steps["kernels"]["total"] <= 400
  for program in (steps, search):
    assert "sort" not in program["kernels"]["by_kind"]
    assert not any("callback" in kind for kind in program["kernels"]["by_kind"])
    assert program["roofline"]["bound"] == "starts"
    assert program["bytes_moved_per_device"] > 2 * 10**6


PLANTED = """
import json

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from lightlm_jax.runtime import mesh as mesh_lib
from lightlm_jax.training import collectives, gpus, topology

mesh = mesh_lib.make(2, 1, topology.devices("a100:2"))
rows = NamedSharding(mesh, PartitionSpec("data"))
table_VD = jax.ShapeDtypeStruct((512, 64), jnp.float32, sharding=rows)

def whole(table_VD):
  table_VD = jax.lax.with_sharding_constraint(table_VD, mesh_lib.replicated(mesh))
  return table_VD @ table_VD.T

def told(table_VD):
  jax.debug.callback(print, table_VD[0, 0])
  return table_VD + 1

def compiled(fn):
  return jax.jit(fn).lower(table_VD).compile(compiler_options=gpus.OPTIONS).as_text()

try:
  compiled(told)
  called_back = True
except Exception:
  called_back = False
print(json.dumps([
  collectives.by_kind(collectives.executed(compiled(whole))), called_back
]))
"""


@pytest.mark.integration
def test_a_whole_table_and_a_host_callback_are_seen(environment):
  sent, called_back = run(environment, "-c", PLANTED)
  assert {"kind": "all-gather", "count": 1, "bytes": 512 * 64 * 4} in sent
  assert not called_back
