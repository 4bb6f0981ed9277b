"""Full and read-only disks, few descriptors, little memory: one line, and no loss."""

import contextlib
import pathlib
import random
import resource
import subprocess

from demo_training import ROOT, assert_same_end, command, finish, start, steps_logged

from .kills import unbroken
from .suite import Kind


def trial(unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path) -> str:
  """Trains on a disk of a random size until it is full, then with room again."""
  size = sum(p.stat().st_size for p in unbroken.rglob("*") if p.is_file())
  with disk(folder / "disk", rng.uniform(0.01, 0.9) * size) as make_room:
    workdir = folder / "disk" / "run"
    said, code = ended(workdir)
    reached = max(steps_logged(workdir), default=0)
    if code:
      refused(said, code)
      assert not list(workdir.glob("checkpoints/*tmp*"))
    make_room()
    finish(workdir)
    assert_same_end(unbroken, workdir)
  if not code:
    return "room enough"
  return "before the first step" if not reached else "in training"


@contextlib.contextmanager
def disk(folder: pathlib.Path, size: float):
  """A disk of so many bytes, and a function that makes room; needs root on Linux."""
  folder.mkdir()
  options = f"size={max(int(size), 4096)}"
  subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)

  def remount(options="size=1g"):
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

  try:
    yield remount
  finally:
    subprocess.run(["umount", folder], check=True)


def ended(workdir: pathlib.Path, before=None) -> tuple[str, int]:
  """Returns what a training said, and its exit code; `before` sets its limits."""
  done = subprocess.run(
    command(workdir),
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=300,
    preexec_fn=before,
  )
  return done.stdout, done.returncode


def refused(said: str, code: int) -> None:
  lines = [line for line in said.splitlines() if "lightlm_jax: error:" in line]
  assert code == 2, (code, said)
  assert len(lines) == 1, said
  assert "Traceback" not in said, said


def trial_of_limits(
  unbroken: pathlib.Path, rng: random.Random, folder: pathlib.Path
) -> str:
  """Trains within a limit, which ends it or not, then without."""
  kind = rng.choice(("read-only", "descriptors", "memory", "file size"))
  with disk(folder / "disk", 2**30) as remount:
    workdir = folder / "disk" / "run"
    if kind == "read-only":
      process = start(workdir)
      wanted = rng.randint(1, 100)
      while process.poll() is None and max(steps_logged(workdir), default=0) < wanted:
        pass
      with contextlib.suppress(
        subprocess.CalledProcessError
      ):  # a file is being written
        remount("ro")
      said, _ = process.communicate(timeout=300)
      code = process.returncode
      remount("rw")
    else:
      name, value = {
        "descriptors": (resource.RLIMIT_NOFILE, rng.randint(16, 200)),
        "memory": (resource.RLIMIT_AS, rng.randint(2**29, 2**33)),
        "file size": (resource.RLIMIT_FSIZE, rng.randint(100, 300_000)),
      }[kind]
      limit = lambda: resource.setrlimit(name, (value, value))  # noqa: E731
      said, code = ended(workdir, limit)
    if code and kind != "memory":  # without memory, libraries end as they like
      refused(said, code)
    finish(workdir)
    assert_same_end(unbroken, workdir)
  return f"{kind}: {'ended' if code else 'enough'}"


KINDS = (
  Kind("disks", "a full disk is a line; then the same bits", 20, unbroken, trial),
  Kind(
    "limits",
    "read-only, few descriptors, little memory: a line; then the same bits",
    12,
    unbroken,
    trial_of_limits,
  ),
)
