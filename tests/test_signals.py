"""A first and a second signal to stop, and how soon a command ends after one."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from lightlm_jax.runtime import signals as signals_lib
from lightlm_jax.runtime import stops
from lightlm_jax.runtime.errors import Stopped


def test_two_signals_at_once_count_as_one(monkeypatch):
  signals = signals_lib.Signals()
  monkeypatch.setattr(signals_lib.time, "monotonic", lambda: clock)
  clock = 10.0
  with signals.deferred():
    signals.handle(signal.SIGTERM, None)
    clock = 10.5
    signals.handle(signal.SIGTERM, None)
    assert signals.received == signal.SIGTERM
    clock = 13.0
    with pytest.raises(Stopped):  # a later second signal is not deferred
      signals.handle(signal.SIGINT, None)


# A command whose work is one long call of C, as a compilation is: no handler is called.
WORKS = """
import hashlib, os, sys, threading, time, types
# It imports jax, which this test can do without.
processes = types.ModuleType("processes")
processes.several = lambda: False
sys.modules["lightlm_jax.runtime.processes"] = processes
from lightlm_jax.runtime import errors, signals, stops

stops.SECONDS = 0.2
stops.exit_at_once()

class Falls:
  def __del__(self, kill=os.kill, pid=os.getpid(), number=int(sys.argv[1])):
    kill(pid, number)

def works(millions):
  threading.Timer(0.1, os.kill, (os.getpid(), int(sys.argv[1]))).start()
  hashlib.pbkdf2_hmac("sha256", b"", b"", millions * 10**6)

def main(argv):
{body}

code = stops.limited(lambda: errors.run(main, sys.argv))
print("the end", flush=True)
sys.exit(code)
"""
NOTHING_TO_SAVE = "  works(1_000)"
BEFORE_THE_FIRST_STEP = """
  with signals.capture_signals() as found, found.deferred():
    with found.immediate(saves=False):
      works(1_000)
"""
IN_A_DESTRUCTOR = """
  Falls()
  time.sleep(60)
"""
IN_TRAINING = """
  with signals.capture_signals() as found, found.deferred():
    works(4)
    print("saved", flush=True)
"""


def works(body, number):
  return subprocess.run(
    [sys.executable, "-c", WORKS.replace("{body}", body), str(int(number))],
    env=os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parent.parent)},
    capture_output=True,
    text=True,
    timeout=60,
  )


@pytest.mark.parametrize(
  "body", [NOTHING_TO_SAVE, BEFORE_THE_FIRST_STEP, IN_A_DESTRUCTOR]
)
@pytest.mark.parametrize(
  ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")]
)
def test_a_signal_ends_a_command_in_the_midst_of_a_compilation(body, number, name):
  done = works(body, number)
  assert done.returncode == 128 + number
  assert done.stderr == f"lightlm_jax: stopped by {name}; start again to resume\n"
  assert done.stdout == ""


def test_a_signal_after_the_work_changes_nothing():
  done = works("  sys.last = Falls()", signal.SIGTERM)
  assert (done.returncode, done.stdout, done.stderr) == (0, "the end\n", "")


def test_a_state_is_saved_first_and_that_it_takes_time_is_said():
  done = works(IN_TRAINING, signal.SIGTERM)
  waits, stopped = done.stderr.splitlines()
  assert "SIGTERM: stops after the work at hand, such as a compilation" in waits
  assert stopped == "lightlm_jax: stopped by SIGTERM; start again to resume"
  assert done.stdout == "saved\nthe end\n"
  assert done.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", stops.HANDLED)
@pytest.mark.parametrize("arguments", [["lightlm_jax.train"], ["lightlm_jax", "train"]])
def test_a_signal_ends_a_command_that_is_importing(tmp_path, number, arguments):
  jax = "import os, time\nos.kill(os.getpid(), {})\ntime.sleep(60)\n"
  (tmp_path / "jax.py").write_text(jax.format(int(number)))
  root = pathlib.Path(__file__).parent.parent
  done = subprocess.run(
    [sys.executable, "-m", *arguments],
    env=os.environ | {"PYTHONPATH": f"{tmp_path}:{root}"},
    cwd=root,
    capture_output=True,
    text=True,
    timeout=30,
  )
  assert done.returncode == 128 + number
  assert "stopped by" in done.stderr
  assert done.stderr.count("\n") == 1


def test_handlers_and_the_pipe_of_signals_are_as_before_after_a_command():
  before = [signal.getsignal(number) for number in stops.HANDLED]
  assert stops.limited(lambda: 3) == 3
  assert [signal.getsignal(number) for number in stops.HANDLED] == before
  assert signal.set_wakeup_fd(-1) == -1
