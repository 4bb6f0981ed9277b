"""Scaling studies: many runs of one configuration, and what they say together."""
