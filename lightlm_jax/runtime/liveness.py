"""Ends a process of a run of several, in a line, soon after another one was lost.

jax itself notices a lost process after 100 seconds, or by a collective that fails, and
then ends with a traceback or aborts. Here each process counts up a number in the
coordinator's store, and reads those of the others.
"""

import ctypes
import os
import re
import signal
import sys
import threading
import time
from typing import Any

from jax._src import distributed  # the public interface has no key-value store

from lightlm_jax.runtime.errors import EXIT_CODE

BEAT_SECONDS = 5.0
LOST_SECONDS = 30.0  # without a new number; a process that swaps may be slow
_KEY = "lightlm_jax/alive/"
_ENDED = "ended"
# What collectives and jax's own service say if a process is gone.
_LOST = re.compile(
  r"gloo|nccl|connection (reset|closed|refused)|socket closed|unavailable|heartbeat|"
  "coordination|deadline_exceeded",
  re.I,
)
_stopped = threading.Event()
_kept: list[Any] = []  # the handler of SIGABRT, which C calls


def watch(rank: int, count: int) -> None:
  """Starts to watch the `count` processes of this run, of which this one is `rank`."""
  client = distributed.global_state.client
  arguments = client, rank, count
  threading.Thread(target=_watch, args=arguments, daemon=True, name="liveness").start()
  # jax aborts at once, from C++, where the process is gone that coordinates.
  handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: _aborted())
  _kept.append(handler)
  ctypes.CDLL(None).signal(signal.SIGABRT, handler)


def wait_if_lost(error: BaseException) -> None:
  """Waits until a lost process is named, and ends; returns if `error` is another."""
  if _kept and _LOST.search(str(error)):
    time.sleep(LOST_SECONDS + 2 * BEAT_SECONDS)


def stop(failed: bool) -> None:
  """Ends the watch. `failed`: this process counts as lost, and the others end too."""
  if _kept and not _stopped.is_set():
    _stopped.set()
    state = distributed.global_state
    if not failed and state.client is not None:
      state.client.key_value_set(f"{_KEY}{state.process_id}", _ENDED, True)


def _watch(client: Any, rank: int, count: int) -> None:
  number, others = 0, [other for other in range(count) if other != rank]
  last: dict[int, tuple[Any, float]] = {n: (None, time.monotonic()) for n in others}
  while not _stopped.wait(BEAT_SECONDS):
    number += 1
    try:
      client.key_value_set(f"{_KEY}{rank}", str(number), True)
      found = dict(client.key_value_dir_get(_KEY))
    except Exception:  # the coordinator is slow; if it is gone, jax aborts
      continue
    now = time.monotonic()
    for other in others:
      value = found.get(f"{_KEY}{other}")
      before, since = last[other]
      if value != before:
        last[other] = value, now
      elif value != _ENDED and now - since > LOST_SECONDS:
        _leave(f"process {other} has not been heard of for {LOST_SECONDS:.0f} s")


def _aborted() -> None:
  if _stopped.is_set():
    os._exit(EXIT_CODE)
  _leave("process 0, which coordinates, was lost")


def _leave(why: str) -> None:
  line = f"lightlm_jax: error: {why}; start all processes again to resume\n"
  sys.stdout.flush()
  os.write(2, line.encode())
  os._exit(EXIT_CODE)
