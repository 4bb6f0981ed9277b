"""The time at which this process starts; import it before jax, whose import is slow."""

import time

STARTED = time.monotonic()
