"""The time when this process started; import it before jax, to include jax's import."""

import time

STARTED = time.monotonic()
