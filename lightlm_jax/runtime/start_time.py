"""When this process began: imported before jax, whose import people wait for too."""

import time

STARTED = time.monotonic()
