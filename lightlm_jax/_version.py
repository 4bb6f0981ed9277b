"""The version, in one place: setup.cfg reads it here, without an import."""

__version__ = "0.2.0"
