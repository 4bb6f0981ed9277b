"""An idle accelerator is refused, and a program is compiled once for all processes."""

import os
import subprocess
import sys

import jax
import pytest

from lightlm_jax.runtime import cache, devices
from lightlm_jax.runtime.errors import UserError


@pytest.fixture
def on_cpu(monkeypatch):
  monkeypatch.setattr(jax, "default_backend", lambda: "cpu")


@pytest.mark.parametrize(
  ("node", "extra"), [("nvidia0", "cuda"), ("nvidia12", "cuda"), ("accel0", "tpu")]
)
def test_visible_accelerator_on_cpu_is_refused(tmp_path, on_cpu, node, extra):
  (tmp_path / node).touch()
  nodes = (f"{tmp_path}/nvidia[0-9]*", f"{tmp_path}/accel*")
  with pytest.raises(UserError) as caught:
    devices.check(nodes=nodes)
  message = str(caught.value)
  assert f"pip install 'lightlm_jax[{extra}]'" in message
  assert str(tmp_path / node) in message
  assert "--platform=cpu" in message
  devices.check("cpu", nodes=nodes)


def test_no_accelerator_is_fine(tmp_path, on_cpu):
  (tmp_path / "nvidiactl").touch()  # the driver's own node, there without a GPU too
  (tmp_path / "accel").mkdir()  # where Linux puts a laptop's NPU
  (tmp_path / "accel" / "accel0").touch()
  nodes = (f"{tmp_path}/nvidia[0-9]*", f"{tmp_path}/accel*")
  assert devices.visible_accelerators(nodes) == []
  devices.check(nodes=nodes)


def test_accelerator_in_use_is_fine(tmp_path, monkeypatch):
  (tmp_path / "nvidia0").touch()
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  devices.check(nodes=(f"{tmp_path}/nvidia*",))


@pytest.mark.parametrize("error", [RuntimeError("no libtpu.so"), AssertionError()])
def test_platform_that_does_not_start_is_one_line(monkeypatch, error):
  def fail():
    raise error

  monkeypatch.setattr(jax, "default_backend", fail)
  with pytest.raises(UserError, match=r"cannot start --platform=tpu: .*\[tpu\]"):
    devices.check("tpu", nodes=())


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_falling_back_on_the_cpu_is_no_start(on_cpu, platform):
  with pytest.raises(UserError, match=f"cannot start --platform={platform}: "):
    devices.check(platform, nodes=())


@pytest.mark.parametrize(
  ("platform", "known"), [("cpu", "cpu"), ("gpu", "cuda,cpu"), ("tpu", "tpu,cpu")]
)
def test_select_speaks_to_jax(monkeypatch, platform, known):
  updates = {}
  monkeypatch.setattr(jax.config, "update", updates.__setitem__)
  devices.select(platform)
  assert updates == {"jax_platforms": known}
  updates.clear()
  devices.select(None)
  assert updates == {}


def test_describe_is_one_line():
  line = devices.describe()
  assert "\n" not in line
  assert f"backend {jax.default_backend()}: {jax.device_count()} x " in line
  assert jax.__version__ in line


def test_cache_root_follows_the_environment(monkeypatch, tmp_path):
  monkeypatch.setenv("LIGHTLM_CACHE_DIR", str(tmp_path))
  assert os.fspath(cache.cache_root()) == str(tmp_path)
  monkeypatch.delenv("LIGHTLM_CACHE_DIR")
  monkeypatch.setenv("HOME", "/home/someone")
  assert os.fspath(cache.cache_root()) == "/home/someone/.cache/lightlm_jax"


COMPILE = """
import jax
from lightlm_jax.runtime import devices

devices.select("cpu")
print(devices.enable_compilation_cache())
seen = []
jax.monitoring.register_event_listener(lambda event, **_: seen.append(event))
jax.jit(lambda x: x * 3 + 1)(1.0).block_until_ready()
print(sum("cache_misses" in event for event in seen))
print(sum("cache_hits" in event for event in seen))
"""


def compile_in_new_process(**environment):
  clean = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
  done = subprocess.run(
    [sys.executable, "-c", COMPILE],
    env=clean | environment,
    capture_output=True,
    text=True,
    check=True,
    timeout=120,
  )
  folder, misses, hits = done.stdout.split()
  return folder, int(misses), int(hits)


def test_second_process_compiles_nothing(tmp_path):
  folder, misses, hits = compile_in_new_process(LIGHTLM_CACHE_DIR=str(tmp_path))
  assert folder == str(tmp_path / "xla")
  assert (misses > 0, hits) == (True, 0)
  _, again, hits = compile_in_new_process(LIGHTLM_CACHE_DIR=str(tmp_path))
  assert (again, hits) == (0, misses)


def test_jax_own_cache_variable_comes_first(tmp_path):
  folder, misses, _ = compile_in_new_process(
    JAX_COMPILATION_CACHE_DIR=str(tmp_path / "jax"),
    LIGHTLM_CACHE_DIR=str(tmp_path / "ours"),
  )
  assert folder == str(tmp_path / "jax")
  assert misses > 0
  assert not (tmp_path / "ours").exists()
