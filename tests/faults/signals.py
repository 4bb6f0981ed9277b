"""Signals in every phase of a training: it ends at once in a line, and goes on."""

import pathlib
import random
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time

from demo_training import EVERY, STEPS, assert_same_end, finish, start

from .kills import unbroken
from .suite import Kind

SECONDS = 2.0  # from a signal to the end
# Phase → the line after which it begins, and the longest time until the signal.
PHASES = {
  "importing": ("", 2.0),
  "loading": ("backend cpu", 0.02),
  "building ids": ("workdir ", 0.05),
  "compiling": ("ids: ", 3.0),
  "training": (r"step \d+5/", 0.05),
  "validating": (rf"step \d*{EVERY}/", 0.01),
  "saving": (r"step \d+  validation", 0.02),
  "judging": ("validation and test", 0.3),
}


class Said(threading.Thread):
  """Collects the lines of a process while it runs."""

  def __init__(self, process: subprocess.Popen):
    super().__init__(daemon=True)
    self.process, self.lines = process, []
    self.start()

  def run(self) -> None:
    for line in self.process.stdout:
      self.lines.append(line.rstrip())


def trial(unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path) -> str:
  """Sends a signal in a phase; compares the run with the unbroken one now and then."""
  phase = rng.choice(list(PHASES))
  number = rng.choice((signal.SIGTERM, signal.SIGINT))
  workdir = folder / "run"
  cache = {}
  if phase == "compiling":
    cache = {"LIGHTLM_CACHE_DIR": tempfile.mkdtemp(prefix="faults-cache-")}
  for _ in range(9):  # it may be over before the signal comes
    shutil.rmtree(workdir, ignore_errors=True)
    said, seconds = signalled(workdir, phase, number, rng, **cache)
    if said.process.returncode != 0:
      break
  for path in cache.values():
    shutil.rmtree(path)
  name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
  text = "\n".join(said.lines)
  assert said.process.returncode == 128 + number, (said.process.returncode, text)
  assert f"lightlm_jax: stopped by {name}; start again to resume" in text, text
  assert "Traceback" not in text, text
  waited = "stops after the work at hand" in text
  assert waited or seconds < SECONDS, f"{seconds:.1f} s, {text[-500:]}"
  if phase == "judging":
    out = finish(workdir)
    assert f"resuming at step {STEPS}" in out
    assert not re.search(r"^step ", out, re.M), out
    assert_same_end(unbroken, workdir)
  elif rng.random() < 0.25:
    finish(workdir)
    assert_same_end(unbroken, workdir)
  return f"{phase}, after a line that it waits" if waited else phase


def signalled(workdir, phase, number, rng, **environment):
  """Returns a run that got a signal in a phase, and the seconds that it took to end."""
  begins, longest = PHASES[phase]
  said = Said(start(workdir, **environment))
  seen = rng.randint(1, 4) if phase in ("training", "validating", "saving") else 1
  deadline = time.monotonic() + 240
  while said.process.poll() is None and time.monotonic() < deadline:
    found = sum(bool(re.match(begins, line)) for line in said.lines) >= seen
    if found or not begins:
      break
    time.sleep(0.002)
  time.sleep(rng.uniform(0, longest))
  said.process.send_signal(number)
  began = time.monotonic()
  said.process.wait(timeout=120)
  seconds = time.monotonic() - began
  said.join(timeout=10)
  return said, seconds


KINDS = (
  Kind(
    "signals",
    f"a command ends within {SECONDS:.0f} s in a line, by 143 or 130, and goes on",
    40,
    unbroken,
    trial,
  ),
)
