"""Runs trials of damage, and counts what held.

A trial is a function of a random generator alone, so that its seed replays it.
"""

import collections
from collections.abc import Callable
import pathlib
import random
import shutil
import tempfile
import time
import traceback
from typing import Any, NamedTuple


class Kind(NamedTuple):
  """One kind of fault.

  Attributes:
    name: such as "kills".
    about: what has to hold, a line for the table.
    trials: how many a whole run of the suite makes.
    prepare: makes in an empty folder what all trials start from, and returns it.
    trial: makes faults in an empty folder. Returns in a few words what held, which is
      counted; raises whatever it likes if something did not.
    each: how many faults a trial makes.
  """

  name: str
  about: str
  trials: int
  prepare: Callable[[pathlib.Path], Any]
  trial: Callable[[Any, random.Random, pathlib.Path], str]
  each: int = 1


class Found(NamedTuple):
  """What the trials of one kind found."""

  kind: Kind
  tried: int
  held: collections.Counter[str]  # what held → number of trials
  failed: dict[int, str]  # seed → what was raised
  seconds: float


def run(
  kind: Kind, *, seed: int, trials: int, seconds: float, say: Callable[[str], None]
) -> Found:
  """Makes trials of seeds seed, seed + 1, … until all are made or the time is over."""
  began = time.monotonic()
  held, failed, tried = collections.Counter(), {}, 0
  with tempfile.TemporaryDirectory(prefix="faults-") as temporary:
    folder = pathlib.Path(temporary)
    (folder / "prepared").mkdir()
    prepared = kind.prepare(folder / "prepared")
    for own in range(seed, seed + trials):
      if tried and time.monotonic() - began > seconds:
        break
      tried += 1
      trial = folder / "trial"
      trial.mkdir()
      try:
        held[kind.trial(prepared, random.Random(own), trial)] += 1
      except Exception as error:
        failed[own] = f"{type(error).__name__}: {error}".strip()
        say(
          f"{kind.name}, seed {own}: {failed[own]}\n"
          f"{''.join(traceback.format_tb(error.__traceback__)[-2:])}"
          f"again: python -m tests.faults --kinds {kind.name} --seed {own} --trials 1"
        )
      shutil.rmtree(trial, ignore_errors=True)
  return Found(kind, tried, held, failed, time.monotonic() - began)


def counts(found: Found) -> tuple[int, int]:
  """Returns the numbers of faults that were made, and of those that held."""
  each = found.kind.each
  return each * found.tried, each * (found.tried - len(found.failed))
