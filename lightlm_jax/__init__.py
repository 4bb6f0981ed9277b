"""Trains generative recommenders in JAX."""

import time

STARTED = time.monotonic()  # before jax is imported: what a person waits from
