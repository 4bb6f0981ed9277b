"""A log of any common form into the project's own: `python -m lightlm_jax.prepare`."""
