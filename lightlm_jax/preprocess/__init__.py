"""Converts a log of any common format to shards: `python -m lightlm_jax.prepare`."""
