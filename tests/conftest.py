"""What every test runs under: strict ranks, and no writing outside pytest's folders."""

import contextlib
import fcntl
import functools
import gc
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys

import commands
import compiling
import hypothesis
import jax
import pytest
import threadpoolctl

ROOT = pathlib.Path(__file__).parent.parent

jax.config.update("jax_numpy_rank_promotion", "raise")

# Where an operation comes from is written into every program; no test reads it.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
jax.config.update("jax_traceback_in_locations_limit", 0)

compiling.quick()

# A worker keeps millions of objects that jax traced. Looking through them for garbage
# as often as Python does by default takes a fifteenth of the tests' time.
gc.set_threshold(50_000, 20, 50)

# The first example may compile, and a busy machine is no failure. At night there are
# more examples where a test does not say how many.
EXAMPLES = 100 if os.environ.get("LIGHTLM_TESTS_OPTIMISED") else 40
hypothesis.settings.register_profile(
  "lightlm_jax", deadline=None, max_examples=EXAMPLES
)
hypothesis.settings.load_profile("lightlm_jax")


@pytest.fixture(scope="session")
def common(tmp_path_factory):
  """A folder of this session that all workers of pytest-xdist share."""
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "common"
  folder.mkdir(exist_ok=True)
  return folder


@contextlib.contextmanager
def alone(folder):
  """Holds a lock of the folder: what it makes is made by one worker."""
  with (folder / "lock").open("w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


@pytest.fixture(scope="session", autouse=True)
def _cache_root(common):
  """Points the project's cache, in subprocesses too, away from the home folder."""
  with pytest.MonkeyPatch.context() as patch:
    if not os.environ.get("LIGHTLM_CACHE_DIR"):
      patch.setenv("LIGHTLM_CACHE_DIR", str(common / "cache"))
    yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread_of_blas():
  """A worker of pytest-xdist has a core; more threads would wait for each other."""
  with threadpoolctl.threadpool_limits(1, user_api="blas"):
    yield


@pytest.fixture(scope="session", autouse=True)
def _makers_of_logs_are_not_asked():
  """No test downloads: whoever offers a log cannot be reached, this machine can."""
  from lightlm_jax.data.published import raw_files  # noqa: PLC0415

  ask = raw_files.unreachable

  def unreachable(url):
    return ask(url) if url.startswith("http://127.0.0.1:") else "no network in tests"

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(raw_files, "unreachable", unreachable)
    yield


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder of real logs; without one the test is skipped, and says so."""
  folder = os.environ.get("LIGHTLM_DATA_DIR")
  if not folder:
    pytest.skip("LIGHTLM_DATA_DIR is not set: nothing was tested on real logs")
  if not os.path.isdir(folder):
    pytest.fail(f"LIGHTLM_DATA_DIR={folder} is not a folder")
  return pathlib.Path(folder)


@pytest.fixture(scope="session")
def train_command():
  """Calls `python -m lightlm_jax.train` on the CPU; options are those of `commands`."""
  return functools.partial(commands.run, "lightlm_jax.train", "--platform=cpu")


@pytest.fixture(scope="session")
def eight_devices():
  """Runs a script on a CPU made into eight devices; what its last line says as JSON."""
  flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
  environment = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}

  @functools.cache
  def call(script, *arguments):
    done = subprocess.run(
      [sys.executable, "-c", script, *arguments],
      env=os.environ | environment,
      capture_output=True,
      text=True,
      timeout=300,
      check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])

  return call


# Each width of a batch is a program to compile: here every batch has the same one.
ONE_WIDTH = {"train.history_buckets": (), "train.eval_batch_size": 300}


@pytest.fixture(scope="session")
def demo_run(train_command, tmp_path_factory, common):
  """The workdir of one finished run of the demo, and the process that left it.

  One worker runs it, and each has a copy of its own.
  """
  with alone(common):
    said = common / "demo.json"
    if not said.exists():
      # From anywhere: a bare name and a relative workdir, as people type them.
      own = (f"--config.{field}={value}" for field, value in ONE_WIDTH.items())
      done = train_command("--config=demo:tiny", *own, "--workdir=demo", cwd=common)
      said.write_text(json.dumps([done.returncode, done.stdout, done.stderr]))
  done = subprocess.CompletedProcess([], *json.loads(said.read_text()))
  folder = tmp_path_factory.mktemp("runs") / "demo"
  if done.returncode == 0:
    shutil.copytree(common / "demo", folder)
  return folder, done


@pytest.fixture
def demo_config():
  """The config of `demo_run`."""
  from lightlm_jax import config  # noqa: PLC0415

  return config.load("demo:tiny", overrides=ONE_WIDTH)


@pytest.fixture(scope="session")
def _compiled_once(_cache_root):
  """Lets this process share its compiled programs with the tests' subprocesses."""
  from jax.experimental.compilation_cache import compilation_cache  # noqa: PLC0415

  from lightlm_jax.runtime import devices  # noqa: PLC0415

  compilation_cache.reset_cache()  # jax asks for the folder only once
  devices.enable_compilation_cache()


@pytest.fixture
def small_config(_compiled_once):
  """Makes the config of a run of seconds: the demo's data, all of it trained on."""
  from lightlm_jax import config  # noqa: PLC0415

  def make(name="demo:tiny", **overrides):
    small = {
      "split.kind": "none",
      "baselines": (),
      "train.history_buckets": (),
      "train.batch_size": 16,
      "train.accumulate": 2,
      "train.steps": 6,
      "train.eval_every": 2,
      "train.log_every": 1,
    }
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    system = {name: value for name, value in fields.items() if name == "system"}
    own = config.to_flat(config.load(name, overrides=system))
    small = {name: value for name, value in small.items() if name in own}
    return config.load(name, overrides=small | fields)

  return make


@pytest.fixture
def shop(tmp_path, monkeypatch):
  """A folder with the data of a shop and one finished run, called one."""
  from report_pages import make_data, make_run  # noqa: PLC0415

  monkeypatch.delenv("LIGHTLM_DATA_DIR", raising=False)
  make_data(tmp_path / "data")
  make_run(tmp_path / "one", tmp_path / "data")
  return tmp_path


@pytest.fixture
def logged():
  """The messages of the package's log, as a list that grows."""
  lines = []
  handler = logging.Handler()
  handler.emit = lambda record: lines.append(record.getMessage())
  logger = logging.getLogger("lightlm_jax")
  before = logger.level
  logger.addHandler(handler)
  logger.setLevel(logging.INFO)
  yield lines
  logger.removeHandler(handler)
  logger.setLevel(before)
