"""Faults that are planted in the package are found by the suite; without them none is."""
