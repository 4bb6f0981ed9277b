"""Faults planted in the package are found by the suite; without them none is."""

from concurrent import futures
import shutil

import jinja2
import numpy as np
import pytest

from lightlm_jax.storage import arrays
from lightlm_jax.storage import folder as storage
from lightlm_jax.training import checkpoint
from tests.faults import damage, failed_saves, finished, hostile, suite

pytestmark = [
  pytest.mark.integration,
  pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
  folder = tmp_path_factory.mktemp("trees")
  return [finished.make(folder / str(seed), seed) for seed in (0, 1)]


@pytest.fixture
def asking(trees, monkeypatch):
  """The kind `damage` with one of its questions, and trees that are made once."""

  def make(question):
    copied = lambda folder, seed: shutil.copytree(trees[seed], folder)  # noqa: E731
    monkeypatch.setattr(finished, "make", copied)
    monkeypatch.setattr(damage, "QUESTIONS", {question: damage.QUESTIONS[question]})
    return damage.KINDS[0]

  return make


def found(kind, seeds, plant=None):
  """The seeds that fail once `plant` has made its change, all else prepared."""

  def prepare(folder):
    prepared = kind.prepare(folder)
    if plant:
      plant()
    return prepared

  first, number = seeds
  planted = kind._replace(prepare=prepare)
  return suite.run(
    planted, seed=first, trials=number, seconds=float("inf"), say=lambda text: None
  ).failed


def test_a_manifest_that_is_not_verified(monkeypatch):
  """That of a prepared log; trials take the files of another one."""

  def make(folder, seed):
    finished.write_log(folder / "data", seed)
    return folder

  monkeypatch.setattr(finished, "make", make)
  own = {"histories": damage.QUESTIONS["histories"]}
  monkeypatch.setattr(damage, "QUESTIONS", own)
  kind, seeds = damage.KINDS[0], (0, 40)
  assert not found(kind, seeds)

  def unverified(self, name, sha256=None):
    return (self.path / name).read_bytes()

  assert found(
    kind, seeds, lambda: monkeypatch.setattr(storage.Whole, "read", unverified)
  )


def test_pickles_that_are_loaded(monkeypatch):
  kind, seeds = hostile.KINDS[0], (0, 60)
  assert not found(kind, seeds)

  def load(file, size, dtype, ndim):
    return np.load(file, allow_pickle=True)

  failed = found(kind, seeds, lambda: monkeypatch.setattr(arrays, "read", load))
  assert any("was run" in text for text in failed.values())


def test_ids_that_are_not_escaped(asking, monkeypatch):
  kind, seeds = asking("report"), (0, 1)
  assert not found(kind, seeds)
  make = jinja2.Environment

  def careless(**options):
    return make(**options | {"autoescape": False})

  assert found(
    kind, seeds, lambda: monkeypatch.setattr(jinja2, "Environment", careless)
  )


def test_a_failed_save_that_nobody_hears_of(monkeypatch):
  kind, seeds = failed_saves.KINDS[0], (0, 3)
  assert not found(kind, seeds)

  def swallow(self):
    writing, self._writing = self._writing, None
    if writing is not None:
      futures.wait([writing])

  plant = lambda: monkeypatch.setattr(checkpoint.Checkpoints, "wait", swallow)  # noqa: E731
  failed = found(kind, seeds, plant)
  assert len(failed) == 3
  assert "nobody was told" in failed[0]
