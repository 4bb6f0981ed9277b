"""Prepares malformed logs: refused, or read with the rows that plain Python finds."""

import pathlib
import random

import hypothesis
import test_prepare_properties as properties

from .suite import Kind

FILES = 10  # of a trial: beginning takes hypothesis longer than a file


def prepare(folder: pathlib.Path) -> None:
  del folder


def trial(prepared: None, rng: random.Random, folder: pathlib.Path) -> str:
  """Prepares the files that hypothesis draws from a seed."""
  del prepared, folder
  drawn = {"phases": [hypothesis.Phase.generate], "database": None, "deadline": None}
  tried, _ = properties.run(FILES, seed=rng.getrandbits(32), **drawn)
  assert tried == FILES
  return f"{FILES} files, as plain Python reads them"


KINDS = (
  Kind("malformed", f"{FILES} malformed logs each", 10_000 // FILES, prepare, trial),
)
