"""Mutates command lines: each does its work, or is refused with exit code 2.

They run in this process, as `python -m` runs a command; flags are defined anew each
time. Left out are several processes (--distributed), which jax can join once, and what
would take minutes: the benchmarks' work and a study's trainings are stubs.
"""

import contextlib
import importlib
import io
import os
import pathlib
import random
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import Any

from absl import app, flags
import jax
import pytest
import studies

from lightlm_jax import command_line
from lightlm_jax import config as config_lib
from lightlm_jax.benchmarks import command as bench
from lightlm_jax.runs import train
from lightlm_jax.studies import trials

from . import finished
from .suite import Kind

_DATA = "--config.data.name=shop --config.data.dir=data"
_POP = f"--config=demo:tiny --config.system=pop {_DATA}"
# Valid lines, which take a moment each.
LINES = [
  line.split()
  for line in (
    f"train {_POP} --workdir=new",
    f"train {_POP} --workdir=run --platform=cpu --distributed=off",
    f"train --config=bpr_mf:tiny {_DATA} --config.train.steps=2 --dry_run",
    "evaluate --workdir=run --split=validation --users=9 --report=found.json",
    "evaluate --workdir=run --batch_size=32 --strict --compare rival",
    "recommend --workdir=run --users=u1,u2 --k=3 --noexclude_seen --text",
    "recommend --workdir=run --history=i1,i2 --deny=i3 --allow=i4,i5",
    "recommend --workdir=run --all --output=recs.csv",
    "recommend --workdir=run --histories=data/shop --output=recs.csv --csv_safe",
    "report --workdir=run --compare rival --out=page.html --split=test",
    "report --workdir=study",
    f"audit --config=demo:tiny {_DATA} --report=audit.json",
    f"index --config=demo:tiny {_DATA} --export=ids.parquet --config.ids.kind=rid",
    "index --config=demo:tiny --help-config",
    "export --workdir=run --output=artefact --platforms=cpu --k=5 --exclusions=8",
    "prepare --input=log.csv --output=data/new --yes --time_unit=s --k_core=1",
    "prepare --input=log.csv --output=data/new --user=user --item=item --time_unit=ms",
    f"sweep {_POP} --vary=seed=1,2 --workdir=sweep --jobs=1 --platform=cpu",
    "bench decode --quick --parts=a --sizes=100 --folder=bench",
    "doctor --verify=run",
  )
]
WORDS = (
  "", "-", "--", "=", "--=", "0", "-1", "1.5", "1e9", "9" * 30, "nan", "inf", "None",
  "true", "x,y", ",", "日本", "\udcff", "a b", "'", "🎁", "../no/such", "run", "data",
  "log.csv", "/proc/none", "a" * 5_000, "--nonsense", "--nonsense=1",
  "--help", "--helpfull", "--flagfile=log.csv", "--undefok=workdir", "-v", "--config",
  "--config.train.steps=x", "--config.none=1", "--config.model=1", "--config=toys",
  "--nodry_run", "gs://bucket/x", "\n", "%s", "{}", "[1]", "*", "--workdir=rival",
)  # fmt: skip
_SECONDS = 30  # what a line may take; enormous numbers may be meant


def prepare(folder: pathlib.Path) -> pathlib.Path:
  """A folder with a log, a prepared one, two finished runs and a study's table."""
  with finished.at_home(folder), finished.hushed():
    finished.write_log(folder / "data")
    shutil.move(folder / "data" / "log.csv", folder / "log.csv")
    for name, system in (("run", "ease"), ("rival", "pop")):
      fields = {"system": system, "data.name": "shop", "baselines": ()}
      fields["data.dir"] = str(folder / "data")
      train.train(config_lib.load("demo", "tiny", fields), folder / name)
    # It makes folders in the home folder.
    importlib.import_module("matplotlib.font_manager")
    found = studies.rows(depths=(2, 4), widths=(32,))
    studies.write(folder / "study", found)
  app.define_help_flags()
  assert command_line.FLAGS is flags.FLAGS
  _others.update(flags.FLAGS)
  return folder


