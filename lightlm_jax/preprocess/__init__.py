"""Converts a log of any common format: `python -m lightlm_jax.prepare`."""
