"""The time when this process started; import it before jax, so that counts as well."""

import time

STARTED = time.monotonic()