def trial(prepared: pathlib.Path, rng: random.Random, folder: pathlib.Path) -> str:
  """Runs a mutated line in a copy of the folder."""
  home = shutil.copytree(prepared, folder / "home")
  command, *words = rng.choice(LINES)
  for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
    mutate(words, rng)
  line = f"{command} {' '.join(words)!r:.300}"
  with _written() as written:
    code, said = run(command, words, home)
  assert "Traceback" not in said, f"{line}: {said[-500:]}"
  found = command in ("audit", "sweep", "doctor")  # something: 1, as they say
  assert code in ((0, 1, 2) if found else (0, 2)), f"{line}: {code}"
  if code == 2:
    errors = [text for text in said.splitlines() if "error: " in text]
    assert len(errors) == 1, f"{line}: {said[-500:]}"
  outside = [path for path in written if not path.startswith((str(folder), os.devnull))]
  assert not outside, f"{line} wrote {outside[:3]}"
  return {0: "done", 1: "done, something found", 2: "refused"}[code]


def mutate(words: list[str], rng: random.Random) -> None:
  """Changes one of the words."""
  place = rng.randrange(len(words))
  how = rng.randrange(7)
  if how == 0:
    del words[place]
  elif how == 1:
    words.insert(place, rng.choice(words))
  elif how == 2:
    other = rng.randrange(len(words))
    words[place], words[other] = words[other], words[place]
  elif how == 3:
    words[place] = words[place][: rng.randrange(len(words[place]) or 1)]
  elif how == 4:
    words.insert(place, rng.choice(WORDS))
  else:
    words[place] = words[place].partition("=")[0] + "=" + rng.choice(WORDS)
  words[:] = words or [rng.choice(WORDS)]


def run(command: str, words: list[str], home: pathlib.Path) -> tuple[Any, str]:
  """Runs a command in `home`, as `python -m` does; returns its exit code and words."""
  said = io.StringIO()
  (home / "tmp").mkdir()
  code: Any = 0
  with contextlib.ExitStack() as stack:
    out = stack.enter_context(finished.hushed())
    stack.enter_context(contextlib.redirect_stderr(said))
    stack.enter_context(finished.at_home(home))
    stack.enter_context(contextlib.chdir(home))
    is_over = stack.enter_context(_limited())
    stack.callback(_forget_flags)
    patch = stack.enter_context(pytest.MonkeyPatch.context())
    patch.setattr(tempfile, "tempdir", str(home / "tmp"))
    patch.setattr(trials, "start", lambda *_, **__: subprocess.Popen(["false"]))
    patch.setattr(bench, "run", lambda *_: None)
    patch.setattr(sys, "argv", [command, *words])
    jax.config.update("jax_platforms", "cpu")
    try:
      runpy.run_module(f"lightlm_jax.{command}", run_name="__main__")
    except SystemExit as end:
      code = end.code or 0
    except _TooLongError:
      pass
    if is_over:  # wherever it was stopped, nothing that it said then counts
      return 0, ""
  return code, said.getvalue() + out.printed.getvalue()


class _TooLongError(BaseException):
  """A line was still at work after `_SECONDS`, as one may that asks for much."""


@contextlib.contextmanager
def _limited():
  """Limits the time of the block, and the memory that it can ask for."""
  ended = []

  def end(*_):
    ended.append(True)
    raise _TooLongError

  limits = resource.getrlimit(resource.RLIMIT_AS)
  used = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
  most = used * resource.getpagesize() + 4 * 2**30
  before = signal.signal(signal.SIGALRM, end)
  signal.alarm(_SECONDS)
  resource.setrlimit(resource.RLIMIT_AS, (most, limits[1]))
  try:
    yield ended
  finally:
    resource.setrlimit(resource.RLIMIT_AS, limits)
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _forget_flags() -> None:
  """Leaves the flags that were there before any command."""
  if "config" in flags.FLAGS:  # absl shares parsers among flags, old and new
    parser: Any = flags.FLAGS["config"].parser
    parser.argument, parser.defaults = None, {}
  for name in set(flags.FLAGS) - _others:
    delattr(flags.FLAGS, name)
  flags.FLAGS.unparse_flags()
  for name in _others:
    if name in flags.FLAGS:
      flags.FLAGS[name].unparse()


_others: set[str] = set()  # flags of absl and Orbax


@contextlib.contextmanager
def _written():
  """Collects the paths that are written, made or removed in the block."""
  found: list[str] = []
  _watching.append(found)
  yield found
  _watching.remove(found)


_watching: list[list[str]] = []
_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")


def _watch(event: str, arguments: tuple) -> None:
  if not _watching:
    return
  if event == "open" and isinstance(arguments[0], str | bytes):
    path, _, opening = arguments
    if opening is not None and opening & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
      _watching[-1].append(os.path.abspath(os.fsdecode(path)))
  elif event in _CHANGES:
    _watching[-1].append(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_watch)

KINDS = (
  Kind("lines", "a mutated command line: exit code 0 or 2", 2_000, prepare, trial),
)
