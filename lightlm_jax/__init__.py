"""Trains generative recommenders in JAX, and recommends with them.

    import lightlm_jax

    model = lightlm_jax.Recommender.from_config("sasrec:tiny").fit(interactions)
    results = lightlm_jax.train("toys:small", "runs/toys")
    lightlm_jax.evaluate("runs/toys", split_name="validation")
    run = lightlm_jax.load("runs/toys")

Each of these names is imported when it is first used. The import of the package defines
no absl flags. To silence what is printed, see runtime/log.py.
"""

import importlib
import sys
from typing import TYPE_CHECKING

from lightlm_jax._version import __version__
from lightlm_jax.runtime import start_time, stops  # noqa: F401, before jax is imported

if TYPE_CHECKING:
  from lightlm_jax.runs.evaluate import evaluate
  from lightlm_jax.runs.recommender import Recommender
  from lightlm_jax.runs.restore import load
  from lightlm_jax.runs.train import train

# `python -m lightlm_jax.train` imports this package first, then jax, which is slow.
if sys.argv[:1] == ["-m"] and any(w.startswith(__name__) for w in sys.orig_argv):
  stops.exit_at_once()

__all__ = ["Recommender", "__version__", "evaluate", "load", "train"]

_MODULES = {
  "Recommender": "lightlm_jax.runs.recommender",
  "evaluate": "lightlm_jax.runs.evaluate",
  "load": "lightlm_jax.runs.restore",
  "train": "lightlm_jax.runs.train",
}


def __getattr__(name: str):
  if name in _MODULES:
    return getattr(importlib.import_module(_MODULES[name]), name)
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
