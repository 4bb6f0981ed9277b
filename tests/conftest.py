"""What every test runs under: strict ranks, and no writing outside pytest's folders."""

import os
import pathlib

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def _cache_root(tmp_path_factory):
  """Points the project's cache, in subprocesses too, away from the home folder."""
  with pytest.MonkeyPatch.context() as patch:
    if not os.environ.get("LIGHTLM_CACHE_DIR"):
      patch.setenv("LIGHTLM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
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
