"""Kills trainings at random moments: all end with the bits of one that was not."""

import pathlib
import random
import shutil
import signal
import tempfile
import time

from demo_training import EVERY, STEPS, assert_same_end, finish, start, steps_logged
import test_processes as several

from .suite import Kind

KILLS = 5  # of a run


def unbroken(folder: pathlib.Path) -> pathlib.Path:
  finish(folder / "unbroken")
  return folder / "unbroken"


def trial(unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path) -> str:
  """Kills a run again and again, finishes it, and compares it with the unbroken one."""
  workdir = folder / "run"
  kinds = []
  for _ in range(KILLS):
    kinds.append(rng.choice(("at start", "in a step", "in a step", "in a save")))
    killed(workdir, kinds[-1], rng)
  finish(workdir)
  assert_same_end(unbroken, workdir)
  assert not list((workdir / "checkpoints").glob("*tmp*"))
  return "; ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))


def killed(workdir: pathlib.Path, kind: str, rng: random.Random) -> None:
  """Starts a run and kills it, one time in five where no program is compiled yet."""
  environment, cache = {}, None
  if rng.random() < 0.2:
    cache = tempfile.mkdtemp(prefix="faults-cache-")
    environment = {"LIGHTLM_CACHE_DIR": cache}
  process = start(workdir, **environment)
  begun, reached = time.monotonic(), max(steps_logged(workdir), default=0)
  wanted = reached + rng.randint(1, EVERY)
  wait = rng.uniform(0, 4) if kind == "at start" else rng.uniform(0, 0.2)
  while process.poll() is None:
    if kind == "in a step" and max(steps_logged(workdir), default=0) >= wanted:
      break
    if kind == "in a save" and list(workdir.glob("checkpoints/*tmp*")):
      break
    if kind == "at start" or time.monotonic() - begun > 120:
      break
    time.sleep(0.005)
  time.sleep(wait if kind != "in a save" else rng.uniform(0, 0.02))
  process.kill()
  process.communicate()
  if cache:
    shutil.rmtree(cache)


def two_unbroken(folder: pathlib.Path) -> pathlib.Path:
  several.run(2, folder / "two")
  return folder / "two"


def trial_of_two(
  unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path
) -> str:
  """Kills one of two processes; the other ends in a line, and both go on."""
  workdir = folder / "run"
  victim = rng.randrange(2)
  running = several.start(2, workdir)
  try:
    several.wait_for_step(running, workdir, rng.randint(1, several.STEPS // 2))
    running[victim].kill()
    began = time.monotonic()
    other = running[1 - victim]
    out, err = other.communicate(timeout=90)
    seconds = time.monotonic() - began
  finally:
    for process in running:
      process.kill()
      process.communicate()
  said = [line for line in err.splitlines() if line.startswith("lightlm_jax: ")]
  assert seconds < 60, f"it ended after {seconds:.0f} s"
  assert "Traceback" not in out + err, err
  assert other.returncode in (2, 128 + signal.SIGTERM), (other.returncode, err)
  assert len(said) == 1, err
  assert f"process {victim}" in said[0], said
  several.run(2, workdir)
  assert several.journal(workdir) == several.journal(unbroken)
  return f"process {victim} of two, the other ended in a line"


KINDS = (
  Kind(
    "kills",
    f"a run of {STEPS} steps ends with the bits of the unbroken one",
    20,
    unbroken,
    trial,
    KILLS,
  ),
  Kind(
    "kills of two",
    "the other process ends within 60 s in a line, and both go on bit for bit",
    20,
    two_unbroken,
    trial_of_two,
  ),
)
