"""Studies of many runs: what size, shape and data do to a model."""
