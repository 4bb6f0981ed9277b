"""The console script: what it lists, runs and refuses."""

import functools
import os
import pathlib
import subprocess
import sys

import commands
import pytest

ROOT = pathlib.Path(__file__).parent.parent
COMMANDS = ("train", "evaluate", "recommend", "prepare", "index", "audit")
COMMANDS += ("report", "sweep", "bench", "export", "config")


lightlm = functools.partial(commands.run, "lightlm_jax")


def test_help_lists_every_command_in_a_line():
  done = lightlm("--help")
  assert done.returncode == 0, done.stderr
  lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
  about = {words[0]: words[1] for words in lines if words and words[0] in COMMANDS}
  assert set(about) == set(COMMANDS)
  assert all(len(line) <= 88 for line in done.stdout.splitlines())


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["trian"], "there is no command 'trian' (did you mean train?)"),
    ([], "no command"),
    (["config", "tois"], "did you mean toys?"),
    (["config"], "no config; give --config="),
    (["report"], "no run; give --workdir=RUN"),
    (["evaluate", "--compare=A,B"], "the others to --compare"),
  ],
)
def test_a_slip_is_one_line(arguments, message):
  done = lightlm(*arguments)
  assert done.returncode == 2
  (line,) = done.stderr.splitlines()
  assert message in line


def test_a_command_shows_its_own_flags():
  done = lightlm("index", "--help")
  assert done.returncode == 0, done.stderr
  for text in ("Builds the ids", "--figure", "--config", "--[no]help-config"):
    assert text in done.stdout


def test_fields_are_printed_with_value_range_and_default(tmp_path):
  done = lightlm("config", "demo:tiny", "--config.train.steps=7", cwd=tmp_path)
  assert done.returncode == 0, done.stderr
  head, *rows = done.stdout.splitlines()
  assert head.split() == ["field", "value", "default", "range", "meaning"]
  found = {row.split()[0]: row.split()[1] for row in rows}
  assert found["train.steps"] == "7"
  assert found["data.name"] == "'demo'"
  assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_left_is_no_error():
  command = f"{sys.executable} -m lightlm_jax config demo:tiny"
  done = subprocess.run(
    f"({command}; echo exit code $? >&2) | true",
    shell=True,
    env=os.environ | {"PYTHONPATH": str(ROOT)},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.stderr == "exit code 141\n"
