"""An hour of training and of answering: memory and descriptors stay, speed too.

The length is FAULTS_SOAK_MINUTES, 60 by default; a few are needed on a busy machine.
With LIGHTLM_DATA_DIR it is `toys:tiny` that trains and answers, else `demo:tiny`.
"""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from demo_training import ROOT

from .suite import Kind

MEGABYTES, DESCRIPTORS, SPEED = 50, 2, 0.95  # the most growth, and the least speed
TRAIN = (sys.executable, "-m", "lightlm_jax.train", "--platform=cpu")
# Histories of two lengths: what it answers needs few programs.
ANSWER = """
import random, sys
from lightlm_jax import Recommender

model = Recommender.load(sys.argv[1])
items, rng, answered = sys.argv[2].split(","), random.Random(0), 0
while True:
  histories = [rng.sample(items, rng.choice((2, 5))) for _ in range(8)]
  assert len(model.recommend(histories=histories, k=5)) > 0
  answered += 8
  if answered % 80 == 0:
    print(answered, flush=True)
"""


class Look(NamedTuple):
  """What a process has and did at some moment."""

  megabytes: float  # resident memory
  descriptors: int
  seconds: float  # of CPU time
  work: int  # steps, or users answered


def trial(_: None, rng: random.Random, folder: pathlib.Path) -> str:
  del rng
  minutes = float(os.environ.get("FAULTS_SOAK_MINUTES", "60"))
  preset = "toys:tiny" if os.environ.get("LIGHTLM_DATA_DIR") else "demo:tiny"
  config = f"--config={preset}"
  done = subprocess.run(
    [*TRAIN, config, "--config.baselines=()", f"--workdir={folder / 'run'}"],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  long = (
    "train.steps=100000000",
    "train.eval_every=2000",
    "train.patience=0",
    "train.log_every=10",
  )
  training = subprocess.Popen(
    [
      *(*TRAIN, config, f"--workdir={folder / 'long'}"),
      *(f"--config.{field}" for field in long),
    ],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    text=True,
  )
  with (folder / "answered").open("w") as said:
    answering = subprocess.Popen(
      [sys.executable, "-c", ANSWER, str(folder / "run"), _items(preset)],
      cwd=ROOT,
      stdout=said,
      env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
  looks: dict[str, list[Look]] = {"training": [], "answering": []}
  try:
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
      time.sleep(min(5, 60 * minutes / 50))
      assert training.poll() is None, training.communicate()
      assert answering.poll() is None
      looks["training"].append(look(training.pid, _step(folder / "long")))
      looks["answering"].append(look(answering.pid, _last(folder / "answered")))
    training.send_signal(signal.SIGTERM)
    _, err = training.communicate(timeout=60)
    assert training.returncode == 128 + signal.SIGTERM, err
  finally:
    for process in (training, answering):
      process.kill()
      process.wait()
  return "; ".join(judged(name, found) for name, found in looks.items())


def judged(name: str, looks: list[Look]) -> str:
  """Compares the end with what was after a fifth of the time."""
  looks = [one for one in looks if one.work]
  settled, last = looks[len(looks) // 5], looks[-1]
  grown = last.megabytes - settled.megabytes
  more = last.descriptors - settled.descriptors
  quarters = [looks[n * (len(looks) - 1) // 4] for n in range(5)]
  second, fourth = (
    (after.work - before.work) / (after.seconds - before.seconds)
    for before, after in ((quarters[1], quarters[2]), (quarters[3], quarters[4]))
  )
  text = (
    f"{name}: {grown:+.0f} MB, {more:+d} descriptors, "
    f"{fourth / second:.2f} × the speed, {last.work:,}"
  )
  assert grown <= MEGABYTES, text
  assert more <= DESCRIPTORS, text
  assert fourth >= SPEED * second, text
  return text


def look(pid: int, work: int) -> Look:
  process = pathlib.Path(f"/proc/{pid}")
  pages = int((process / "statm").read_text().split()[1])
  times = (process / "stat").read_text().rpartition(")")[2].split()
  return Look(
    pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
    len(list((process / "fd").iterdir())),
    (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK"),
    work,
  )


def _step(workdir: pathlib.Path) -> int:
  path = workdir / "metrics.jsonl"
  lines = path.read_text().split("\n")[:-1] if path.exists() else []
  return max((json.loads(line)["step"] for line in lines[-5:]), default=0)


def _last(path: pathlib.Path) -> int:
  lines = path.read_text().split("\n")[:-1]
  return int(lines[-1]) if lines else 0


def _items(preset: str) -> str:
  if preset == "demo:tiny":
    return ",".join(f"tea {n:03}" for n in range(1, 16))
  return ",".join(map(str, range(1, 200)))


def nothing(folder: pathlib.Path) -> None:
  del folder


KINDS = (Kind("soak", "an hour changes nothing", 1, nothing, trial),)
