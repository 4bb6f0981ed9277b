"""Trains generative recommenders in JAX."""

import time

STARTED = time.monotonic()  # before jax is imported: what a person waits from

__all__ = ["STARTED", "Recommender"]


def __getattr__(name: str):
  """Recommender, whose imports take seconds, for those who ask for it."""
  if name == "Recommender":
    from lightlm_jax.runs.recommender import Recommender  # noqa: PLC0415

    return Recommender
  raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
