"""Scaling studies: many runs of varied configurations, and their joint analysis."""
