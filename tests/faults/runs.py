"""Clocks that jump, rates that diverge, and two commands in one folder or cache."""

import json
import math
import pathlib
import random
import subprocess
import sys

from demo_training import (
  ROOT,
  assert_same_end,
  finish,
  latest,
  start,
  steps_logged,
)
import numpy as np

from lightlm_jax import config as config_lib
from lightlm_jax.runs import train
from lightlm_jax.runtime.errors import UserError

from .disks import refused
from .kills import unbroken
from .suite import Kind

# At one look in twenty the clock jumps by up to eleven hours, forward or back.
JUMPS = """
import random, time

rng, clock, offset = random.Random({seed}), time.time, [0]

def jumps():
  if rng.random() < 0.05:
    offset[0] = rng.uniform(-40_000, 40_000)
  return clock() + offset[0]

time.time = jumps
time.time_ns = lambda: int(jumps() * 1e9)
"""


def trial_of_clocks(
  unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path
) -> str:
  """Trains while the clock jumps, then as it is, because Orbax may give up a save."""
  (folder / "sitecustomize.py").write_text(JUMPS.format(seed=rng.randrange(10**6)))
  environment = {"PYTHONPATH": f"{folder}:{ROOT}"}
  workdir = folder / "run"
  process = start(workdir, **environment)
  said, _ = process.communicate(timeout=300)
  if process.returncode:
    refused(said, process.returncode)
  finish(workdir)
  assert_same_end(unbroken, workdir)
  for line in map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines()):
    assert line.get("examples_per_second", 1) > 0, line
  return "a save was given up" if process.returncode else "came to its end"


def trial_of_rates(_: None, rng: random.Random, folder: pathlib.Path) -> str:
  """Trains with an impossible rate: it stops within three steps and saves nothing."""
  rate = rng.choice((1e9, 1e20, 1e38, math.inf, math.nan))
  system = rng.choice(("lightlm", "sasrec", "item_decoder", "bpr_mf"))
  fields = {"split.kind": "none", "baselines": (), "train.log_every": 1}
  fields |= {"train.steps": 6, "train.eval_every": 1, "train.warmup_steps": 0}
  fields |= {"train.learning_rate": rate, "data.name": "demo"}
  base = "demo" if system == "lightlm" else system
  stopped = False
  try:
    train.train(config_lib.load(base, "tiny", fields), folder / "run")
  except UserError:  # whose message is one line whatever it is made of
    stopped = True
  steps = [p for p in folder.glob("run/checkpoints/*") if p.name.isdigit()]
  for leaf in latest(folder / "run")[1].values() if steps else ():
    assert np.isfinite(leaf).all()
  if not stopped:
    return f"{system}: finite all the same"
  assert len(steps) <= 3, steps
  return f"{system}: stopped" if (folder / "run").exists() else f"{system}: refused"


def trial_of_two(
  unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path
) -> str:
  """Two commands at once: one is refused in a line, or both are right."""
  kind = rng.choice(("trainings in one folder", "a question", "trainings on one cache"))
  cache = {"LIGHTLM_CACHE_DIR": str(folder / "cache")}
  if kind == "a question":
    process = start(folder / "run")
    while process.poll() is None and max(steps_logged(folder / "run"), default=0) < 30:
      pass
    asked = subprocess.run(
      [
        *(sys.executable, "-m", "lightlm_jax.recommend", "--history=tea 001"),
        *("--k=3", "--platform=cpu", f"--workdir={folder / 'run'}"),
      ],
      cwd=ROOT,
      capture_output=True,
      text=True,
    )
    assert asked.returncode == 0, asked.stderr
    assert len(asked.stdout.splitlines()) >= 4, asked.stdout
    process.communicate(timeout=300)
    assert process.returncode == 0
    assert_same_end(unbroken, folder / "run")
    return kind
  names = ("run", "run") if kind == "trainings in one folder" else ("run", "other")
  both = [start(folder / name, **cache) for name in names]
  said = [process.communicate(timeout=600)[0] for process in both]
  codes = sorted(process.returncode for process in both)
  if kind == "trainings in one folder":
    assert codes == [0, 2], said
    (line,) = [x for text in said for x in text.splitlines() if "error:" in x]
    assert "another process trains in" in line
  else:
    assert codes == [0, 0], said
  for name in set(names):
    assert_same_end(unbroken, folder / name)
  return kind


def nothing(folder: pathlib.Path) -> None:
  del folder


KINDS = (
  Kind("clocks", "a clock that jumps changes no bit", 10, unbroken, trial_of_clocks),
  Kind("rates", "what diverges stops and is not saved", 16, nothing, trial_of_rates),
  Kind("two at once", "one is refused, or both are right", 10, unbroken, trial_of_two),
)
